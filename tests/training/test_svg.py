"""Plots are well-formed, show what they are given, and have round ticks."""

import math
from xml.etree import ElementTree

import pytest

from wuya.training.svg import MOST_POINTS, bounds, line_plot, scatter_plot, ticks


def test_a_plot_is_well_formed_and_escapes_its_texts() -> None:
    svg = ElementTree.fromstring(line_plot("a <b> & c", {"x<y": ([1, 2, 3], [1.0, math.nan, 3.0]), "z": ([], [])}))
    lines = [node for node in svg.iter() if node.tag.endswith("polyline")]
    assert len(lines[0].attrib["points"].split()) == 2 and lines[1].attrib["points"] == ""
    assert "a <b> & c" in [node.text for node in svg.iter()]


def test_a_cloud_has_a_dot_a_point_a_ring_and_a_name_of_its_own_place() -> None:
    clouds = {"PPO": ([2.6, 2.7], [0.78, math.nan]), "<RLOO>": ([2.61, 2.62], [0.78, 0.779]), "none": ([], [])}
    svg = ElementTree.fromstring(scatter_plot("t", clouds, xlabel="KL"))
    radii = [node.attrib["r"] for node in svg.iter() if node.tag.endswith("circle")]
    assert radii.count("2") == 3 and radii.count("4.5") == 2
    names = {node.text: (float(node.attrib["x"]), float(node.attrib["y"])) for node in svg.iter() if node.text}
    (x, y), (other_x, other_y) = names["PPO"], names["<RLOO>"]
    assert abs(y - other_y) >= 9 or x + 16 < other_x or other_x + 33 < x


def test_long_curves_are_thinned_without_moving() -> None:
    svg = line_plot("long", {"": (range(10_000), [float(i) for i in range(10_000)])})
    assert svg.count(",") < MOST_POINTS + 20


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (-1, 1, [-1, -0.5, 0, 0.5, 1]), (0.013, 0.021, [0.014, 0.016, 0.018, 0.02])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_one_value_or_none_still_has_an_extent() -> None:
    for values in ([], [0.0], [5.0, 5.0], [1e-30]):
        low, high = bounds(values)
        assert high > low and ticks(low, high)
