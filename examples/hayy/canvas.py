"""A drawing surface in logical units: the picture is 128 units wide and high, whatever its pixels.

Shapes are drawn twice as large as asked and reduced at the end, which is what smooths their edges.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw

UNITS = 128
OVERSAMPLING = 2

Point = tuple[float, float]
Colour = tuple[int, int, int]


class Canvas:
    """A square RGB picture of `size` pixels, addressed in units of 1/128 of its side."""

    def __init__(self, size: int, *, background: Colour) -> None:
        self._size = size
        self._scale = size * OVERSAMPLING / UNITS
        side = size * OVERSAMPLING
        self._image = Image.new("RGB", (side, side), background)
        self._draw = ImageDraw.Draw(self._image)

    def polygon(self, points: Iterable[Point], colour: Colour) -> None:
        """Fill a closed polygon."""
        self._draw.polygon([(x * self._scale, y * self._scale) for x, y in points], fill=colour)

    def blob(self, points: Sequence[Point], colour: Colour) -> None:
        """Fill a closed smooth curve through `points`."""
        self.polygon(smooth(points), colour)

    def ellipse(self, centre: Point, radii: Point, colour: Colour) -> None:
        """Fill an upright ellipse."""
        (x, y), (rx, ry) = centre, radii
        self._draw.ellipse(self._box(x - rx, y - ry, x + rx, y + ry), fill=colour)

    def disc(self, centre: Point, radius: float, colour: Colour) -> None:
        """Fill a circle."""
        self.ellipse(centre, (radius, radius), colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour, *, radius: float = 0) -> None:
        """Fill an upright rectangle, its corners rounded by `radius`."""
        self._draw.rounded_rectangle(self._box(left, top, right, bottom), radius * self._scale, fill=colour)

    def arc(self, centre: Point, radii: Point, colour: Colour, *, start: float, end: float, width: float) -> None:
        """Stroke part of an ellipse, from `start` to `end` degrees clockwise from three o'clock."""
        (x, y), (rx, ry) = centre, radii
        self._draw.arc(
            self._box(x - rx, y - ry, x + rx, y + ry), start, end, fill=colour, width=round(width * self._scale)
        )

    def line(self, points: Sequence[Point], colour: Colour, *, width: float, round_ends: bool = True) -> None:
        """Stroke a line through `points`."""
        scaled = [(x * self._scale, y * self._scale) for x, y in points]
        self._draw.line(scaled, fill=colour, width=max(1, round(width * self._scale)), joint="curve")
        if round_ends:
            for end in (points[0], points[-1]):
                self.disc(end, width / 2, colour)

    def image(self) -> Image.Image:
        """Return the finished picture at its own size."""
        return self._image.resize((self._size, self._size), Image.Resampling.LANCZOS)

    def _box(self, left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        return (left * self._scale, top * self._scale, right * self._scale, bottom * self._scale)


def smooth(points: Sequence[Point], *, steps: int = 6) -> list[Point]:
    """Return a closed Catmull-Rom curve through `points`, with `steps` pieces between two of them."""
    count = len(points)
    curve: list[Point] = []
    for index in range(count):
        before, start, end, after = (points[(index + offset) % count] for offset in (-1, 0, 1, 2))
        for step in range(steps):
            t = step / steps
            curve.append(
                (
                    _spline(before[0], start[0], end[0], after[0], t),
                    _spline(before[1], start[1], end[1], after[1], t),
                )
            )
    return curve


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def shade(colour: Colour, factor: float) -> Colour:
    """Return `colour` darkened (`factor` below 1) or mixed with white (above 1, up to 2)."""
    if factor <= 1:
        red, green, blue = (round(channel * factor) for channel in colour)
    else:
        red, green, blue = (round(channel + (255 - channel) * (factor - 1)) for channel in colour)
    return (red, green, blue)


def moved(points: Iterable[Point], by: Point) -> list[Point]:
    """Return `points` shifted by a vector."""
    return [(x + by[0], y + by[1]) for x, y in points]
