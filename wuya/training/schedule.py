"""Learning-rate schedules: pure functions from the step to a multiplier of the peak learning rate.

`step` counts finished updates, so update number one asks for `step=0`; `total` is the number of updates of the whole
run. Every function is a plain rule without memory: a resumed run needs the step and nothing else.
"""

import math


def warmup_cosine(step: int, total: int, warmup: int, final: float) -> float:
    """Linear warmup over `warmup` steps, then half a cosine from 1 down to `final` at `step == total`.

    GPT-1 (warmup 2,000 updates, final 0), GPT-3 and InstructGPT section 3.5 (no warmup for SFT, final 0.1).
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def trapezoid(step: int, total: int, warmup: int, warmdown: int, final: float) -> float:
    """Linear warmup, constant 1, then linear over the last `warmdown` steps to `final` (nanochat)."""
    if step < warmup:
        return (step + 1) / warmup
    if step <= total - warmdown:
        return 1.0
    left = max(0.0, (total - step) / warmdown)
    return left + (1 - left) * final


def constant_with_warmup(step: int, warmup: int, start: float = 0.1) -> float:
    """Linear from `start` to 1 over `warmup` steps, then constant (InstructGPT's PPO: ten iterations from a tenth)."""
    if step >= warmup:
        return 1.0
    return start + (1 - start) * step / warmup


def policy_gradient_multiplier(update: int, *, warmup_updates: int, num_updates: int, linear_decay: bool) -> float:
    """Multiplier of the peak learning rates in PPO or GRPO update number `update`, 0 being the first.

    InstructGPT: from a tenth of the peak over the first 10 iterations, then constant (section C.4). With `linear_decay`
    it also falls in a straight line to 0 after `num_updates`, as in OpenAI's earlier lm-human-preferences.
    """
    multiplier = constant_with_warmup(update, warmup_updates, 0.1)
    return multiplier * (1 - update / num_updates) if linear_decay else multiplier


def warmup_linear(progress: float, warmup: float = 0.002) -> float:
    """GPT-1's fine-tuning rule: `progress` in [0, 1] is the share of the run done, `warmup` the share spent rising."""
    return (progress / warmup if progress <= warmup else 1.0) * (1 - progress)
