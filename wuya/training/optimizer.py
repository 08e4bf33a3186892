"""AdamW, and Muon for the matrices inside the blocks, behind one small `Optimizer`.

Muon (Jordan et al. 2024) replaces the momentum of a weight matrix by the nearest matrix whose singular
values are all about one. Matrices of one shape are orthogonalised together in one batched multiplication, and matrices
that are stored fused (query/key/value, gate/up) are taken apart first: orthogonalising the stack would tie the step
sizes of parts that have nothing to do with each other.

Dimension key: N matrices of one shape, R rows (outputs), C columns (inputs).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wuya.models.layers import Attention, GatedMLP

OptimizerName = Literal["adamw", "muon"]

POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551369305323),
)
"""(a, b, c) of x -> ax + bx^3 + cx^5 for five steps (Amsel et al. 2025, arXiv:2505.16932; the values of nanochat)."""


def orthogonalize(matrices_NRC: Tensor) -> Tensor:
    """Map every singular value to about one, [.85, 1.15] for those above a hundredth of the Frobenius norm.

    Five Polar-Express steps X <- aX + b(XX')X + c(XX')^2 X. All factors are polynomials of the first Gram matrix XX'
    and commute, so for matrices at least twice as long as wide it is cheaper to iterate on the small Gram matrix and
    multiply once at the end (34 m^3 + 4 m^2 n flops against 10 m^3 + 20 m^2 n).
    """
    tall = matrices_NRC.size(-2) > matrices_NRC.size(-1)
    x_NRC = matrices_NRC.mT if tall else matrices_NRC
    # 1.02: the first polynomial is only safe strictly inside (0, 1)
    x_NRC = x_NRC / (1.02 * x_NRC.norm(dim=(-2, -1), keepdim=True) + 1e-12)
    if x_NRC.size(-1) >= 2 * x_NRC.size(-2):
        x_NRC = _polar_factor_by_gram(x_NRC) @ x_NRC
    else:
        for a, b, c in POLAR_EXPRESS:
            gram_NRR = x_NRC @ x_NRC.mT
            poly_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
            x_NRC = torch.baddbmm(x_NRC, poly_NRR, x_NRC, beta=a)
    return x_NRC.mT if tall else x_NRC


def _polar_factor_by_gram(x_NRC: Tensor) -> Tensor:
    """The product of the five polynomials as one [N, R, R] matrix Q, so that Q @ x is the orthogonalised x."""
    gram_NRR = x_NRC @ x_NRC.mT
    eye_RR = torch.eye(x_NRC.size(-2), dtype=x_NRC.dtype, device=x_NRC.device)
    product_NRR: Tensor | None = None
    for step, (a, b, c) in enumerate(POLAR_EXPRESS):
        poly_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c) + a * eye_RR
        product_NRR = poly_NRR if product_NRR is None else poly_NRR @ product_NRR
        if step < len(POLAR_EXPRESS) - 1:
            gram_NRR = poly_NRR @ gram_NRR @ poly_NRR
    assert product_NRR is not None
    return product_NRR


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, with decoupled weight decay; for 2-D weights only.

    m <- momentum * m + g;  u = g + momentum * m (Nesterov);
    W <- W (1 - lr * decay) - lr * sqrt(max(1, R / C)) * orthogonalize(u).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        rows: dict[Tensor, tuple[int, ...]] | None = None,
    ) -> None:
        """`rows`: for weights that hold several matrices stacked by rows, the number of rows of each."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._rows = rows or {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            gradients = [p.grad for p in params]
            momenta = [self._momentum(p) for p in params]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, gradients)
            updates = torch._foreach_add(gradients, momenta, alpha=group["momentum"])
            if group["weight_decay"]:
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            self._apply(params, updates, lr=group["lr"])

    def _apply(self, params: list[nn.Parameter], updates: Iterable[Tensor], *, lr: float) -> None:
        """Orthogonalise all matrices of one shape together and step."""
        by_shape: dict[tuple[int, ...], tuple[list[Tensor], list[Tensor]]] = {}
        for param, update in zip(params, updates, strict=True):
            rows = self._rows.get(param, (param.size(0),))
            for weight_RC, update_RC in zip(
                torch.split(param, list(rows)), torch.split(update, list(rows)), strict=True
            ):
                weights, matrices = by_shape.setdefault(tuple(weight_RC.shape), ([], []))
                weights.append(weight_RC)
                matrices.append(update_RC)
        for (num_rows, num_columns), (weights, matrices) in by_shape.items():
            stacked_NRC = torch.stack(matrices)
            if stacked_NRC.is_cuda:  # half the time on tensor cores; a CPU without bf16 arithmetic keeps fp32
                stacked_NRC = stacked_NRC.bfloat16()
            scale = max(1.0, num_rows / num_columns) ** 0.5
            with torch.autocast(stacked_NRC.device.type, enabled=False):  # its precision is chosen here
                steps = orthogonalize(stacked_NRC).to(weights[0].dtype).unbind()
            torch._foreach_add_(weights, steps, alpha=-lr * scale)

    def _momentum(self, param: nn.Parameter) -> Tensor:
        state = self.state[param]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(param)
        momentum: Tensor = state["momentum"]
        return momentum


