"""Backgrounds: each place by two or three large shapes that survive a blur, mostly above the shoulders."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from hayy.canvas import Canvas, Colour, shade
from hayy.palette import NAMED

Scene = Callable[[Canvas, Random], None]

_WOOD: Colour = (150, 98, 60)
_STEEL: Colour = (128, 140, 156)
_GLASS: tuple[str, ...] = ("red", "green", "yellow", "purple", "blue", "orange")


def draw_place(canvas: Canvas, place: str, rng: Random) -> None:
    """Cover the whole canvas with `place`."""
    _SCENES[place](canvas, rng)


def _tint(colour: Colour, rng: Random) -> Colour:
    """A little lighter or darker, so that no wall has one exact value."""
    return shade(colour, rng.uniform(0.96, 1.12))


def _floor(canvas: Canvas, colour: Colour, *, top: float = 102) -> None:
    canvas.box(0, top, 128, 128, colour)
    canvas.box(0, top, 128, top + 3, shade(colour, 0.85))


def _desert(canvas: Canvas, rng: Random) -> None:
    canvas.box(0, 0, 128, 128, _tint((250, 206, 140), rng))
    canvas.box(0, 0, 128, 24, (248, 188, 122))
    sun = rng.choice((16, 104))
    canvas.disc((sun, 22), 13, (255, 240, 176))
    rise = rng.uniform(-6, 6)
    far = [(-8, 76 + rise), (22, 60 + rise), (58, 74), (96, 58 - rise), (136, 72 - rise), (136, 140), (-8, 140)]
    canvas.blob(far, (232, 164, 92))
    canvas.blob(
        [(-20, 110), (16, 90 - rise), (64, 104), (110, 88 + rise), (148, 104), (140, 150), (-14, 150)], (214, 140, 70)
    )


def _laboratory(canvas: Canvas, rng: Random) -> None:
    canvas.box(0, 0, 128, 128, _tint((196, 222, 240), rng))
    for top in (30, 66):
        canvas.box(0, top, 128, top + 4, (92, 120, 150))
    for index, left in enumerate((2, 15, 84, 98, 112)):
        colour = NAMED[_GLASS[(index + rng.randrange(6)) % 6]]
        canvas.box(left + 3, 8, left + 8, 16, (236, 244, 250))
        canvas.box(left, 13, left + 11, 30, colour, radius=2)
    # A microscope on the lower shelf at the left.
    canvas.box(0, 102, 26, 108, (60, 74, 98))
    canvas.line([(5, 100), (5, 84), (14, 76)], (60, 74, 98), width=5)
    canvas.line([(8, 72), (18, 88)], (84, 102, 132), width=7)
    _floor(canvas, (120, 152, 172), top=106)
    for left in (104, 114):
        canvas.box(left, 48, left + 7, 66, NAMED[rng.choice(_GLASS)], radius=3)
        canvas.box(left, 44, left + 7, 52, (236, 244, 250), radius=2)


def _hospital(canvas: Canvas, rng: Random) -> None:
    canvas.box(0, 0, 128, 128, _tint((214, 242, 228), rng))
    canvas.box(4, 10, 30, 48, (252, 254, 255))
    canvas.box(7, 13, 27, 45, (150, 204, 240))
    canvas.box(16, 10, 18, 48, (252, 254, 255))
    x, y = 106 + rng.uniform(-3, 3), 28 + rng.uniform(-3, 3)
    canvas.disc((x, y), 19, (250, 254, 252))
    canvas.box(x - 5, y - 14, x + 5, y + 14, (24, 158, 98))
    canvas.box(x - 14, y - 5, x + 14, y + 5, (24, 158, 98))
    _floor(canvas, (150, 208, 190), top=92)
    canvas.box(0, 74, 4, 128, (120, 140, 160))
    canvas.box(0, 86, 28, 108, (250, 252, 254), radius=3)
    canvas.box(2, 78, 20, 90, (196, 220, 244), radius=4)


def _building_site(canvas: Canvas, rng: Random) -> None:
    canvas.box(0, 0, 128, 128, _tint((156, 206, 242), rng))
    beam = (176, 92, 60)
    for x in (4, 34, 92, 122):
        canvas.box(x - 4, 34, x + 4, 128, beam)
    for y in (38, 70, 102):
        canvas.box(0, y - 4, 128, y + 4, shade(beam, 0.86))
    canvas.line([(0, 70), (34, 38)], shade(beam, 0.86), width=4)
    canvas.line([(122, 70), (92, 38)], shade(beam, 0.86), width=4)
    crane = (250, 190, 20)
    mast = 112 + rng.uniform(-4, 4)
    canvas.box(mast - 3, 4, mast + 3, 36, crane)
    canvas.box(52, 8, 128, 13, crane)
    canvas.line([(mast, 2), (56, 10)], shade(crane, 0.8), width=2)
    canvas.box(0, 114, 128, 128, (196, 170, 132))


def _studio(canvas: Canvas, rng: Random) -> None:
    canvas.box(0, 0, 128, 128, _tint((240, 226, 236), rng))
    for left, top, right, bottom in ((3, 8, 33, 44), (92, 6, 126, 40)):
        canvas.box(left, top, right, bottom, (132, 84, 52))
        canvas.box(left + 3, top + 3, right - 3, bottom - 3, (255, 252, 240))
        middle = (left + right) / 2
        first, second, third = rng.sample(("red", "blue", "green", "yellow", "purple", "orange"), 3)
        canvas.disc((middle - 4, top + 13), 7, NAMED[first])
        canvas.box(left + 4, bottom - 12, right - 4, bottom - 4, NAMED[second])
        canvas.disc((middle + 6, top + 19), 5, NAMED[third])
    _floor(canvas, (196, 158, 130), top=100)
    # An easel at the left, half behind the painter.
    canvas.line([(4, 128), (14, 52)], _WOOD, width=4)
    canvas.line([(26, 128), (14, 52)], _WOOD, width=4)
    canvas.box(0, 58, 24, 92, (255, 252, 240))
    canvas.box(2, 76, 22, 90, NAMED[rng.choice(("green", "blue", "orange"))])


def _classroom(canvas: Canvas, rng: Random) -> None:
    canvas.box(0, 0, 128, 128, _tint((244, 226, 184), rng))
    canvas.box(2, 6, 126, 72, (150, 100, 60))
    canvas.box(6, 10, 122, 68, (36, 92, 78))
    chalk = (232, 240, 228)
    for row, y in enumerate((20, 34, 48)):
        canvas.line([(12, y), (rng.uniform(24, 32), y)], chalk, width=3)
        canvas.line([(88, y), (rng.uniform(102, 116), y)], chalk, width=3)
        if row == 1:
            canvas.disc((19, y + 8), 4, chalk)
    canvas.box(0, 98, 128, 128, (176, 118, 72))
    canvas.box(0, 98, 128, 102, (138, 90, 54))
    # A globe on the desk at the left.
    canvas.disc((12, 86), 11, (64, 140, 210))
    canvas.blob([(6, 80), (13, 79), (14, 87), (8, 90)], (92, 176, 92))


def _kitchen(canvas: Canvas, rng: Random) -> None:
    canvas.box(0, 0, 128, 128, _tint((252, 220, 172), rng))
    for y in range(0, 98, 16):
        canvas.box(0, y, 128, y + 1.6, (232, 178, 122))
    for x in range(0, 128, 16):
        canvas.box(x, 0, x + 1.6, 98, (232, 178, 122))
    canvas.box(0, 10, 128, 14, (96, 72, 62))
    for x in (14, 34, 92, 114):
        radius = rng.uniform(8, 10)
        pan = rng.choice(((196, 104, 56), (110, 112, 122)))
        canvas.box(x - 2, 12, x + 2, 28, shade(pan, 0.8))
        canvas.disc((x, 24 + radius), radius, pan)
        canvas.disc((x, 24 + radius), radius - 3, shade(pan, 1.25))
    canvas.box(0, 94, 128, 128, (142, 156, 160))
    canvas.box(0, 94, 128, 98, (222, 230, 230))
    # A steaming pot at the left.
    canvas.box(0, 76, 24, 96, (176, 54, 50), radius=3)
    canvas.box(-2, 74, 26, 79, (208, 84, 76), radius=2)


def _stage(canvas: Canvas, rng: Random) -> None:
    canvas.box(0, 0, 128, 128, _tint((58, 46, 92), rng))
    lean = rng.uniform(-8, 8)
    canvas.polygon([(52 + lean, 0), (70 + lean, 0), (112, 112), (14, 112)], (112, 94, 142))
    for left, right in ((0, 26), (102, 128)):
        canvas.box(left, 0, right, 112, (176, 28, 48))
        for fold in range(4):
            x = left + 3 + fold * 6.5
            canvas.box(x, 0, x + 2.6, 112, (130, 16, 36))
    canvas.box(0, 0, 128, 12, (196, 40, 58))
    canvas.box(0, 10, 128, 14, (238, 190, 80))
    canvas.box(0, 106, 128, 128, (150, 96, 58))
    canvas.box(0, 106, 128, 109, (186, 128, 82))


def _field(canvas: Canvas, rng: Random) -> None:
    canvas.box(0, 0, 128, 128, _tint((140, 208, 248), rng))
    canvas.disc((rng.choice((18, 106)), 16), 11, (255, 226, 92))
    canvas.blob([(-10, 66), (30, 52), (70, 62), (110, 50), (140, 62), (140, 140), (-10, 140)], (96, 176, 84))
    for x in (-40, -4, 32, 68, 104, 140):
        canvas.polygon([(x, 128), (x + 16, 128), (64 + (x - 56) * 0.35, 66), (64 + (x - 60) * 0.35, 66)], (60, 132, 60))
    for x, y in ((10, 52), (116, 46)):
        canvas.box(x - 3, y, x + 3, y + 24, (120, 78, 46))
        canvas.disc((x, y - 4), 14, (48, 128, 66))
        for dx, dy in ((-6, -6), (5, -2), (-1, 5)):
            canvas.disc((x + dx, y - 4 + dy), 3, (240, 120, 50))


def _street(canvas: Canvas, rng: Random) -> None:
    canvas.box(0, 0, 128, 128, _tint((186, 214, 238), rng))
    walls = rng.sample(((222, 110, 92), (240, 190, 100), (104, 160, 170), (206, 150, 180)), 3)
    for (left, right, top), wall in zip(((0, 38, 12), (38, 88, 26), (88, 128, 6)), walls, strict=True):
        canvas.box(left, top, right, 108, wall)
        canvas.box(left, top, right, top + 4, shade(wall, 0.75))
        for y in (top + 10, top + 32):
            for x in (left + 5, right - 16):
                canvas.box(x, y, x + 11, y + 15, (252, 244, 220))
                canvas.box(x + 2, y + 2, x + 9, y + 13, (70, 96, 136))
    for stripe in range(5):
        colour = (250, 250, 246) if stripe % 2 else (206, 60, 60)
        canvas.box(88 + stripe * 8, 70, 96 + stripe * 8, 80, colour)
    _floor(canvas, (148, 148, 156), top=104)


def _courtyard(canvas: Canvas, rng: Random) -> None:
    stone = _tint((236, 206, 158), rng)
    canvas.box(0, 0, 128, 128, stone)
    for middle in (14, 64, 114):
        canvas.box(middle - 18, 34, middle + 18, 80, (64, 92, 140))
        canvas.ellipse((middle, 36), (18, 24), (64, 92, 140))
        canvas.arc((middle, 36), (20, 26), (250, 240, 216), start=180, end=360, width=4)
    for column in (-9, 37, 85, 133):
        canvas.box(column, 34, column + 6, 84, (250, 240, 216))
    for index in range(13):
        left = index * 10
        canvas.box(left, 80, left + 10, 92, (24, 120, 150) if index % 2 else (250, 246, 232))
        canvas.polygon(
            [(left + 5, 81), (left + 9, 86), (left + 5, 91), (left + 1, 86)],
            (232, 160, 60) if index % 2 else (24, 90, 140),
        )
    _floor(canvas, (206, 162, 116), top=92)


_SCENES: dict[str, Scene] = {
    "desert": _desert,
    "laboratory": _laboratory,
    "hospital": _hospital,
    "building_site": _building_site,
    "studio": _studio,
    "classroom": _classroom,
    "kitchen": _kitchen,
    "stage": _stage,
    "field": _field,
    "street": _street,
    "courtyard": _courtyard,
}
