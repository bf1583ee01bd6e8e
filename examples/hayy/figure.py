"""The person: body in a garment, head, face, hair. The head is centred on the point `HEAD`."""

from __future__ import annotations

from collections.abc import Callable

from hayy.attributes import Attributes
from hayy.canvas import Canvas, Colour, Point, moved, shade
from hayy.palette import HAIRS, INK, NAMED, SKINS

HEAD: Point = (54, 44)
"""Centre of the face, left of the middle: the right third of the picture belongs to the tool."""

HAND: Point = (97, 98)
FACE: Point = (19, 22)
"""Radii of the face."""

_BODY: list[Point] = [
    (54, 62), (64, 66), (74, 72), (86, 80), (93, 94), (96, 118), (98, 140),
    (10, 140), (12, 118), (15, 94), (22, 80), (34, 72), (44, 66),
]  # fmt: skip


def draw_body(canvas: Canvas, person: Attributes, *, shift: Point) -> None:
    """Draw neck, shoulders and garment down to the lower edge."""
    colour = NAMED[person.garment_colour]
    canvas.blob(moved(_BODY, shift), _GARMENT_BASE.get(person.garment, colour))
    x, y = HEAD[0] + shift[0], HEAD[1] + shift[1]
    skin = SKINS[person.skin]
    canvas.box(x - 8, y + 14, x + 8, y + 30, shade(skin, 0.84), radius=7)
    _GARMENTS[person.garment](canvas, x, y, colour)


def draw_arm(canvas: Canvas, person: Attributes, *, shift: Point, tool: Point) -> None:
    """Draw the right forearm, raised to the tool."""
    sleeve = _SLEEVES.get(person.garment, NAMED[person.garment_colour])
    x, y = tool
    wrist = (x - 6, y + 24)
    elbow = (88 + shift[0], 134 + shift[1])
    canvas.line([elbow, wrist], shade(sleeve, 0.82), width=19)
    canvas.line([elbow, wrist], sleeve, width=15)


def draw_hand(canvas: Canvas, person: Attributes, *, tool: Point) -> None:
    """Draw the hand over the grip of the tool."""
    skin = SKINS[person.skin]
    x, y = tool[0] - 5, tool[1] + 22
    canvas.disc((x, y), 7.5, shade(skin, 0.78))
    canvas.disc((x, y - 0.6), 6.4, skin)


def draw_back_hair(canvas: Canvas, person: Attributes, *, shift: Point) -> None:
    """Draw the long hair that falls behind the shoulders, where nothing covers it."""
    if person.gender == "woman" and person.head_cover not in ("keffiyeh", "headscarf"):
        x, y = HEAD[0] + shift[0], HEAD[1] + shift[1]
        shape: list[Point] = [
            (0, -27), (18, -22), (25, -4), (27, 18), (29, 36), (16, 41), (-16, 41), (-29, 36), (-27, 18), (-25, -4),
            (-18, -22),
        ]  # fmt: skip
        canvas.blob(moved(shape, (x, y)), HAIRS[person.hair])


def draw_head(canvas: Canvas, person: Attributes, *, shift: Point) -> None:
    """Draw face, beard and the hair in front, without any head cover."""
    x, y = HEAD[0] + shift[0], HEAD[1] + shift[1]
    skin, hair = SKINS[person.skin], HAIRS[person.hair]
    for side in (-1, 1):
        canvas.ellipse((x + side * 19, y + 3), (4, 5.5), shade(skin, 0.88))
    canvas.ellipse((x, y), FACE, skin)
    if person.beard:
        _beard(canvas, x, y, hair)
    _face(canvas, person, x, y)
    if person.head_cover not in ("keffiyeh", "headscarf"):
        _front_hair(canvas, person, x, y, hair)


def _beard(canvas: Canvas, x: float, y: float, hair: Colour) -> None:
    canvas.blob(
        moved([(-19, 0), (-15, 9), (-8, 8), (0, 6.5), (8, 8), (15, 9), (19, 0), (18, 14), (9, 24), (0, 26), (-9, 24),
               (-18, 14)], (x, y)),
        hair,
    )  # fmt: skip


