"""Head covers, drawn over the finished head. Coordinates are relative to the centre of the face."""

from __future__ import annotations

from collections.abc import Callable

from hayy.canvas import Canvas, Colour, Point, moved, shade
from hayy.palette import INK, NAMED

_CLOTH: Colour = (252, 250, 246)


def draw_behind(canvas: Canvas, cover: str, *, at: Point, colour: str) -> None:
    """Draw what falls behind the head: the cloth of a keffiyeh or a headscarf."""
    if cover == "keffiyeh":
        canvas.blob(moved([(0, -28), (22, -22), (28, 0), (30, 28), (34, 44), (-34, 44), (-30, 28), (-28, 0),
                           (-22, -22)], at), shade(_CLOTH, 0.82))  # fmt: skip
    elif cover == "headscarf":
        canvas.blob(moved([(0, -29), (21, -23), (28, -2), (28, 22), (32, 40), (-32, 40), (-28, 22), (-28, -2),
                           (-21, -23)], at), shade(NAMED[colour], 0.72))  # fmt: skip


def draw_cover(canvas: Canvas, cover: str, *, at: Point, colour: str) -> None:
    """Draw the cover itself."""
    _COVERS[cover](canvas, at, NAMED.get(colour, _CLOTH))


def _keffiyeh(canvas: Canvas, at: Point, colour: Colour) -> None:
    x, y = at
    crown: list[Point] = [(0, -29), (17, -25), (24, -11), (21, -9), (10, -14), (0, -15), (-10, -14), (-21, -9),
                          (-24, -11), (-17, -25)]  # fmt: skip
    canvas.blob(moved(crown, at), _CLOTH)
    for side in (-1, 1):
        fall: list[Point] = [
            (side * 15, -16), (side * 24, -12), (side * 29, 6), (side * 31, 26), (side * 36, 48), (side * 26, 54),
            (side * 14, 48), (side * 18, 26), (side * 19, 8),
        ]  # fmt: skip
        canvas.blob(moved(fall, at), _CLOTH)
        # A bold check: the cloth must still be read at 128 pixels through an autoencoder.
        for row in range(6):
            for column in range(2):
                left = x + side * (21 + column * 8 + row * 0.9) - 2.7
                top = y - 8 + row * 10 + column * 4.5
                canvas.box(left, top, left + 5.4, top + 5.4, colour)
        canvas.line(moved([(side * 15, 50), (side * 34, 50)], at), colour, width=3)
    for dx in (-12, 0, 12):
        canvas.box(x + dx - 2.7, y - 25 + abs(dx) * 0.2, x + dx + 2.7, y - 20 + abs(dx) * 0.2, colour)
    for lift in (0, 5):
        canvas.arc((x, y - 4 - lift), (24, 13), INK, start=195, end=345, width=4)


def _headscarf(canvas: Canvas, at: Point, colour: Colour) -> None:
    # The face stays free: the scarf is two halves around its oval.
    for side in (-1, 1):
        half: list[Point] = [
            (0, -29), (side * 19, -24), (side * 27, -6), (side * 27, 14), (side * 22, 30), (side * 30, 40),
            (side * 12, 47), (0, 47), (0, 22), (side * 9, 19), (side * 15, 11), (side * 17.5, 0), (side * 15, -11),
            (side * 8, -17), (0, -19),
        ]  # fmt: skip
        canvas.polygon(moved(half, at), colour)
    canvas.blob(moved([(-24, 26), (0, 34), (24, 26), (30, 42), (0, 50), (-30, 42)], at), colour)
    fold = shade(colour, 0.76)
    canvas.line(moved([(-22, 28), (-4, 36), (18, 38)], at), fold, width=2.6)
    canvas.line(moved([(20, 27), (6, 33)], at), fold, width=2.6)
    canvas.arc((at[0], at[1] - 2), (22, 24), fold, start=200, end=340, width=2)


def _hard_hat(canvas: Canvas, at: Point, colour: Colour) -> None:
    x, y = at
    canvas.blob(
        moved([(-23, -9), (-22, -22), (-12, -32), (0, -35), (12, -32), (22, -22), (23, -9), (0, -11)], at), colour
    )
    canvas.box(x - 4, y - 36, x + 4, y - 12, shade(colour, 0.84), radius=3)
    canvas.box(x - 28, y - 14, x + 28, y - 8, shade(colour, 0.74), radius=3)
    canvas.line(moved([(-15, -27), (-18, -18)], at), shade(colour, 1.6), width=3)


def _chef_hat(canvas: Canvas, at: Point, colour: Colour) -> None:
    x, y = at
    shadow = (216, 214, 216)
    for dx, dy, radius in ((-14, -32, 12), (14, -32, 12), (0, -35, 8.5)):
        canvas.disc((x + dx, y + dy), radius + 1.6, shadow)
    for dx, dy, radius in ((-14, -32, 12), (14, -32, 12), (0, -34, 10)):
        canvas.disc((x + dx, y + dy), radius, (255, 254, 250))
    canvas.box(x - 19, y - 28, x + 19, y - 11, (255, 254, 250))
    canvas.box(x - 20, y - 16, x + 20, y - 10, shadow, radius=2)
    for dx in (-8, 0, 8):
        canvas.line([(x + dx, y - 27), (x + dx, y - 18)], shadow, width=2)


def _beret(canvas: Canvas, at: Point, colour: Colour) -> None:
    canvas.blob(
        moved([(-20, -13), (-25, -22), (-10, -32), (12, -33), (30, -26), (29, -16), (20, -12), (0, -15)], at), colour
    )
    canvas.blob(moved([(-20, -12), (-19, -16), (0, -19), (19, -16), (20, -11), (0, -14)], at), shade(colour, 0.72))
    canvas.line(moved([(4, -33), (6, -37)], at), shade(colour, 0.72), width=3.4)


def _straw_hat(canvas: Canvas, at: Point, colour: Colour) -> None:
    straw = (238, 196, 104)
    canvas.ellipse((at[0], at[1] - 12), (36, 8.5), shade(straw, 0.8))
    canvas.ellipse((at[0], at[1] - 14), (36, 7.5), straw)
    canvas.blob(moved([(-18, -14), (-16, -28), (-8, -34), (8, -34), (16, -28), (18, -14), (0, -11)], at), straw)
    canvas.polygon(moved([(-18, -20), (18, -20), (18.5, -14), (0, -11.5), (-18.5, -14)], at), (176, 60, 44))


def _bare(canvas: Canvas, at: Point, colour: Colour) -> None:
    """No cover."""


_COVERS: dict[str, Callable[[Canvas, Point, Colour], None]] = {
    "none": _bare,
    "keffiyeh": _keffiyeh,
    "headscarf": _headscarf,
    "hard_hat": _hard_hat,
    "chef_hat": _chef_hat,
    "beret": _beret,
    "straw_hat": _straw_hat,
}
