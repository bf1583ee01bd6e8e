"""Plots as inline SVG. Marks are placed in per cent of the width: a plot fills its place, and its marks stay round.

Before and after differ in shape, lane and colour: a hollow square above, a filled circle below.
"""

from collections.abc import Sequence

from markupsafe import Markup, escape

from marsam.pages.curves import smooth
from marsam_generator.evaluation.report.formats import percent, percent_range
from marsam_generator.evaluation.statistics import Interval

_BEFORE_Y, _AFTER_Y, _HEIGHT = 8, 20, 28
_INSET = 2.0  # per cent kept free at both ends, so that a mark at 0 or 100 is not cut


def _x(rate: float) -> str:
    return f"{_INSET + rate * (100 - 2 * _INSET):.2f}%"


def dumbbell(before: float, before_interval: Interval, after: float, after_interval: Interval) -> Markup:
    """Two rates on a scale of 0 to 100 %, each with its interval."""
    label = (
        f"before {percent(before)}, 95 % interval {percent_range(before_interval)}; "
        f"after {percent(after)}, 95 % interval {percent_range(after_interval)}"
    )
    ticks = "".join(
        f'<line class="tick" x1="{_x(t)}" x2="{_x(t)}" y1="2" y2="{_HEIGHT - 2}"/>' for t in (0, 0.25, 0.5, 0.75, 1)
    )
    return Markup(
        f'<svg class="track" role="img" aria-label="{escape(label)}" width="100%" height="{_HEIGHT}">'
        f"<title>{escape(label)}</title>{ticks}"
        f'<line class="before whisker" x1="{_x(before_interval.low)}" x2="{_x(before_interval.high)}"'
        f' y1="{_BEFORE_Y}" y2="{_BEFORE_Y}"/>'
        f'<line class="after whisker" x1="{_x(after_interval.low)}" x2="{_x(after_interval.high)}"'
        f' y1="{_AFTER_Y}" y2="{_AFTER_Y}"/>'
        f'<rect class="before mark" x="{_x(before)}" y="{_BEFORE_Y - 5}" width="10" height="10"'
        ' transform="translate(-5 0)"/>'
        f'<circle class="after mark" cx="{_x(after)}" cy="{_AFTER_Y}" r="5.5"/></svg>'
    )  # fmt: skip


def bar(share: float, *, mark: float | None = None, kind: str = "after") -> Markup:
    """A horizontal bar of `share` in [0, 1], with a line at `mark` where something is compared with it."""
    line = (
        f'<line class="before whisker" x1="{mark * 100:.2f}%" x2="{mark * 100:.2f}%" y1="0" y2="10"/>' if mark else ""
    )
    width = min(1.0, max(0.0, share)) * 100
    return Markup(
        '<svg class="bar" aria-hidden="true" width="100%" height="10"><rect class="trough" width="100%" height="10"'
        f' rx="2"/><rect class="{escape(kind)} fill" width="{width:.2f}%" height="10" rx="2"/>'
        f"{line}</svg>"
    )


def curve(points: Sequence[tuple[int, float]], *, low: float, high: float) -> Markup:
    """A loss curve between the losses `low` and `high`: every point thin, their moving average bold.

    Axis labels are the page's matter. Drawn in a box of 100 × 100 that is stretched to its place; strokes keep their
    width.
    """
    first, last = points[0][0], points[-1][0]
    span, height = max(1, last - first), max(1e-12, high - low)

    def path(losses: Sequence[float]) -> str:
        return " ".join(
            f"{'M' if i == 0 else 'L'}{(step - first) / span * 100:.2f} {(high - loss) / height * 100:.2f}"
            for i, ((step, _), loss) in enumerate(zip(points, losses, strict=True))
        )

    raw = [loss for _, loss in points]
    averaged = smooth(raw)
    label = f"loss {averaged[0]:.3f} at step {first}, {averaged[-1]:.3f} at step {last} (moving average)"
    grid = "".join(f'<line class="tick" x1="0" x2="100" y1="{y}" y2="{y}"/>' for y in (0, 50, 100))
    return Markup(
        f'<svg class="curve" role="img" aria-label="{label}" viewBox="0 0 100 100" preserveAspectRatio="none">'
        f'<title>{label}</title>{grid}<path class="raw" d="{path(raw)}"/>'
        f'<path class="average" d="{path(averaged)}"/></svg>'
    )