def _face(canvas: Canvas, person: Attributes, x: float, y: float) -> None:
    skin = SKINS[person.skin]
    brow = shade(HAIRS[person.hair], 0.8)
    for side in (-1, 1):
        eye = (x + side * 7.5, y)
        canvas.ellipse(eye, (4.2, 3.6), (255, 252, 246))
        canvas.ellipse((eye[0], eye[1] + 0.2), (2.7, 3.2), INK)
        canvas.line([(eye[0] - 3.6, y - 7), (eye[0] + 3.6, y - 7.4)], brow, width=2.4)
        if person.gender == "woman":
            canvas.arc(eye, (5, 4.6), INK, start=185, end=355, width=2)
            canvas.disc((x + side * 11, y + 8), 3.2, _blush(skin))
    canvas.line([(x, y + 2), (x + 1.4, y + 6.5), (x - 1, y + 7)], shade(skin, 0.78), width=2)
    if person.gender == "woman":
        canvas.blob(moved([(-6, 12.5), (0, 11.4), (6, 12.5), (0, 17.5)], (x, y)), (188, 40, 60))
    else:
        mouth = (255, 240, 230) if person.beard else (132, 52, 48)
        canvas.arc((x, y + 10.5), (6.5, 5), mouth, start=15, end=165, width=2.6)


def _blush(skin: Colour) -> Colour:
    return (min(255, skin[0] + 8), round(skin[1] * 0.84), round(skin[2] * 0.84))


def _front_hair(canvas: Canvas, person: Attributes, x: float, y: float, hair: Colour) -> None:
    if person.gender == "woman":
        shape: list[Point] = [
            (0, -26), (14, -23), (22, -10), (22, 10), (18, 6), (16, -6), (6, -15), (-6, -12), (-14, -6), (-18, 6),
            (-22, 10), (-22, -10), (-14, -23),
        ]  # fmt: skip
    else:
        shape = [
            (0, -27), (13, -25), (21, -14), (20, 0), (17, -4), (15, -11), (4, -13), (-8, -14), (-15, -10), (-17, -3),
            (-20, 0), (-21, -14), (-13, -25),
        ]  # fmt: skip
    canvas.blob(moved(shape, (x, y)), hair)


def _collar(canvas: Canvas, x: float, y: float, colour: Colour, *, depth: float = 12) -> None:
    for side in (-1, 1):
        canvas.polygon([(x, y + 24 + depth), (x + side * 9, y + 21), (x + side * 15, y + 26)], colour)


