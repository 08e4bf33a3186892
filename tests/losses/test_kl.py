"""The KL estimates have the means, variances and gradients that are known of them."""

import pytest
import torch
from torch import Tensor

from wuya.losses.kl import kl_estimates


def test_golden_kl_estimates() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.3, 0.2])
    estimates = kl_estimates(p.log(), q.log())
    means = [float((p * k).sum()) for k in estimates]
    assert means == pytest.approx([0.085123, 0.080088, 0.085123], abs=1e-6)
    assert float((p * (estimates.k1 - means[0]) ** 2).sum()) == pytest.approx(0.15293, abs=1e-5)
    assert float((p * (estimates.k3 - means[2]) ** 2).sum()) == pytest.approx(0.00576, abs=1e-5)


def test_golden_gradients_of_kl_estimates_used_as_losses() -> None:
    """On-policy: k1 -> 0, k2 -> gradient of KL(p || q), k3 -> gradient of KL(q || p) (Schulman 2020)."""
    q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)

    def gradient(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, logits, retain_graph=True)[0]

    logp = logits.log_softmax(-1)
    weights = logp.detach().exp()  # the samples; no gradient flows through which were drawn
    k1, k2, k3 = ((weights * k).sum() for k in kl_estimates(logits.log_softmax(-1), q.log()))
    torch.testing.assert_close(gradient(k1), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    reverse = (logp.exp() * (logp - q.log())).sum()
    torch.testing.assert_close(gradient(k2), gradient(reverse))
    forward = (q * (q.log() - logits.log_softmax(-1))).sum()
    torch.testing.assert_close(gradient(k3), gradient(forward))
