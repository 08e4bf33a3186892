"""Fewer points with the same look: Largest-Triangle-Three-Buckets (Steinarsson 2013, section 4.2)."""

from collections.abc import Sequence


def thin(xs: Sequence[float], ys: Sequence[float], num_points: int) -> list[int]:
    """Indices of at most `num_points` points: the first, the last, and of each bucket between the one that stands out.

    A point stands out by the triangle it makes with the point chosen before and the mean of the next bucket.
    """
    total = len(xs)
    if total <= num_points or num_points < 3:
        return list(range(total))
    width = (total - 2) / (num_points - 2)
    chosen = [0]
    for bucket in range(num_points - 2):
        start, end = int(bucket * width) + 1, int((bucket + 1) * width) + 1
        after = range(end, min(int((bucket + 2) * width) + 1, total)) or range(total - 1, total)
        mean_x = sum(xs[i] for i in after) / len(after)
        mean_y = sum(ys[i] for i in after) / len(after)
        x, y = xs[chosen[-1]], ys[chosen[-1]]
        chosen.append(
            max(range(start, end), key=lambda i: abs((x - mean_x) * (ys[i] - y) - (x - xs[i]) * (mean_y - y)))
        )
    return [*chosen, total - 1]
