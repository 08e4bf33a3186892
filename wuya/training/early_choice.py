"""Which checkpoint of a run ships: the last, or the best on held-out prompts by a rule that is stated and logged.

choice = Choice(max_kl=10.0)
if choice.consider(step, {"eval/judged": ..., "eval/kl": ...}):   # the best so far
    run.chosen_step = step                                        # its checkpoint is kept and shipped
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wuya.config import require_positive
from wuya.console import warn
from wuya.errors import ConfigError


def require_held_out_settings(config: Any) -> None:
    """Refuse fields about held-out evaluation that cannot work, and warn of those without effect; for `__post_init__`.

    Args:
        config: has evaluation_prompts, evaluation_every, num_evaluation_prompts, evaluation_reward, choose and
            max_choice_kl, as `wuya.recipes.ppo.PPOConfig` documents them.
    """
    require_positive(config, "num_evaluation_prompts")
    for name in ("evaluation_every", "max_choice_kl"):
        if getattr(config, name) < 0:
            raise ConfigError(f"`{name}` must not be negative", found=str(getattr(config, name)))
    if config.choose == "best" and config.evaluation_prompts is None:
        raise ConfigError("`choose=best` needs held-out prompts", hint="add `--evaluation_prompts heldout.jsonl`")
    if config.evaluation_reward and config.evaluation_prompts is None:
        warn("`evaluation_reward` has no effect without `evaluation_prompts`")
    if config.max_choice_kl and config.choose == "last":
        warn("`max_choice_kl` has no effect with `choose=last`")


@dataclass(slots=True)
class Choice:
    """The best of the evaluated steps so far.

    The rule: among steps whose KL is within the limit, the highest mean score; while no step is within it, the lowest
    KL. Ties go to the earlier step. Step 0, the starting policy, is remembered but never chosen.
    """

    max_kl: float = 0.0
    """nats an answer; 0 sets no limit."""
    judge: str = "the training reward"
    """Whose score decides where there is no other judge, for messages."""
    start: dict[str, float] = field(default_factory=dict)
    """Metrics of the starting policy."""
    best: dict[str, float] = field(default_factory=dict)
    """Metrics of the chosen step, with `step`."""

    def consider(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Take in an evaluation; whether it is the best so far."""
        if step == 0:
            self.start = dict(metrics)
            return False
        if self.best and self._key(metrics) <= self._key(self.best):
            return False
        self.best = {**metrics, "step": step}
        return True

    def _key(self, metrics: Mapping[str, float]) -> tuple[bool, float]:
        kl = metrics.get("eval/kl", 0.0)
        within = not self.max_kl or kl <= self.max_kl
        return within, self.score(metrics) if within else -kl

    @staticmethod
    def score(metrics: Mapping[str, float]) -> float:
        """What is compared: the other judge's score where there is one."""
        return metrics.get("eval/judged", metrics["eval/score"])

    def rule(self) -> str:
        """In words, with what came of it."""
        judge = "the evaluation reward" if "eval/judged" in self.best else self.judge
        limit = f" with at most {self.max_kl:g} nats of KL an answer" if self.max_kl else ""
        return f"the highest mean held-out score by {judge}{limit}"

    def verdict(self) -> str:
        """One line about the chosen step, beside the starting policy."""
        kl = f", {self.best['eval/kl']:.2f} nats of KL" if "eval/kl" in self.best else ""
        text = f"step {int(self.best['step'])} ships: {self.rule()}, {self.score(self.best):+.3f}{kl}"
        return text + (f" (before training {self.score(self.start):+.3f})" if self.start else "")

    def warnings(self) -> list[str]:
        """What a person should know before using the chosen checkpoint."""
        found = []
        if self.max_kl and self.best.get("eval/kl", 0.0) > self.max_kl:
            found.append(f"no evaluated step is within {self.max_kl:g} nats of KL: the one with the lowest KL ships")
        if self.start and self.score(self.best) <= self.score(self.start):
            found.append("no evaluated step scores higher on held-out prompts than the model before training")
        return found

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return {"rule": self.rule(), "chosen": dict(self.best), "start": dict(self.start)}

    def state_dict(self) -> dict[str, Any]:
        """Primitives only."""
        return {"start": dict(self.start), "best": dict(self.best)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from `state_dict`."""
        self.start, self.best = dict(state["start"]), dict(state["best"])
