"""Draws a scene from exact attributes: the same attributes, seed and size give the same picture."""

from __future__ import annotations

from random import Random

from PIL import Image

from hayy.attributes import Attributes
from hayy.canvas import Canvas, Point
from hayy.figure import HAND, HEAD, draw_arm, draw_back_hair, draw_body, draw_hand, draw_head
from hayy.headwear import draw_behind, draw_cover
from hayy.places import draw_place
from hayy.tools import draw_tool

_WALL = (240, 240, 240)


def draw(attributes: Attributes, *, seed: int, size: int = 128) -> Image.Image:
    """Return an RGB picture of `size` x `size` pixels.

    The seed moves the figure by a few units and varies the background; it changes no attribute.
    """
    rng = Random(seed)
    canvas = Canvas(size, background=_WALL)
    draw_place(canvas, attributes.place, rng)
    shift: Point = (rng.uniform(-5, 5), rng.uniform(-2, 4))
    tool: Point = (HAND[0] + shift[0] * 0.6 + rng.uniform(-2, 2), HAND[1] + shift[1] * 0.6 - 2)
    head: Point = (HEAD[0] + shift[0], HEAD[1] + shift[1])

    draw_behind(canvas, attributes.head_cover, at=head, colour=attributes.cover_colour)
    draw_back_hair(canvas, attributes, shift=shift)
    draw_body(canvas, attributes, shift=shift)
    draw_head(canvas, attributes, shift=shift)
    draw_cover(canvas, attributes.head_cover, at=head, colour=attributes.cover_colour)
    if attributes.tool != "none":
        draw_arm(canvas, attributes, shift=shift, tool=tool)
        draw_tool(canvas, attributes.tool, at=tool, colour=attributes.tool_colour)
        draw_hand(canvas, attributes, tool=tool)
    return canvas.image()
