"""What a batch knows of its rows, one tensor a field, so that no step loops over rows in Python.

Dimension key: B some rows, R all rows, S stop tokens, V vocabulary.
"""

import torch
from torch import Tensor

from wuya.inference.sampling import SamplingParams, sample_rows, uniforms


class Rows:
    """State of every row; columns beyond the running rows are meaningless."""

    def __init__(self, num_rows: int, num_stops: int, device: torch.device, *, num_tokens: int | None = None) -> None:
        """Args: num_tokens: see `sample_rows`."""
        self._num_tokens = num_tokens

        def ints() -> Tensor:
            return torch.zeros(num_rows, dtype=torch.int64, device=device)

        self.sequence_R, self.seed_R, self.token_R = ints(), ints(), ints()
        self.count_R = ints()
        """Tokens sampled so far."""
        self.limit_R = ints()
        """Tokens after which the row ends with reason `length`."""
        self.stops_RS = torch.full((num_rows, num_stops), -1, dtype=torch.int64, device=device)
        self.top_k_R = ints()
        self.temperature_R = torch.ones(num_rows, device=device)
        self.top_p_R = torch.ones(num_rows, device=device)
        self.min_p_R = torch.zeros(num_rows, device=device)
        # True once any request wants it: a step pays only for what is used
        self._any_temperature = self._any_top_k = self._any_top_p = self._any_min_p = False

    def fields(self) -> tuple[Tensor, ...]:
        """All columns: what moves when a row moves."""
        return (self.sequence_R, self.seed_R, self.token_R, self.count_R, self.limit_R, self.stops_RS, self.top_k_R,
                self.temperature_R, self.top_p_R, self.min_p_R)  # fmt: skip

    def expect(self, sampling: SamplingParams) -> None:
        """Such a request will come."""
        self._any_temperature |= sampling.temperature != 1.0
        self._any_top_k |= sampling.top_k > 0
        self._any_top_p |= sampling.top_p < 1
        self._any_min_p |= sampling.min_p > 0

    def draw(self, rows: slice | Tensor, logits_BV: Tensor, count_B: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's token number `count` from these logits, and its log-prob; see `sample_rows`."""
        return sample_rows(
            logits_BV,
            uniforms(self.seed_R[rows], count_B),
            temperature_B=self.temperature_R[rows] if self._any_temperature else None,
            top_k_B=self.top_k_R[rows] if self._any_top_k else None,
            top_p_B=self.top_p_R[rows] if self._any_top_p else None,
            min_p_B=self.min_p_R[rows] if self._any_min_p else None,
            num_tokens=self._num_tokens,
        )