def _thobe(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    fold = (206, 202, 196)
    canvas.box(x - 10, y + 21, x + 10, y + 28, (255, 254, 250), radius=3)
    canvas.line([(x, y + 28), (x, y + 62)], fold, width=2.2)
    for step in range(3):
        canvas.disc((x, y + 34 + step * 9), 1.8, (168, 160, 150))
    for side in (-1, 1):
        canvas.line([(x + side * 25, y + 52), (x + side * 22, y + 90)], fold, width=2.2)


def _abaya(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    gold = (226, 176, 70)
    canvas.polygon([(x - 10, y + 22), (x + 10, y + 22), (x, y + 34)], shade(colour, 1.2))
    for side in (-1, 1):
        canvas.line([(x + side * 11, y + 23), (x + side * 2.5, y + 40), (x + side * 2.5, y + 90)], gold, width=3)
        canvas.line([(x + side * 27, y + 50), (x + side * 24, y + 90)], shade(colour, 1.25), width=2.4)


def _lab_coat(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    canvas.polygon([(x - 11, y + 22), (x + 11, y + 22), (x, y + 62)], (84, 156, 214))
    for side in (-1, 1):
        canvas.polygon(
            [(x + side * 9, y + 20), (x + side * 19, y + 27), (x + side * 14, y + 42), (x, y + 64)], (214, 224, 234)
        )
    canvas.line([(x, y + 64), (x, y + 96)], (176, 190, 206), width=2.4)
    canvas.box(x - 33, y + 56, x - 16, y + 72, (214, 224, 234))
    canvas.box(x - 28, y + 50, x - 25, y + 60, NAMED["red"])
    canvas.box(x - 23, y + 50, x - 20, y + 60, NAMED["blue"])


def _scrubs(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    canvas.polygon([(x - 12, y + 21), (x + 12, y + 21), (x, y + 38)], shade(colour, 0.68))
    canvas.polygon([(x - 8, y + 21), (x + 8, y + 21), (x, y + 32)], (250, 236, 222))
    # A stethoscope round the neck.
    for side in (-1, 1):
        canvas.line([(x + side * 13, y + 22), (x + side * 12, y + 44), (x + side * 4, y + 56)], INK, width=3.4)
    canvas.line([(x - 4, y + 56), (x + 4, y + 56)], INK, width=3.4)
    canvas.disc((x, y + 64), 6.5, (206, 212, 222))
    canvas.disc((x, y + 64), 3.4, (120, 128, 142))


def _safety_vest(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    silver = (240, 246, 206)
    for side in (-1, 1):
        half: list[Point] = [(side * 12, 22), (side * 30, 32), (side * 30, 96), (side * 2, 96), (side * 2, 40)]
        canvas.polygon(moved(half, (x, y)), colour)
        canvas.box(min(x + side * 16, x + side * 23), y + 29, max(x + side * 16, x + side * 23), y + 58, silver)
        canvas.box(min(x + side * 3, x + side * 30), y + 56, max(x + side * 3, x + side * 30), y + 64, silver)
    canvas.line([(x, y + 38), (x, y + 96)], shade(colour, 0.6), width=2.4)


def _smock(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    _collar(canvas, x, y, shade(colour, 1.6), depth=8)
    canvas.box(x - 22, y + 42, x + 22, y + 100, (250, 240, 216), radius=5)
    for side in (-1, 1):
        canvas.line([(x + side * 19, y + 45), (x + side * 13, y + 24)], (250, 240, 216), width=5)
    # Wet paint on the apron: strokes of unlike colours, not the dots of a pattern.
    strokes: tuple[tuple[float, float, float, float, str], ...] = (
        (-14, 53, -4, 50, "red"), (5, 52, 14, 58, "blue"), (-15, 65, -7, 70, "yellow"), (0, 64, 6, 72, "green"),
        (13, 70, 17, 74, "orange"), (-8, 80, 2, 80, "purple"),
    )  # fmt: skip
    for left, top, right, bottom, name in strokes:
        canvas.line([(x + left, y + top), (x + right, y + bottom)], NAMED[name], width=6)


def _suit(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    canvas.polygon([(x - 11, y + 21), (x + 11, y + 21), (x, y + 66)], (254, 252, 248))
    canvas.polygon([(x - 4, y + 26), (x + 4, y + 26), (x + 5, y + 50), (x, y + 58), (x - 5, y + 50)], NAMED["red"])
    for side in (-1, 1):
        canvas.polygon(
            [(x + side * 9, y + 20), (x + side * 21, y + 28), (x + side * 16, y + 40), (x, y + 68)], shade(colour, 1.22)
        )
    canvas.line([(x, y + 68), (x, y + 96)], shade(colour, 0.7), width=2)


def _chef_jacket(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    canvas.box(x - 13, y + 21, x + 13, y + 28, (255, 254, 250), radius=3)
    canvas.polygon([(x - 13, y + 24), (x + 13, y + 24), (x + 4, y + 35), (x - 4, y + 35)], NAMED["red"])
    canvas.line([(x + 13, y + 30), (x + 15, y + 90)], (198, 196, 196), width=2.2)
    for side in (-1, 1):
        for step in range(4):
            canvas.disc((x + side * 9, y + 44 + step * 12), 3, INK)


def _shirt(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    _collar(canvas, x, y, shade(colour, 1.45))
    canvas.line([(x, y + 36), (x, y + 96)], shade(colour, 0.72), width=2.6)
    for step in range(3):
        canvas.disc((x, y + 44 + step * 13), 2.2, (252, 248, 240))
    canvas.box(x - 27, y + 46, x - 13, y + 60, shade(colour, 0.78), radius=2)


def _overalls(canvas: Canvas, x: float, y: float, colour: Colour) -> None:
    _collar(canvas, x, y, (252, 240, 208), depth=9)
    canvas.box(x - 21, y + 46, x + 21, y + 100, colour, radius=4)
    for side in (-1, 1):
        canvas.polygon(
            [(x + side * 17, y + 48), (x + side * 10, y + 48), (x + side * 17, y + 23), (x + side * 25, y + 27)], colour
        )
        canvas.disc((x + side * 15, y + 51), 3.4, (246, 206, 90))
    canvas.box(x - 10, y + 60, x + 10, y + 74, shade(colour, 0.74), radius=2)


_CREAM_SHIRT: Colour = (240, 214, 150)
_SITE_SHIRT: Colour = (72, 96, 140)
_GARMENT_BASE: dict[str, Colour] = {
    "safety_vest": _SITE_SHIRT,
    "overalls": _CREAM_SHIRT,
    "lab_coat": (246, 250, 254),
}
"""Garments whose large lower layer has a colour of its own."""

_SLEEVES: dict[str, Colour] = _GARMENT_BASE

_GARMENTS: dict[str, Callable[[Canvas, float, float, Colour], None]] = {
    "thobe": _thobe,
    "abaya": _abaya,
    "lab_coat": _lab_coat,
    "scrubs": _scrubs,
    "safety_vest": _safety_vest,
    "smock": _smock,
    "suit": _suit,
    "chef_jacket": _chef_jacket,
    "shirt": _shirt,
    "overalls": _overalls,
}
