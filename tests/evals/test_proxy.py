import pytest

from wuya.evals.proxy import best_of_n_kl


def test_golden_kl_of_best_of_n() -> None:
    found = [best_of_n_kl(n) for n in (2, 4, 16, 64, 256)]
    assert found == pytest.approx([0.1931, 0.6363, 1.8351, 3.1745, 4.5491], abs=1e-4)
    assert best_of_n_kl(1) == 0.0
