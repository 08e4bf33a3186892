"""The run folder around PPO and GRPO: resume, alarms, samples to look at, held-out evaluations, checkpoints, final KL.

with PolicyRun(config, source, trained, verb="ppo", export=models.export, num_updates=config.total_updates) as run:
    for update in run.updates():
        rollouts = source.sample(update, config.rollout_batch_size)
        metrics = run.measure(update, rollouts, final_scores_B)
        if not run.stopped:
            ...                                            # learn
        run.end(update, rollouts, metrics)
    run.finish(config.final_kl_prompts)
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from wuya.checkpoints.checkpoint import save_checkpoint
from wuya.console import Progress, say, warn
from wuya.errors import CheckpointError
from wuya.evals.heldout import held_out, look, report_choice, restore_choice
from wuya.evals.heldout_metrics import HELDOUT_METRICS
from wuya.files import to_json, write_atomic
from wuya.models.decoder import Decoder
from wuya.rlhf.episodes import EpisodeSource
from wuya.rlhf.ppo_metrics import GROUP_METRICS, PPO_METRICS, Alarms
from wuya.rlhf.rollout_engine import sampling_choices
from wuya.rlhf.rollout_metrics import rollout_metrics
from wuya.rlhf.rollouts import Rollouts
from wuya.rlhf.trained_model import TrainedModel
from wuya.training import distributed
from wuya.training.early_choice import Choice
from wuya.training.run import Run, is_due


def kl_tolerance(dtype: torch.dtype) -> float:
    """How far "the KL is 0" and "the ratio is 1" may be off before the first step; bf16 depends on shapes."""
    return 1e-4 if dtype == torch.float32 else 2e-2


class PolicyRun:
    """Everything of a policy's run that is not the algorithm."""

    def __init__(
        self,
        config: Any,
        source: EpisodeSource,
        trained: Mapping[str, TrainedModel],
        *,
        verb: str,
        export: Callable[[], Decoder],
        num_updates: int,
        untrained_updates: int = 0,
        ship_average: bool = True,
        provenance: Mapping[str, object] | None = None,
    ) -> None:
        """
        Args:
            config: of `wuya ppo` or `wuya grpo`, whose names for the same things are the same.
            trained: what learns, `policy` among it; saved for a resumed run.
            export: the policy as an ordinary model.
            num_updates: with those in which only a value model learns.
            untrained_updates: updates that are over before the policy has learned: its KL must still be 0 after them.
            ship_average: save the moving average of the policy's weights, where it keeps one.
            provenance: more of the recipe for the checkpoint's wuya.json.
        """
        self.config, self.source, self.trained, self.verb = config, source, trained, verb
        self.export, self.num_updates, self.untrained_updates = export, num_updates, untrained_updates
        self.ship_average, self.provenance = ship_average, dict(provenance or {})
        self.kl_coef: float = config.kl_coef
        """Score given up per nat of KL; PPO may adapt it."""
        self.stopped = False
        """The KL is above `max_kl`: nothing more is learned."""
        self.alarms, self.choice = Alarms(), Choice(max_kl=config.max_choice_kl)
        self.heldout = held_out(
            source, config.evaluation_prompts, num_prompts=config.num_evaluation_prompts,
            reward=config.evaluation_reward, max_prompt_tokens=config.max_prompt_tokens,
            missing_eos_penalty=config.missing_eos_penalty,
        )  # fmt: skip
        self.run = Run(config.out, config, resume=config.resume, verb=verb, keep_last_n=config.keep_last_n,
                       metrics={**PPO_METRICS, **GROUP_METRICS, **HELDOUT_METRICS},
                       kernels=sampling_choices(source.engine))  # fmt: skip
        self._done = 0
        self._clock = self._sampling_seconds = 0.0

    def __enter__(self) -> Self:
        self.run.__enter__()
        try:
            loaded = self.run.load_state(map_location=self.source.device)
            if loaded is not None:
                self._restore(*loaded)
            elif self.heldout:  # the starting policy, to compare with
                look(self.run, self.heldout, self.choice, 0, choose=False, weights=nullcontext())
        except BaseException as error:
            self.run.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run.__exit__(kind, error, trace)

    def _restore(self, done: int, state: Mapping[str, Any]) -> None:
        if "trained" not in state:
            raise CheckpointError(
                f"`{self.config.out}` was saved by an older wuya, in a layout that this one can't resume",
                hint=f"start it again: `wuya {self.verb} --config {self.config.out}/config.yaml --out "
                f"{self.config.out}-2`",
            )
        for name, model in self.trained.items():
            model.load_state_dict(state["trained"][name])
        self.kl_coef, self.stopped, self._done = state["kl_coef"], bool(state["stopped"]), done
        self.alarms.load_state_dict(state["alarms"])
        restore_choice(self.run, self.choice, state, choose=self.config.choose == "best")

    def _state(self) -> dict[str, Any]:
        trained = {name: model.state_dict() for name, model in self.trained.items()}
        return {"trained": trained, "kl_coef": self.kl_coef, "stopped": self.stopped,
                "alarms": self.alarms.state_dict(), "choice": self.choice.state_dict()}  # fmt: skip

    def updates(self) -> Iterator[int]:
        """Numbers of the updates that are left, until the last or until `stopped`."""
        with Progress(self.num_updates, self.verb, unit="update", start=self._done) as self._progress:
            for update in range(self._done, self.num_updates):
                if self.stopped:
                    return
                self._clock = time.perf_counter()
                yield update

    def measure(
        self, update: int, rollouts: Rollouts, final_scores_B: Tensor, returns_BT: Tensor | None = None
    ) -> dict[str, float]:
        """Metrics of sampled episodes, over all ranks; sets `stopped` when their KL is above `max_kl`.

        Args:
            final_scores_B: scores after the rule for missing end tokens.
            returns_BT: targets of the value model, if there is one.
        """
        self._sampling_seconds = time.perf_counter() - self._clock
        metrics = rollout_metrics(
            rollouts, final_scores_B=final_scores_B, returns_BT=returns_BT, kl_coef=self.kl_coef,
            reencodes=self.source.reencodes,
        )  # fmt: skip
        if update <= self.untrained_updates:  # the policy is still the reference
            assert abs(metrics["objective/kl_per_token"]) < kl_tolerance(self.source.dtype), (
                "KL is not 0 before the first update"
            )
        self.stopped = 0 < self.config.max_kl < metrics["objective/kl"]
        if self.stopped:
            kl = metrics["objective/kl"]
            say(f"KL is {kl:.2f} nats an answer, above max_kl {self.config.max_kl}: stopping")
        return metrics

    def end(self, update: int, rollouts: Rollouts, metrics: dict[str, float]) -> None:
        """Log an update, show samples, evaluate on held-out prompts and save, each when it is due."""
        config, step = self.config, update + 1
        self.run.require_finite(step, **metrics)
        seconds = time.perf_counter() - self._clock
        metrics = metrics | {
            "episodes": step * config.rollout_batch_size,
            "eps": config.rollout_batch_size / seconds,
            "time/sampling": self._sampling_seconds,
            "time/training": seconds - self._sampling_seconds,
        }
        alarms = self.alarms.check(metrics)
        self.run.log(step, {**metrics, "alarms": alarms})
        if distributed.is_main():
            for alarm in alarms:
                warn(f"update {step}: {alarm}")
        if config.show_samples_every and update % config.show_samples_every == 0:
            self.run.sample(step, self.source.show(rollouts))
        self._progress.update(1, score=metrics["objective/scores"], kl=metrics["objective/kl"])
        last = step if self.stopped else self.num_updates
        best = False
        if self.heldout and is_due(step, config.evaluation_every, last):
            best = look(self.run, self.heldout, self.choice, step, choose=config.choose == "best",
                        weights=self._shipped())  # fmt: skip
        if self.run.save_is_due(step, every=config.save_every, last=last) or best:
            self.run.save(step, self._save_policy, self._state())

    def _shipped(self) -> AbstractContextManager[None]:
        """Inside the block the policy has the weights that are saved."""
        return self.trained["policy"].averaged() if self.ship_average else nullcontext()

    def _save_policy(self, folder: Path) -> None:
        config = self.config
        extra = {"prompts": str(config.prompts), **self.provenance, "kl_coef": self.kl_coef}
        with self._shipped():
            save_checkpoint(folder, self.export(), self.source.tokenizer, recipe=self.verb,
                            parents={"policy": config.policy, "reward": config.reward}, extra=extra)  # fmt: skip

    def finish(self, num_prompts: int, *, names: tuple[str, ...] = (), **extra: object) -> None:
        """Write summary.json about exactly the weights that ship, and report.html.

        Args:
            num_prompts: prompts answered to measure their KL and score; 0 skips it.
            names: `objective/` metrics to add to the usual ones; extra: more entries.
        """
        if self.run.chosen_step is not None or not num_prompts:
            if self.run.chosen_step is not None and self.heldout:
                report_choice(self.config.out, self.choice, num_prompts=self.heldout.num_prompts)
            self.run.finish()
            return
        with self._shipped():
            rollouts = self.source.sample(self.num_updates, num_prompts)
        metrics = rollout_metrics(
            rollouts, final_scores_B=rollouts.scores_B, kl_coef=self.kl_coef, reencodes=self.source.reencodes
        )
        averaged = self.ship_average and self.trained["policy"].ema is not None
        summary = {
            "kl": {"per_response": metrics["objective/kl"], "per_token": metrics["objective/kl_per_token"]},
            "score": metrics["objective/scores"],
            **{name: metrics[f"objective/{name}"] for name in ("eos_share", "length", *names)},
            "n": num_prompts * self.source.num_samples,
            "weights": "ema" if averaged else "last",
            **extra,
        }
        with distributed.only_main("write summary.json") as main:
            if main:
                write_atomic(self.config.out / "summary.json", to_json(summary, indent=2) + "\n")
                say(f"the saved policy: {metrics['objective/kl']:.2f} nats of KL per answer, "
                    f"score {metrics['objective/scores']:+.2f}")  # fmt: skip
        self.run.finish()
