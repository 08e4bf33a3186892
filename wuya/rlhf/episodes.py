"""Where PPO's episodes come from: the next prompts in a seeded order, answered and scored; and how to look at them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from wuya.console import say
from wuya.inference.engine import Engine
from wuya.inference.sampling import SamplingParams, draw_seeds
from wuya.models.protocols import LanguageModel, TokenValues
from wuya.rlhf.rollouts import Rollouts, Score, sample_rollouts
from wuya.tokenizer.bpe import Tokenizer
from wuya.training import distributed


@dataclass(frozen=True, kw_only=True)
class EpisodeSource:
    """Samples and scores episodes. Stateless: episode g of update u depends on (seed, u, g) and the weights only,
    whichever process samples it."""

    engine: Engine
    """Generates with the policy's weights of the moment."""
    tokenizer: Tokenizer
    prompts: Sequence[Sequence[int]]
    """Token ids, the generation prompt at their end."""
    prompt_names: Sequence[str]
    """Ids of the prompts in the data."""
    sampling: SamplingParams
    policy: LanguageModel
    reference: LanguageModel
    value_model: TokenValues
    score: Score
    seed: int
    microbatch_tokens: int
    device: torch.device
    dtype: torch.dtype
    num_samples: int = 1
    """Completions of each prompt, neighbours in the rollouts: 1 for PPO, the group of RLOO and GRPO."""

    def sample(self, update: int, num_prompts: int, *, attempt: int = 0, rows: Sequence[int] | None = None) -> Rollouts:
        """This rank's share of the episodes of one update: `num_samples` for each of `num_prompts`, over all ranks.

        Args:
            attempt: above 0, prompts of other places and fresh samples for the same update.
            rows: which of this rank's prompts; None is all of them.
        """
        places = self.places(update, num_prompts, attempt=attempt)
        seeds = self.seeds(update, num_prompts, attempt=attempt)
        if rows is not None:
            seeds = [seeds[row * self.num_samples + number] for row in rows for number in range(self.num_samples)]
            places = [places[row] for row in rows]
        mine = [self.prompts[place] for place in places]
        with self.autocast():
            return sample_rollouts(
                self.engine,
                mine,
                sampling=self.sampling,
                num_samples=self.num_samples,
                seeds=seeds,
                policy=self.policy,
                reference=self.reference,
                value_model=self.value_model,
                score=self.score,
                pad_id=self.tokenizer.pad_id,
                microbatch_tokens=self.microbatch_tokens,
                keep_sampled_logprobs=self.dtype == torch.float32,
                device=self.device,
            )

    def seeds(self, update: int, num_prompts: int, *, attempt: int = 0) -> list[int]:
        """Seeds of this rank's episodes, out of those of all episodes of the update."""
        retry = (attempt,) if attempt else ()
        generator = torch.Generator().manual_seed(_mixed_seed(self.seed, update, 0, *retry))
        seeds_PK = draw_seeds(num_prompts * self.num_samples, generator).view(num_prompts, self.num_samples)
        mine: list[int] = seeds_PK[list(distributed.local_rows(num_prompts))].flatten().tolist()
        return mine

    def places(self, update: int, num_prompts: int, *, attempt: int = 0) -> list[int]:
        """Which prompts this rank answers: every epoch is all prompts, in an order of its own (and of each attempt)."""
        positions = [update * num_prompts + row for row in distributed.local_rows(num_prompts)]
        epochs = [divmod(position, len(self.prompts)) for position in positions]
        seed = _mixed_seed(self.seed, attempt) if attempt else self.seed
        return [_order(seed, epoch, len(self.prompts))[place] for epoch, place in epochs]

    def names(self, update: int, num_prompts: int) -> list[str]:
        """Prompt ids of this rank's episodes of one update."""
        return [self.prompt_names[place] for place in self.places(update, num_prompts) for _ in range(self.num_samples)]

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Matrix products in the run's dtype."""
        with distributed.autocast(self.device, self.dtype):
            yield

    def reencodes(self, completion: Sequence[int]) -> bool:
        """Whether a completion's text gives back the tokens that were sampled (specials aside)."""
        specials = set(self.tokenizer.special_ids.values())
        ids = [token for token in completion if token not in specials]
        return self.tokenizer.encode(self.tokenizer.decode(ids)) == ids

    def show(self, rollouts: Rollouts, count: int = 3) -> list[dict[str, object]]:
        """Print the first episodes with score and KL, always look at text; and return them as rows."""
        rows: list[dict[str, object]] = []
        for row in range(min(count, len(rollouts.scores_B))):
            shown = {
                "prompt": self.tokenizer.decode(rollouts.prompt(row)),
                "completion": self.tokenizer.decode(rollouts.completion(row)),
                "score": round(float(rollouts.scores_B[row]), 3),
                "kl": round(float(rollouts.kl_B[row]), 3),
            }
            say(f"score {shown['score']:+.2f}  kl {shown['kl']:.2f}  {shown['prompt']!r} -> {shown['completion']!r}")
            rows.append(dict(shown))
        return rows


_orders: dict[tuple[int, int, int], list[int]] = {}


def _order(seed: int, epoch: int, count: int) -> list[int]:
    key = (seed, epoch, count)
    if key not in _orders:
        _orders.clear()
        _orders[key] = np.random.default_rng([seed, epoch]).permutation(count).tolist()
    return _orders[key]


def _mixed_seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
