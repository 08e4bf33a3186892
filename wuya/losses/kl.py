"""Three estimates of KL(policy || reference) from samples of the policy (joschu.net/blog/kl-approx).

PPO takes k1 into the reward; GRPO's loss has k3.
"""

from typing import NamedTuple

from torch import Tensor


class KLEstimates(NamedTuple):
    """Estimates of KL(policy || reference) for each token drawn from the policy, nats (joschu.net/blog/kl-approx)."""

    k1: Tensor
    """log p - log q. Unbiased, high variance, may be negative. Belongs in the reward; as a loss its gradient is 0."""
    k2: Tensor
    """Half its square. Biased value, but as a loss it has the gradient of KL(policy || reference)."""
    k3: Tensor
    """q / p - 1 - log(q / p). Unbiased, >= 0; as a loss it has the gradient of the *other* KL(reference || policy)."""


def kl_estimates(logprobs_BT: Tensor, ref_logprobs_BT: Tensor) -> KLEstimates:
    """The three estimators, each of the inputs' shape, from log-probs of the same tokens under policy and reference."""
    log_r_BT = ref_logprobs_BT - logprobs_BT
    return KLEstimates(k1=-log_r_BT, k2=0.5 * log_r_BT**2, k3=log_r_BT.exp() - 1 - log_r_BT)
