"""Claims about learning from rankings (golden values: spec appendix A)."""

import itertools
import math

import torch

from wuya.losses.preference import (
    christiano_loss,
    noisy_preference_probability,
    order_credit,
    pair_loss,
    ranking_loss,
)


def test_equal_scores_cost_ln_2_and_the_top_item_has_gradient_minus_one_over_k() -> None:
    scores_PK = torch.zeros(1, 4, requires_grad=True)
    loss, weight = ranking_loss(scores_PK, torch.tensor([[1, 2, 3, 4]]))
    loss.backward()
    assert math.isclose(float(loss.detach() / weight), math.log(2), rel_tol=1e-6)
    torch.testing.assert_close(scores_PK.grad, torch.tensor([[-0.25, -1 / 12, 1 / 12, 0.25]]))


def test_gradients_sum_to_zero_because_only_differences_count() -> None:
    scores_PK = torch.randn(3, 5, requires_grad=True)
    loss, _ = ranking_loss(scores_PK, torch.tensor([[1, 2, 2, 3, 4], [2, 1, 3, 0, 0], [1, 1, 1, 1, 2]]))
    loss.backward()
    assert scores_PK.grad is not None
    torch.testing.assert_close(scores_PK.grad.sum(1), torch.zeros(3), atol=1e-6, rtol=0)
    shifted, _ = ranking_loss(scores_PK + 3.0, torch.tensor([[1, 2, 2, 3, 4], [2, 1, 3, 0, 0], [1, 1, 1, 1, 2]]))
    torch.testing.assert_close(shifted, loss)


def test_one_prompts_loss_is_the_mean_of_its_pair_losses_without_ties() -> None:
    scores, ranks = torch.randn(5), [2, 1, 3, 3, 4]
    pairs = [(a, b) for a, b in itertools.permutations(range(5), 2) if ranks[a] < ranks[b]]
    assert len(pairs) == 9  # C(5,2) less one tie
    expected = torch.stack([pair_loss(scores[a], scores[b]) for a, b in pairs]).mean()
    loss, weight = ranking_loss(scores[None], torch.tensor([ranks]))
    torch.testing.assert_close(loss / weight, expected)


def test_mean_over_pairs_then_over_prompts_and_prompts_of_ties_do_not_count() -> None:
    scores_PK, ranks_PK = torch.randn(3, 3), torch.tensor([[1, 2, 3], [1, 2, 0], [1, 1, 1]])
    loss, weight = ranking_loss(scores_PK, ranks_PK)
    first, _ = ranking_loss(scores_PK[:1], ranks_PK[:1])
    second, _ = ranking_loss(scores_PK[1:2, :2], ranks_PK[1:2, :2])
    assert weight == 2
    torch.testing.assert_close(loss / weight, (first + second) / 2)


def test_votes_weigh_as_told() -> None:
    scores_PK, ranks_PK = torch.randn(2, 3), torch.tensor([[1, 2, 3], [3, 2, 1]])
    loss, weight = ranking_loss(scores_PK, ranks_PK, torch.tensor([0.5, 0.5]))
    both = [ranking_loss(scores_PK[i : i + 1], ranks_PK[i : i + 1])[0] for i in range(2)]
    torch.testing.assert_close(loss, (both[0] + both[1]) / 2)
    assert weight == 1


def test_golden_pair_losses() -> None:
    losses = pair_loss(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.0]))
    torch.testing.assert_close(losses, torch.tensor([0.693147, 0.313262]), atol=1e-6, rtol=0)


def test_golden_christiano_probability_and_largest_loss() -> None:
    probability = noisy_preference_probability(torch.tensor(2.0), torch.tensor(0.0))
    assert math.isclose(float(probability), 0.842717, abs_tol=1e-6)
    worst = christiano_loss(torch.tensor([-200.0]), torch.tensor([0.0]), torch.tensor([1.0]))
    assert math.isclose(float(worst), 2.995732, abs_tol=1e-5)


def test_identical_segments_have_probability_one_half_and_no_gradient() -> None:
    score = torch.tensor([1.5], requires_grad=True)
    loss = christiano_loss(score, score, torch.tensor([1.0]))
    loss.sum().backward()
    assert noisy_preference_probability(score, score).item() == 0.5
    assert score.grad is not None and score.grad.item() == 0.0


def test_a_constant_added_to_every_step_of_equal_segments_changes_nothing() -> None:
    first, second, labels = torch.randn(4), torch.randn(4), torch.tensor([1.0, 0.0, 0.5, 1.0])
    loss = christiano_loss(first, second, labels)
    torch.testing.assert_close(christiano_loss(first + 25 * 0.3, second + 25 * 0.3, labels), loss, atol=1e-5, rtol=0)


def test_equal_scores_count_half() -> None:
    assert order_credit(torch.tensor([2.0, 0.0, -1.0])).tolist() == [1.0, 0.5, 0.0]
