"""Plots as small SVG texts for reports: axes with round ticks, a few named curves or clouds, readable without colour.

matplotlib draws the same in 0.15 s a plot; a PPO run has forty of them, and a demo five runs. This takes a millisecond
and its text can be read, selected and scaled.
"""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 390, 26, 196
"""The plot area within the picture."""
STROKES = (("#1f6fb4", ""), ("#d1622b", "6 3"), ("#2a8a4a", "2 2"), ("#8a4fb0", "8 3 2 3"), ("#777777", "1 3"))
"""Colour and dashes of each curve in turn."""
MOST_POINTS = 400
"""Longer curves are drawn as the mean of equal stretches."""

Points = tuple[Sequence[float], Sequence[float]]
Series = Mapping[str, Points]
Point = tuple[float, float]
Box = tuple[float, float, float, float]


def line_plot(title: str, series: Series, xlabel: str = "step") -> str:
    """An `<svg>` element of named curves (name -> (xs, ys)); values that are not finite are left out."""
    curves = {name: thinned(*finite(xs, ys)) for name, (xs, ys) in series.items()}
    place, parts = _frame(title, xlabel, list(curves.values()))
    for index, (name, (xs, ys)) in enumerate(curves.items()):
        colour, dashes = STROKES[index % len(STROKES)]
        points = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in zip(xs, ys, strict=True))
        style = f'fill="none" stroke="{colour}" stroke-width="1.4" stroke-dasharray="{dashes}"'
        parts.append(f'<polyline points="{points}" {style}/>')
        if name:
            y = TOP + 10 + 13 * index
            parts.append(f'<path d="M{RIGHT - 92} {y - 3}h22" {style}/>')
            parts.append(f'<text x="{RIGHT - 66}" y="{y}">{html.escape(name)}</text>')
    return "".join(parts) + "</svg>"


def scatter_plot(title: str, series: Series, xlabel: str) -> str:
    """An `<svg>` element of named clouds (name -> (xs, ys)): a dot a point, a ring at the mean, the name beside it."""
    clouds = {name: finite(xs, ys) for name, (xs, ys) in series.items()}
    clouds = {name: points for name, points in clouds.items() if points[0]}
    place, parts = _frame(title, xlabel, list(clouds.values()))
    taken = [(x - 3, y - 3, x + 3, y + 3) for xs, ys in clouds.values() for x, y in map(place, xs, ys)]
    for index, (name, (xs, ys)) in enumerate(clouds.items()):
        colour = STROKES[index % len(STROKES)][0]
        for x, y in map(place, xs, ys):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>')
        x, y = place(sum(xs) / len(xs), sum(ys) / len(ys))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="none" stroke="{colour}"/>')
        left, bottom = _free_place(x, y, 5.5 * len(name), taken)
        parts.append(f'<text x="{left:.1f}" y="{bottom:.1f}" fill="{colour}">{html.escape(name)}</text>')
    return "".join(parts) + "</svg>"


def _free_place(x: float, y: float, width: float, taken: list[Box]) -> tuple[float, float]:
    """Left and bottom of a label near (x, y) that covers nothing, if there is such a place; it is taken then."""
    sides = [(x + 8, y + 3), (x - 8 - width, y + 3), (x - width / 2, y - 8), (x - width / 2, y + 16)]
    sides += [(x + 8, y + shift) for shift in (-9, 15)] + [(x - 8 - width, y + shift) for shift in (-9, 15)]

    def covered(side: tuple[float, float]) -> int:
        left, bottom = side
        outside = left < LEFT or left + width > WIDTH
        return 9 * outside + sum(
            left < box[2] and box[0] < left + width and bottom - 9 < box[3] and box[1] < bottom for box in taken
        )

    left, bottom = min(sides, key=covered)
    taken.append((left, bottom - 9, left + width, bottom))
    return left, bottom


def _frame(title: str, xlabel: str, series: Sequence[Points]) -> tuple[Callable[[float, float], Point], list[str]]:
    """Where a value lies in the picture, and the opening of its text: title, axes, ticks."""
    x_low, x_high = bounds([x for xs, _ in series for x in xs])
    y_low, y_high = bounds([y for _, ys in series for y in ys])
    x_scale = (RIGHT - LEFT) / (x_high - x_low)
    y_scale = (BOTTOM - TOP) / (y_high - y_low)

    def place(x: float, y: float) -> Point:
        return LEFT + (x - x_low) * x_scale, BOTTOM - (y - y_low) * y_scale

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        f' role="img" aria-label="{html.escape(title)}" font-family="sans-serif" font-size="10" fill="currentColor">',
        f'<text x="{(LEFT + RIGHT) / 2:.0f}" y="14" text-anchor="middle" font-size="12">{html.escape(title)}</text>',
        f'<text x="{RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{html.escape(xlabel)}</text>',
    ]
    for value in ticks(y_low, y_high):
        _, y = place(x_low, value)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="currentColor" stroke-opacity=".15"/>')
        parts.append(f'<text x="{LEFT - 4}" y="{y + 3:.1f}" text-anchor="end">{number(value)}</text>')
    for value in ticks(x_low, x_high):
        x, _ = place(value, y_low)
        parts.append(f'<text x="{x:.1f}" y="{BOTTOM + 14}" text-anchor="middle">{number(value)}</text>')
    return place, parts


def finite(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    """The points both of whose coordinates are finite."""
    points = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return [x for x, _ in points], [y for _, y in points]


def thinned(xs: Sequence[float], ys: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """At most MOST_POINTS points, each the mean of a stretch."""
    if len(xs) <= MOST_POINTS:
        return xs, ys
    cuts = [i * len(xs) // MOST_POINTS for i in range(MOST_POINTS + 1)]
    stretches = [slice(start, stop) for start, stop in pairwise(cuts)]
    means = [(sum(xs[s]) / len(xs[s]), sum(ys[s]) / len(ys[s])) for s in stretches]
    return [x for x, _ in means], [y for _, y in means]


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value, apart even where there is one value or none."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low > 1e-12 * max(abs(low), abs(high)):
        return low, high
    room = abs(low) * 0.1 or 1.0
    return low - room, high + room


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values between low and high: 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A tick's label: short, no trailing zeros."""
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.2g}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
