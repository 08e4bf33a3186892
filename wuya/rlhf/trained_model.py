"""A model that policy gradients train: its weights, optimizer and moving average, and the step that changes them."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from wuya.errors import NotFinite
from wuya.training import distributed
from wuya.training.ema import Ema
from wuya.training.optimizer import OptimizerName, build_optimizer, clip_gradients


class TrainedModel:
    """A policy or value model whose trainable parameters learn; dropout is off."""

    def __init__(
        self,
        name: str,
        model: Any,
        *,
        learning_rate: float,
        optimizer: OptimizerName = "adamw",
        adam_eps: float = 1e-5,
        ema_decay: float = 0.0,
    ) -> None:
        """
        Args:
            name: for messages, `policy` or `value model`.
            model: nn.Module that is a `LanguageModel` or has `TokenValues`; `learning_rate` is its peak rate.
            ema_decay: of the moving average of the weights, per step; 0 keeps none.
        """
        self.name, self.model = name, model.eval()
        self.optimizer = build_optimizer(model, name=optimizer, lr=learning_rate, betas=(0.9, 0.95), eps=adam_eps)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.ema = Ema(model, ema_decay) if ema_decay else None

    def step(self, *, max_grad_norm: float) -> float:
        """Add gradients over ranks, clip, step, clear. Returns the norm before clipping.

        Raises NotFinite, with the weights untouched, when the gradient is NaN or infinite.
        """
        distributed.reduce_gradients(self.parameters)
        norm = clip_gradients(self.parameters, max_grad_norm)
        if not math.isfinite(norm):
            self.optimizer.zero_grad()
            hint = "the last checkpoint is good; lower the learning rate, or look with `--dump_rollouts`"
            raise NotFinite(f"the gradient of the {self.name} is not finite", found=f"norm {norm}", hint=hint)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.model)
        return norm

    def averaged(self) -> AbstractContextManager[None]:
        """Inside the block the model has its averaged weights, if it keeps an average."""
        return nullcontext() if self.ema is None else self.ema.applied_to(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs for the same bits: tensors and primitives."""
        ema = None if self.ema is None else self.ema.state_dict()
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "ema": ema}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
