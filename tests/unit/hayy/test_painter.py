"""The painter is deterministic, draws every value, and draws no two values alike."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hayy.attributes import COVER_COLOURS, GARMENT_COLOURS, GARMENTS, HEAD_COVERS, PLACES, TOOLS, Attributes
from hayy.painter import draw
from hayy.world import sample

SOMEBODY = sample(Random(4), "independent")


def drawn(person: Attributes, seed: int = 1, size: int = 128) -> np.ndarray:
    return np.asarray(draw(person, seed=seed, size=size)).astype(int)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_a_picture_is_square_rgb_of_the_size_asked(size: int) -> None:
    assert drawn(SOMEBODY, size=size).shape == (size, size, 3)


def test_the_same_seed_draws_the_same_picture_and_another_seed_another() -> None:
    assert (drawn(SOMEBODY, seed=5) == drawn(SOMEBODY, seed=5)).all()
    assert (drawn(SOMEBODY, seed=5) != drawn(SOMEBODY, seed=6)).any()


def test_role_and_demonym_leave_no_mark() -> None:
    for role, demonym in (("farmer", "japanese"), ("doctor", "emirati")):
        assert (drawn(replace(SOMEBODY, role=role, demonym=demonym)) == drawn(SOMEBODY)).all()


@pytest.mark.parametrize(
    ("attribute", "values", "colour", "colours"),
    [
        ("place", PLACES, None, {}),
        ("tool", TOOLS, None, {}),
        ("garment", GARMENTS, "garment_colour", GARMENT_COLOURS),
        ("head_cover", HEAD_COVERS, "cover_colour", COVER_COLOURS),
    ],
)
def test_every_two_values_differ_in_the_picture(
    attribute: str, values: tuple[str, ...], colour: str | None, colours: dict[str, tuple[str, ...]]
) -> None:
    pictures = []
    for value in values:
        changes = {attribute: value} | ({colour: colours[value][0]} if colour else {})
        pictures.append(drawn(replace(SOMEBODY, **changes)))
    for index, first in enumerate(pictures):
        for second in pictures[index + 1 :]:
            assert (np.abs(first - second).max(axis=2) > 40).mean() > 0.01
