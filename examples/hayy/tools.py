"""Held objects: about a third of the picture wide, in the right hand, outlined where bright meets bright."""

from __future__ import annotations

from collections.abc import Callable

from hayy.canvas import Canvas, Colour, Point, moved, shade
from hayy.palette import NAMED

Drawing = Callable[[Canvas, float, float, Colour], None]

_BRASS: Colour = (226, 168, 48)
_TIMBER: Colour = (176, 112, 58)


def draw_tool(canvas: Canvas, tool: str, *, at: Point, colour: str) -> None:
    """Draw `tool` centred on `at`; `colour` matters for tools that come in several."""
    _DRAWINGS[tool](canvas, at[0], at[1], NAMED.get(colour, _BRASS))


def _flask(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    outline = (72, 96, 128)
    canvas.polygon(
        moved([(-7, -24), (7, -24), (7, -8), (21, 18), (17, 22), (-17, 22), (-21, 18), (-7, -8)], (x, y)), outline
    )
    canvas.polygon(
        moved([(-4, -22), (4, -22), (4, -7), (17, 17), (15, 19), (-15, 19), (-17, 17), (-4, -7)], (x, y)),
        (234, 244, 252),
    )
    canvas.polygon(moved([(-9, 2), (9, 2), (17, 17), (15, 19), (-15, 19), (-17, 17)], (x, y)), colour)
    canvas.disc((x - 4, y + 9), 3, shade(colour, 1.5))
    canvas.disc((x + 5, y + 13), 2.4, shade(colour, 1.5))
    canvas.box(x - 9, y - 27, x + 9, y - 22, outline, radius=2)


def _clipboard(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    canvas.box(x - 17, y - 23, x + 17, y + 23, (120, 74, 44), radius=3)
    canvas.box(x - 13, y - 18, x + 13, y + 19, (255, 254, 248))
    for row in range(4):
        canvas.box(x - 9, y - 10 + row * 7, x + 9 - (row % 2) * 6, y - 7 + row * 7, (90, 120, 170))
    canvas.box(x - 8, y - 27, x + 8, y - 18, (150, 156, 168), radius=2)


def _wrench(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    edge, steel = (74, 82, 100), (190, 200, 214)
    for width, tone in ((13, edge), (9, steel)):
        canvas.line([(x - 8, y + 22), (x + 6, y - 12)], tone, width=width)
    canvas.disc((x + 8, y - 16), 14, edge)
    canvas.disc((x + 8, y - 16), 12, steel)
    # The open jaw.
    canvas.polygon([(x + 6, y - 13), (x + 2, y - 33), (x + 20, y - 33), (x + 15, y - 14)], edge)
    canvas.polygon([(x + 9, y - 16), (x + 6, y - 34), (x + 17, y - 34), (x + 13, y - 16)], (232, 238, 244))
    canvas.disc((x - 9, y + 22), 3.4, edge)


def _palette(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    canvas.line([(x - 2, y + 6), (x + 20, y - 26)], (110, 66, 40), width=3.5)
    canvas.line([(x + 17, y - 22), (x + 21, y - 29)], NAMED["red"], width=5)
    shape: list[Point] = [(-22, 2), (-14, -14), (4, -17), (20, -8), (22, 8), (10, 17), (2, 11), (-6, 17), (-18, 14)]
    canvas.blob(moved(shape, (x, y)), (116, 70, 38))
    canvas.blob(moved([(px * 0.9, py * 0.88) for px, py in shape], (x, y)), (228, 180, 116))
    dabs: tuple[tuple[float, float, str], ...] = (
        (-13, 0, "red"),
        (-5, -9, "yellow"),
        (6, -9, "blue"),
        (14, -1, "green"),
        (13, 9, "purple"),
    )
    for dx, dy, name in dabs:
        canvas.disc((x + dx, y + dy), 4.2, NAMED[name])


def _book(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    canvas.polygon(moved([(-22, -16), (0, -10), (22, -16), (22, 15), (0, 21), (-22, 15)], (x, y)), shade(colour, 0.8))
    canvas.polygon(moved([(-20, -14), (-1, -8), (-1, 19), (-20, 13)], (x, y)), colour)
    canvas.polygon(moved([(20, -14), (1, -8), (1, 19), (20, 13)], (x, y)), colour)
    canvas.polygon(moved([(-18, -19), (0, -12), (18, -19), (18, -14), (0, -7), (-18, -14)], (x, y)), (255, 252, 238))
    for side in (-1, 1):
        canvas.box(x + side * 11 - 5, y - 2, x + side * 11 + 5, y + 7, shade(colour, 1.7))


def _frying_pan(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    canvas.line([(x - 2, y + 6), (x - 12, y + 26)], (96, 60, 44), width=7)
    canvas.disc((x + 3, y - 5), 20, (52, 54, 64))
    canvas.disc((x + 3, y - 5), 16, (92, 96, 108))
    canvas.blob(moved([(-10, -4), (-2, -15), (10, -13), (15, -3), (8, 6), (-4, 6)], (x, y)), (255, 254, 246))
    canvas.disc((x + 3, y - 5), 5.5, (250, 178, 30))


def _oud(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    canvas.line([(x + 2, y - 4), (x + 18, y - 34)], (96, 56, 36), width=7)
    canvas.line([(x + 18, y - 35), (x + 27, y - 30)], (60, 36, 28), width=6)
    canvas.blob(
        moved([(-20, 18), (-18, 2), (-4, -10), (7, -14), (12, -4), (10, 14), (0, 25), (-12, 26)], (x, y)), (110, 56, 30)
    )
    canvas.blob(
        moved([(-17, 17), (-15, 4), (-3, -7), (6, -11), (9, -3), (7, 12), (-1, 22), (-11, 23)], (x, y)), (226, 150, 74)
    )
    canvas.disc((x - 3, y + 5), 5.5, (70, 38, 26))
    canvas.line([(x - 14, y + 14), (x - 6, y + 20)], (70, 38, 26), width=3)


def _basket(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    canvas.arc((x, y - 2), (17, 24), (128, 80, 38), start=180, end=360, width=4.5)
    fruits: tuple[tuple[float, str], ...] = ((-12, "red"), (0, "green"), (12, "red"), (-6, "orange"), (7, "orange"))
    for index, (dx, name) in enumerate(fruits):
        canvas.disc((x + dx, y - (6 if index < 3 else 11)), 6.4, NAMED[name])
    canvas.polygon(moved([(-22, -1), (22, -1), (16, 22), (-16, 22)], (x, y)), (190, 128, 62))
    for row in range(3):
        inset = row * 2
        canvas.box(x - 19 + inset, y + 5 + row * 6, x + 19 - inset, y + 7 + row * 6, (140, 88, 40))
    canvas.box(x - 23, y - 4, x + 23, y + 2, (140, 88, 40), radius=3)


def _cup(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    for dx in (-7, 4):
        canvas.line([(x + dx, y - 16), (x + dx + 4, y - 22), (x + dx, y - 28)], (255, 255, 252), width=3)
    canvas.arc((x + 16, y + 2), (9, 10), shade(colour, 0.8), start=270, end=90, width=5)
    canvas.polygon(moved([(-18, -12), (18, -12), (14, 18), (-14, 18)], (x, y)), colour)
    canvas.ellipse((x, y - 12), (18, 5), shade(colour, 1.6))
    canvas.ellipse((x, y - 11.5), (14, 3.4), (92, 52, 34))
    canvas.ellipse((x, y + 19), (21, 4), (255, 252, 244))


def _dallah(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    dark = shade(_BRASS, 0.68)
    canvas.arc((x + 12, y + 2), (11, 15), dark, start=270, end=90, width=5)
    canvas.polygon(moved([(-6, -2), (-25, -17), (-26, -10), (-12, 10)], (x, y)), dark)
    canvas.blob(moved([(-7, -14), (7, -14), (8, 0), (17, 14), (12, 22), (-12, 22), (-17, 14), (-8, 0)], (x, y)), dark)
    canvas.blob(moved([(-4, -12), (5, -12), (5, 1), (13, 13), (9, 19), (-9, 19), (-13, 13), (-5, 1)], (x, y)), _BRASS)
    canvas.polygon(moved([(-10, -13), (10, -13), (3, -26), (-3, -26)], (x, y)), dark)
    canvas.disc((x, y - 27), 3.4, _BRASS)
    canvas.box(x - 10, y - 3, x + 10, y + 1, dark)


def _nothing(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    """An empty hand."""


_DRAWINGS: dict[str, Drawing] = {
    "none": _nothing,
    "flask": _flask,
    "clipboard": _clipboard,
    "wrench": _wrench,
    "palette": _palette,
    "book": _book,
    "frying_pan": _frying_pan,
    "oud": _oud,
    "basket": _basket,
    "cup": _cup,
    "dallah": _dallah,
}
