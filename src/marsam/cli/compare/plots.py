"""Losses of several runs over one another, as inline SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from marsam.cli.compare.gather import Trial
from marsam.core.averages import MovingAverage
from marsam.pages.curves import thin_out

WINDOW = 40
"""A curve's bold line goes back over about this part of the longest run's steps."""

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot and the ends of its axes."""

    title: str
    says: str
    drawn: Markup
    low: str
    high: str
    last_step: int


def plots(trials: Sequence[Trial]) -> list[Plot]:
    """Training losses and validation losses, each where any run has them."""
    training = _plot(
        "Training loss", "Thin: averaged over about ten steps, as a run tells it while it works, and so for published "
        "models too. Bold: the moving average of that over a fortieth of the longest run's steps.",
        [thin_out(trial.losses) for trial in trials], average=True,
    )  # fmt: skip
    validation = _plot(
        "Validation loss", "On pictures held out, at fixed noise and times.",
        [trial.validation for trial in trials], average=False,
    )  # fmt: skip
    return [plot for plot in (training, validation) if plot is not None]


def _plot(title: str, says: str, curves: Sequence[Points], *, average: bool) -> Plot | None:
    last = max((points[-1][0] for points in curves if points), default=0)
    lines = [[loss for _, loss in points] for points in curves]
    averaged = [_followed(points, last) for points in curves] if average else lines
    seen = [loss for losses in averaged for loss in losses]
    if not seen:
        return None
    # By what is bold: a single odd point does not flatten all curves. What lies beyond is drawn at the edge.
    low, high = min(seen), max(seen)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - margin, high + margin

    def path(points: Points, losses: Sequence[float]) -> str:
        places = [
            f"{step / max(1, last) * 100:.2f} {(high - min(high, max(low, loss))) / (high - low) * 100:.2f}"
            for (step, _), loss in zip(points, losses, strict=True)
        ]
        # A line to where it begins already is a dot, when its ends are round.
        return f"M{' L'.join(places)}" + (f" L{places[0]}" if len(places) == 1 else "")

    drawn = [f'<line class="tick" x1="0" x2="100" y1="{y}" y2="{y}"/>' for y in (0, 50, 100)]
    for number, points in enumerate(curves):
        if points and average and len(points) > 1:
            drawn.append(f'<path class="raw r{number}" d="{path(points, lines[number])}"/>')
    for number, points in enumerate(curves):
        if points:
            drawn.append(f'<path class="bold r{number}" d="{path(points, averaged[number])}"/>')
    told = ", ".join(f"run {number + 1}: {losses[-1]:.5f}" for number, losses in enumerate(averaged) if losses)
    label = f"{title}, last values: {told}"
    svg = Markup(
        f'<svg class="curve" role="img" aria-label="{label}" viewBox="0 0 100 100" preserveAspectRatio="none">'
        f"<title>{label}</title>{''.join(drawn)}</svg>"
    )
    return Plot(title=title, says=says, drawn=svg, low=f"{low:.4g}", high=f"{high:.4g}", last_step=last)


def _followed(points: Points, steps: int) -> list[float]:
    """The moving average of a curve over the same steps for all, however many points it has."""
    average = MovingAverage(math.exp(-WINDOW / max(1, steps)))
    return [average.add(step, loss) for step, loss in points]
