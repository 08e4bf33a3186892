"""An outside judge: can this be the real next turn? A classifier of true and random replies on a frozen model's states.

It never sees a ranking, a labeler or PPO; a policy that talks past its prompts to please the reward model scores lower.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from wuya.models.decoder import Decoder
from wuya.rlhf.answer_rows import AnswerRows, AnswerTokens, answer_rows
from wuya.training.token_logprobs import hidden_logprobs

MICROBATCH_TOKENS = 2_048
"""Positions of one forward pass: what stays in a CPU's cache."""


class RealTurnJudge:
    """P(this completion really followed this prompt), from a frozen language model's hidden states.

    Features of a pair: the mean state of the completion read after its prompt less the same read after an unrelated
    one, and its mean log-probability.
    """

    def __init__(self, model: Decoder) -> None:
        self.model = model
        self.classifier: Pipeline | None = None
        self.neutral: list[int] = []
        self.auc = float("nan")

    def fit(self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], *, seed: int) -> "RealTurnJudge":
        """Train on real pairs against the same replies given to other prompts; `auc` is that of a held-out fifth."""
        rng = np.random.default_rng(seed)
        shifted = np.roll(np.arange(len(prompts)), int(rng.integers(1, len(prompts))))
        self.neutral = list(prompts[0])
        alone = self._alone(replies)
        real = self._features(prompts, replies, alone)
        fake = self._features([prompts[int(i)] for i in shifted], replies, alone)
        cut = int(0.8 * len(prompts))
        self.classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        self.classifier.fit(np.concatenate([real[:cut], fake[:cut]]), np.repeat([1, 0], cut))
        held_out = self.classifier.predict_proba(np.concatenate([real[cut:], fake[cut:]]))[:, 1]
        self.auc = float(roc_auc_score(np.repeat([1, 0], len(prompts) - cut), held_out))
        return self

    def probabilities(self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """P(real) of each pair."""
        assert self.classifier is not None, "fit first"
        features = self._features(prompts, replies, self._alone(replies))
        return np.asarray(self.classifier.predict_proba(features)[:, 1], dtype=np.float64)

    def _features(
        self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], alone: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Args: alone: the replies' mean states after the unrelated prompt."""
        answered = self._mean_states(prompts, replies)
        return np.concatenate([answered - alone, answered[:, -1:]], axis=1)

    def _alone(self, replies: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        return self._mean_states([self.neutral] * len(replies), replies)

    @torch.inference_mode()
    def _mean_states(self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """[N, D + 1]: the mean hidden state over the reply's positions, and its mean log-probability."""
        means = torch.zeros(len(replies), self.model.config.model_dim + 1)
        limit = self.model.config.context_length
        for rows in answer_rows(prompts, replies, max_length=limit, max_tokens=MICROBATCH_TOKENS):
            tokens, states_CD, logprobs_C = answer_states(self.model, rows)
            read_CE = torch.cat([states_CD.float(), logprobs_C[:, None]], dim=1).cpu()
            sums_BE = torch.zeros(len(rows.answer_B), read_CE.shape[1]).index_add(0, tokens.owner_C, read_CE)
            means[rows.answer_B] = sums_BE / (rows.last_B - rows.first_B + 1)[:, None]
        return means.numpy()


def answer_states(model: Decoder, rows: AnswerRows) -> tuple[AnswerTokens, Tensor, Tensor]:
    """Every completion token, its hidden state [C, D], and its log-prob given what stands before it, nats [C]."""
    device = model.device
    hidden_NTD = model(**rows.inputs(device))
    tokens = rows.tokens()
    row_C = tokens.row_C.to(device)
    logprobs_C = hidden_logprobs(model, hidden_NTD[row_C, tokens.before_C.to(device)], tokens.id_C.to(device))
    return tokens, hidden_NTD[row_C, tokens.column_C.to(device)], logprobs_C
