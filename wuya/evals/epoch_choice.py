"""SFT checkpoints chosen by a reward's score of held-out answers (InstructGPT, arXiv:2203.02155, section 3.5 and C.1).

"We choose our final SFT model based on the RM score on the validation set": after each epoch the model answers the
prompts of the validation demonstrations, and the epoch whose answers score highest ships. Validation loss says
something else: in the paper it rises after one epoch of 16, while the answers still get better.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch

from wuya.console import say, warn
from wuya.errors import DataError
from wuya.evals.heldout import measure
from wuya.files import to_json, write_atomic
from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams, draw_seeds
from wuya.models.decoder import Decoder
from wuya.records import Demonstration
from wuya.rlhf.rewards import load_reward, max_length_of
from wuya.tokenizer.bpe import Tokenizer
from wuya.tokenizer.chat_format import encode_prompt
from wuya.training import distributed
from wuya.training.early_choice import Choice
from wuya.training.run import Run

MISSING_EOS_PENALTY = 1.0
"""An answer that does not end scores min(score, 0) less this, as PPO's default has it."""


class ChoiceSettings(Protocol):
    """What `wuya sft` is told about the choice."""

    @property
    def choose_by(self) -> str:
        """A reward, named as for `wuya ppo`."""
        ...

    @property
    def num_choice_prompts(self) -> int:
        """Prompts to answer, or all there are."""
        ...

    @property
    def sample_tokens(self) -> int:
        """Most tokens of an answer."""
        ...

    @property
    def seed(self) -> int:
        """Seeds the answers."""
        ...


class EpochChoice:
    """Held-out prompts, the reward that scores answers to them, and the best epoch so far."""

    def __init__(
        self,
        settings: ChoiceSettings,
        model: Decoder,
        tokenizer: Tokenizer,
        held_out: Sequence[Demonstration],
        training: Sequence[Demonstration],
    ) -> None:
        """
        Args:
            held_out: demonstrations whose prompts are answered, the first ones that leave room for an answer.
            training: demonstrations, which must have other prompts.

        Raises: DataError when a held-out prompt is a training prompt, or none leaves room for an answer.
        """
        known = {(one.prompt.messages, one.prompt.tools) for one in training}
        if shared := [one.prompt.id for one in held_out if (one.prompt.messages, one.prompt.tools) in known]:
            raise DataError(
                f"{len(shared)} of {len(held_out)} validation demonstrations have prompts that are learned from",
                found=", ".join(shared[:3]),
                hint="`choose_by` needs other prompts: take them out of one of the two files",
            )
        encoded = [encode_prompt(tokenizer, one.prompt) for one in held_out]
        self.score = load_reward(settings.choose_by, tokenizer, device=model.device)
        readable = min(model.config.context_length, max_length_of(self.score) or model.config.context_length)
        room = readable - settings.sample_tokens
        self.prompts = [ids for ids in encoded if len(ids) <= room][: settings.num_choice_prompts]
        if not self.prompts:
            raise DataError(
                f"no validation prompt leaves room for an answer of {settings.sample_tokens} tokens",
                found=f"a context of {readable} tokens, the reward's included",
                hint="lower `--sample_tokens`",
            )
        if left_out := sum(len(ids) > room for ids in encoded):
            warn(
                f"{left_out:,} of {len(encoded):,} validation prompts are left out of the choice: with an answer of "
                f"{settings.sample_tokens} tokens they are longer than {readable} tokens, the shorter of the model's "
                "context and the reward's"
            )
        self.tokenizer = tokenizer
        self.sampling = SamplingParams(max_tokens=settings.sample_tokens)
        self.seed = settings.seed
        self.choice = Choice(judge=f"`{settings.choose_by}`")

    def restore(self, run: Run, state: Mapping[str, Any] | None) -> None:
        """The choice as the run's last checkpoint remembers it."""
        if state and "choice" in state:
            self.choice.load_state_dict(state["choice"])
        if self.choice.best:
            run.chosen_step = int(self.choice.best["step"])

    def look(self, run: Run, step: int, model: Decoder, autocast: AbstractContextManager[object]) -> bool:
        """Answer, score and log after `step` updates; whether it is the best epoch so far, to be saved and kept."""
        rows_of_rank = list(distributed.local_rows(len(self.prompts)))
        mine = [self.prompts[row] for row in rows_of_rank]
        seeds_B = draw_seeds(len(self.prompts), torch.Generator().manual_seed(self.seed))  # whatever the ranks' number
        was_training = model.training
        model.eval()
        with autocast:
            found = Engine(model, self.tokenizer).generate(mine, self.sampling, seeds=seeds_B[rows_of_rank].tolist())
            generations = [samples[0] for samples in found]
            answers = [list(generation.token_ids) for generation in generations]
            scores_B = self.score(mine, answers) if mine else torch.zeros(0)
        model.train(was_training)
        metrics, rows = measure(
            self.tokenizer, mine, answers, scores_B=scores_B, missing_eos_penalty=MISSING_EOS_PENALTY,
            finished=[generation.finish_reason == "stop" for generation in generations],
        )  # fmt: skip
        run.log(step, metrics)
        run.sample(step, rows)
        best = self.choice.consider(step, metrics)
        say(f"step {step}: held-out answers score {metrics['eval/score']:+.3f} [{metrics['eval/score_low']:+.3f}, "
            f"{metrics['eval/score_high']:+.3f}]{', the best so far' if best else ''}")  # fmt: skip
        if best:
            run.chosen_step = step
        return best

    def report(self, out: Path) -> None:
        """Say which epoch ships and why, and write it to summary.json."""
        if distributed.is_main():
            write_atomic(out / "summary.json", to_json({"choice": self.choice.summary()}, indent=2) + "\n")
            say(self.choice.verdict())
