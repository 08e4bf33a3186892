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

from wuya.data.batches import length_sorted_microbatches, pad_right
from wuya.models.gpt import GPT


class RealTurnJudge:
    """P(this completion really followed this prompt), from a frozen language model's hidden states.

    Features of a pair: the mean state of the completion read after its prompt less the same read after an unrelated
    one, and its mean log-probability.
    """

    def __init__(self, model: GPT) -> None:
        self.model = model
        self.classifier: Pipeline | None = None
        self.neutral: list[int] = []
        self.auc = float("nan")

    def fit(self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], *, seed: int) -> "RealTurnJudge":
        """Train on real pairs against the same replies given to other prompts; `auc` is that of a held-out fifth."""
        rng = np.random.default_rng(seed)
        shifted = np.roll(np.arange(len(prompts)), int(rng.integers(1, len(prompts))))
        self.neutral = list(prompts[0])
        alone = self._mean_states([[*self.neutral, *r] for r in replies], replies)
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
        alone = self._mean_states([[*self.neutral, *r] for r in replies], replies)
        features = self._features(prompts, replies, alone)
        return np.asarray(self.classifier.predict_proba(features)[:, 1], dtype=np.float64)

    def _features(
        self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], alone: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Args: alone: the replies' mean states after the unrelated prompt."""
        answered = self._mean_states([[*p, *r] for p, r in zip(prompts, replies, strict=True)], replies)
        return np.concatenate([answered - alone, answered[:, -1:]], axis=1)

    @torch.inference_mode()
    def _mean_states(self, sequences: list[list[int]], replies: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """[N, D + 1]: the mean hidden state over the reply's positions, and its mean log-probability."""
        rows = np.zeros((len(sequences), self.model.config.model_dim + 1), dtype=np.float32)
        for indices in length_sorted_microbatches([len(s) for s in sequences], max_tokens=2_048):  # stays in cache
            ids_BT, _ = pad_right([sequences[i] for i in indices], pad_id=0)
            ids_BT = ids_BT.to(self.model.device)
            hidden_BTD = self.model(ids_BT)
            for row, index in enumerate(indices):
                end = len(sequences[index])
                start = end - len(replies[index])
                logits_TV = self.model.logits(hidden_BTD[row, start - 1 : end - 1])
                logprobs_T = logits_TV.gather(-1, ids_BT[row, start:end].unsqueeze(-1)).squeeze(
                    -1
                ) - logits_TV.logsumexp(-1)
                rows[index, :-1] = hidden_BTD[row, start:end].float().mean(0).cpu().numpy()
                rows[index, -1] = float(logprobs_T.mean())
        return rows