class Optimizer:
    """One or two torch optimizers that step together. Group learning rates are peaks times a multiplier (`set_lr`)."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        for group in self.param_groups:
            group["initial_lr"] = group["lr"]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all parts, as torch has them."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        """Update the weights from their gradients; the next forward pass sees them, inside an autocast block too."""
        for part in self.parts:
            part.step()
        torch.clear_autocast_cache()  # autocast's copies of the weights are those from before this step

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives only, so that it loads with `weights_only=True`."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the moments; learning rates stay this run's (stored ones may have decayed to 0)."""
        rates = [(group["lr"], group["initial_lr"]) for group in self.param_groups]
        for part, part_state in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(part_state)
        for group, (lr, initial_lr) in zip(self.param_groups, rates, strict=True):
            group["lr"], group["initial_lr"] = lr, initial_lr


def build_optimizer(
    model: nn.Module,
    *,
    name: OptimizerName,
    lr: float,
    adam_lr: float | None = None,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    momentum: float = 0.95,
) -> Optimizer:
    """The optimizer of a model's trainable parameters.

    Args:
        name: `adamw` for everything, or `muon`: Muon for the matrices inside the blocks, AdamW for embeddings, heads,
            norms, biases and LoRA factors (thin: their singular values say little).
        lr: peak learning rate of the matrices (Muon) or of everything (AdamW).
        adam_lr: peak learning rate of what AdamW updates beside Muon; default: a tenth of `lr`.
        weight_decay: decoupled, on 2-D weights only, and not on embeddings when the optimizer is Muon.
        betas, eps: AdamW's.
        momentum: Muon's.
    """
    matrices, tables, vectors = [], [], []
    for path, param in _trainable(model):
        inside_block = any(part.isdigit() for part in path.split("."))
        if param.ndim != 2:
            vectors.append(param)
        elif inside_block and "lora" not in path:
            matrices.append(param)
        else:
            tables.append(param)
    if name == "adamw":
        groups = [{"params": matrices + tables, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        return Optimizer(_adamw(groups, lr=lr, betas=betas, eps=eps))
    adam_groups = [{"params": tables, "weight_decay": 0.0}, {"params": vectors, "weight_decay": 0.0}]
    parts: list[torch.optim.Optimizer] = []
    if matrices:
        parts.append(Muon(matrices, lr=lr, momentum=momentum, weight_decay=weight_decay, rows=_fused_rows(model)))
    if tables or vectors:
        parts.append(_adamw(adam_groups, lr=lr / 10 if adam_lr is None else adam_lr, betas=betas, eps=eps))
    return Optimizer(*parts)


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((path, param) for path, param in model.named_parameters() if param.requires_grad)


def _fused_rows(model: nn.Module) -> dict[Tensor, tuple[int, ...]]:
    """How many rows each matrix of a fused weight has; a weight that isn't here is one matrix."""
    rows: dict[Tensor, tuple[int, ...]] = {}
    for module in model.modules():
        if isinstance(module, Attention) and isinstance(module.qkv, nn.Linear):
            kv_rows = module.num_kv_heads * module.head_dim
            rows[module.qkv.weight] = (module.num_heads * module.head_dim, kv_rows, kv_rows)
        elif isinstance(module, GatedMLP) and isinstance(module.gate_up, nn.Linear):
            half = module.gate_up.out_features // 2
            rows[module.gate_up.weight] = (half, half)
    return rows


def _adamw(groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float) -> torch.optim.Optimizer:
    groups = [group for group in groups if group["params"]]
    plain = all(p.is_floating_point() and p.device.type in {"cpu", "cuda"} for g in groups for p in g["params"])
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=plain)


def set_lr(optimizer: Optimizer, multiplier: float) -> float:
    """Set every group's learning rate to its peak times the schedule's multiplier.

    Returns: the rate of the first group, which is what runs log as `lr`: AdamW's single rate, or that of the matrices
        under Muon (of what AdamW updates, where Muon has no matrix).
    """
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * multiplier
    return float(optimizer.param_groups[0]["lr"])


def clip_gradients(params: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale gradients so that their joint L2 norm is at most `max_norm` (0: only measure); the norm before."""
    with_gradient = [p for p in params if p.grad is not None]
    gradients = [p.grad for p in with_gradient if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if max_norm > 0:
        torch.nn.utils.clip_grads_with_norm_(with_gradient, max_norm, norm)
    return float(norm)


Schedule = Callable[[int], float]
"""Finished updates -> multiplier of the peak learning rate."""
