"""Temperatures are found again, and the floor is what a calibrated model shows."""

import numpy as np
import pytest

from wuya.evals.temperature import ece_floor, ece_of, fit_temperature


def margins(count: int, *, sharpened: float = 1.0, seed: int = 0) -> np.ndarray:
    """Margins of the preferred answer by a calibrated model, then multiplied."""
    rng = np.random.default_rng(seed)
    size = np.abs(rng.normal(size=count))
    right = rng.random(count) < 1 / (1 + np.exp(-size))
    return sharpened * np.where(right, size, -size)


@pytest.mark.parametrize("sharpened", [0.25, 1.0, 4.0])
def test_the_temperature_undoes_a_scale(sharpened: float) -> None:
    assert fit_temperature(margins(20_000, sharpened=sharpened)) == pytest.approx(sharpened, rel=0.08)


def test_a_calibrated_model_lies_within_its_floor_and_an_overconfident_one_above() -> None:
    good, bad = margins(400), margins(400, sharpened=4.0)
    assert ece_of(good) <= ece_floor(good).high
    assert ece_of(bad) > ece_floor(bad).high
    assert ece_floor(margins(20_000)).mean < ece_floor(good).mean  # more votes, less luck


def test_the_floor_counts_bins_as_calibrate_does() -> None:
    values = margins(300, seed=3)
    simulated = [ece_of(np.where(np.random.default_rng(s).random(300) < 1 / (1 + np.exp(-abs(values))), 1, -1)
                        * np.abs(values)) for s in range(200)]  # fmt: skip
    assert ece_floor(values).mean == pytest.approx(np.mean(simulated), abs=0.004)
