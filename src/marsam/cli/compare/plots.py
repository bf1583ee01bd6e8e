"""Losses of several runs over one another, as inline SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from marsam.cli.compare.gather import Trial
from marsam.pages.curves import smooth, thin_out

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
        "Training loss", "Every point thin, their moving average bold.",
        [thin_out(trial.losses) for trial in trials], average=True,
    )  # fmt: skip
    validation = _plot(
        "Validation loss", "On pictures held out, at fixed noise and times.",
        [trial.validation for trial in trials], average=False,
    )  # fmt: skip
    return [plot for plot in (training, validation) if plot is not None]


def _plot(title: str, says: str, curves: Sequence[Points], *, average: bool) -> Plot | None:
    lines = [[loss for _, loss in points] for points in curves]
    averaged = [smooth(losses) if average else losses for losses in lines]
    seen = [loss for losses in averaged for loss in losses]
    if not seen:
        return None
    # By what is bold: a single odd point does not flatten all curves. What lies beyond is drawn at the edge.
    low, high = min(seen), max(seen)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - margin, high + margin
    last = max(points[-1][0] for points in curves if points)

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
