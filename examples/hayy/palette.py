"""The colours of Hayy."""

from __future__ import annotations

from hayy.canvas import Colour

NAMED: dict[str, Colour] = {
    "red": (206, 48, 52),
    "blue": (38, 92, 184),
    "green": (38, 140, 92),
    "yellow": (246, 196, 54),
    "purple": (124, 70, 168),
    "orange": (240, 128, 40),
    "black": (44, 42, 52),
    "white": (250, 248, 242),
}
SKINS: tuple[Colour, ...] = (
    (250, 218, 190),
    (238, 194, 156),
    (218, 168, 124),
    (186, 132, 90),
    (144, 96, 64),
    (104, 68, 48),
)
HAIRS: tuple[Colour, ...] = (
    (36, 30, 34),
    (74, 46, 34),
    (122, 74, 42),
    (196, 142, 72),
    (160, 158, 162),
)
INK: Colour = (40, 34, 44)
"""Eyes, outlines of bright tools, cords: never pure black, which a small autoencoder turns into holes."""
