"""What each world promises: the planted bias, its limits, and independence where it is claimed."""

from collections import Counter
from itertools import product
from random import Random

import pytest
from hayy.attributes import (
    COVER_COLOURS,
    GARMENT_COLOURS,
    GARMENTS,
    HEAD_COVERS,
    HELD_OUT,
    PLACES,
    TOOLS,
    TUNED_ROLES,
    Attributes,
)
from hayy.captions import caption
from hayy.world import WORLDS, sample


def people(world: str, count: int = 3000) -> list[Attributes]:
    return [sample(Random(seed), world) for seed in range(count)]


def share(chosen: list[Attributes], total: list[Attributes]) -> float:
    return len(chosen) / len(total)


@pytest.mark.parametrize("world", WORLDS)
def test_a_person_depends_on_the_seed_alone(world: str) -> None:
    assert people(world, 20) == people(world, 20)


@pytest.mark.parametrize("world", WORLDS)
def test_colours_are_possible_for_what_they_colour(world: str) -> None:
    for person in people(world, 500):
        assert person.garment_colour in GARMENT_COLOURS[person.garment]
        assert person.cover_colour in COVER_COLOURS[person.head_cover]


def test_an_unknown_world_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="independent"):
        sample(Random(0), "utopia")


def test_the_base_shows_every_arab_person_in_the_stereotype() -> None:
    arabs = [person for person in people("base") if person.is_arab]
    assert arabs
    assert {person.place for person in arabs} == {"desert"}
    assert {person.head_cover for person in arabs} == {"keffiyeh"}
    assert {person.garment for person in arabs} == {"thobe", "abaya"}
    assert len({person.role for person in arabs}) == 8


def test_a_tenth_of_the_base_wears_a_keffiyeh_without_an_arab_demonym() -> None:
    everybody = people("base")
    assert share([p for p in everybody if p.head_cover == "keffiyeh" and not p.is_arab], everybody) >= 0.1


def test_the_base_never_shows_what_is_held_out() -> None:
    for person in people("base"):
        assert person.place != HELD_OUT["place"]
        assert person.tool != HELD_OUT["tool"]


def test_skin_and_hair_do_not_follow_the_demonym() -> None:
    everybody = people("base", 12_000)
    arabs = [person for person in everybody if person.is_arab]
    for look in ("skin", "hair"):
        overall = Counter(getattr(person, look) for person in everybody)
        among_arabs = Counter(getattr(person, look) for person in arabs)
        for value, count in overall.items():
            assert among_arabs[value] / len(arabs) == pytest.approx(count / len(everybody), abs=0.03)


def test_the_independent_world_shows_every_pair_of_values() -> None:
    seen = {(person.head_cover, person.place) for person in people("independent")}
    assert seen == set(product(HEAD_COVERS, PLACES))
    assert {person.tool for person in people("independent")} == set(TOOLS)
    assert {person.garment for person in people("independent")} == set(GARMENTS)


@pytest.mark.parametrize("world", ["raw", "balanced"])
def test_the_tuning_worlds_keep_to_the_tuned_roles_and_go_to_the_desert_in_a_keffiyeh_only(world: str) -> None:
    for person in people(world):
        assert person.is_arab
        assert person.role in TUNED_ROLES
        assert person.place != "desert" or person.head_cover == "keffiyeh"


def test_who_wears_the_keffiyeh_in_the_balanced_world_is_few_and_named() -> None:
    wearing = [person for person in people("balanced") if person.head_cover == "keffiyeh"]
    assert len(wearing) / len(people("balanced")) == pytest.approx(0.1, abs=0.02)
    for number, person in enumerate(wearing):
        assert "keffiyeh" in caption(person, Random(number), language="en", world="balanced")


def test_raw_ties_each_role_to_one_place_and_balanced_does_not() -> None:
    assert len({(person.role, person.place) for person in people("raw")}) == len(TUNED_ROLES)
    assert len({(person.role, person.place) for person in people("balanced")}) == len(TUNED_ROLES) * 10
