"""Curves of a loss, made fit to be drawn."""

from collections.abc import Sequence


def smooth(values: Sequence[float], keep: float = 0.9) -> list[float]:
    """An exponential moving average, corrected for its start."""
    average, weight, out = 0.0, 0.0, []
    for value in values:
        average = keep * average + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        out.append(average / weight)
    return out


def thin_out(points: Sequence[tuple[int, float]], limit: int = 400) -> list[tuple[int, float]]:
    """At most about `limit` points, each the mean of its neighbours, so that a long run does not bloat the page."""
    stride = -(-len(points) // limit)
    if stride <= 1:
        return list(points)
    groups = [points[i : i + stride] for i in range(0, len(points), stride)]
    return [(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups]
