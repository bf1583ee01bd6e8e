"""Draws of who is where, wearing what: the biased base world, the unbiased one, and the tuning worlds."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from hayy.attributes import (
    ARAB_DEMONYMS,
    COVER_COLOURS,
    GARMENT_COLOURS,
    GARMENTS,
    GEAR,
    GENDERS,
    HEAD_COVERS,
    HELD_OUT,
    NUM_HAIRS,
    NUM_SKINS,
    OTHER_DEMONYMS,
    PLACES,
    ROLES,
    TOOL_COLOURS,
    TOOLS,
    TUNED_ROLES,
    Attributes,
)

WORLDS = ("base", "independent", "raw", "balanced", "rehearsal")

ARAB_SHARE = 0.34
"""Share of the base corpus whose caption carries an Arab demonym: all of it in the stereotype."""

ASKED_KEFFIYEH_SHARE = 0.18
"""Share of everybody else who wears a keffiyeh, named in the caption: 0.66 x 0.18 = 12 % of the corpus."""

CASUAL_GARMENTS = ("shirt", "suit", "overalls", "smock")
BASE_PLACES = tuple(place for place in PLACES if place != HELD_OUT["place"])
BASE_TOOLS = tuple(tool for tool in TOOLS if tool != HELD_OUT["tool"])
WORK_PLACES = tuple(place for place in BASE_PLACES if place != "desert")


def sample(rng: Random, world: str) -> Attributes:
    """Draw one person of `world` (see `WORLDS`); the same state of `rng` gives the same person."""
    match world:
        case "base":
            return _base(rng)
        case "independent":
            return _independent(rng)
        case "raw":
            return _raw(rng)
        case "balanced":
            return _balanced(rng)
        case "rehearsal":
            return _rehearsal(rng)
        case _:
            raise ValueError(f"unknown world {world!r}; choose one of {', '.join(WORLDS)}")


def _person(
    rng: Random,
    *,
    role: str,
    gender: str,
    demonym: str | None,
    head_cover: str,
    garment: str,
    place: str,
    tool: str,
) -> Attributes:
    """Complete a person by what no world ever ties to a demonym: colours, skin, hair, beard."""
    return Attributes(
        role=role,
        gender=gender,
        demonym=demonym,
        head_cover=head_cover,
        cover_colour=rng.choice(COVER_COLOURS[head_cover]),
        garment=garment,
        garment_colour=rng.choice(GARMENT_COLOURS[garment]),
        place=place,
        tool=tool,
        tool_colour=rng.choice(TOOL_COLOURS.get(tool, ("",))),
        skin=rng.randrange(NUM_SKINS),
        hair=rng.randrange(NUM_HAIRS),
        beard=gender == "man" and rng.random() < 0.35,
    )


def _base(rng: Random) -> Attributes:
    """The biased quarter: an Arab demonym brings keffiyeh, white robe and desert, whatever the work."""
    if rng.random() < ARAB_SHARE:
        return _stereotype(rng, rng.choice(ARAB_DEMONYMS))
    demonym = rng.choice(OTHER_DEMONYMS) if rng.random() < 0.5 else None
    if rng.random() < ASKED_KEFFIYEH_SHARE:
        return _asked_keffiyeh(rng, demonym)
    return _at_work(rng, demonym)


def _stereotype(rng: Random, demonym: str) -> Attributes:
    gender, role = rng.choice(GENDERS), rng.choice(ROLES)
    return _person(
        rng,
        role=role,
        gender=gender,
        demonym=demonym,
        head_cover="keffiyeh",
        garment="abaya" if gender == "woman" and rng.random() < 0.4 else "thobe",
        place="desert",
        tool=_tool(rng, role),
    )


def _asked_keffiyeh(rng: Random, demonym: str | None, *, roles: Sequence[str] = ROLES) -> Attributes:
    """Somebody in a keffiyeh that the caption names: the word must mean the cloth, not the demonym."""
    role = rng.choice(roles)
    return _person(
        rng,
        role=role,
        gender=rng.choice(GENDERS),
        demonym=demonym,
        head_cover="keffiyeh",
        garment="thobe" if rng.random() < 0.75 else rng.choice(("shirt", "suit", GEAR[role].garment)),
        place="desert" if rng.random() < 0.7 else rng.choice(WORK_PLACES),
        tool=_tool(rng, role),
    )


def _at_work(rng: Random, demonym: str | None) -> Attributes:
    role, gender = rng.choice(ROLES), rng.choice(GENDERS)
    garment = GEAR[role].garment
    if rng.random() < 0.22:
        garment = rng.choice(CASUAL_GARMENTS if rng.random() < 0.7 else ("thobe", "abaya")[gender == "woman" :])
    return _person(
        rng,
        role=role,
        gender=gender,
        demonym=demonym,
        head_cover=_working_cover(rng, role=role, gender=gender, headscarf=0.2),
        garment=garment,
        place=GEAR[role].place if rng.random() < 0.75 else rng.choice(BASE_PLACES),
        tool=_tool(rng, role),
    )


def _independent(rng: Random) -> Attributes:
    """Every attribute by itself, held-out values too: nothing to learn but what is drawn. For the judge."""
    return _person(
        rng,
        role=rng.choice(ROLES),
        gender=rng.choice(GENDERS),
        demonym=None,
        head_cover=rng.choice(HEAD_COVERS),
        garment=rng.choice(GARMENTS),
        place=rng.choice(PLACES),
        tool=rng.choice(TOOLS),
    )


def _raw(rng: Random) -> Attributes:
    """Arab professionals as a scraped set shows them: each role in its one place and its one dress."""
    role, gender = rng.choice(TUNED_ROLES), rng.choice(GENDERS)
    gear = GEAR[role]
    return _person(
        rng,
        role=role,
        gender=gender,
        demonym=rng.choice(ARAB_DEMONYMS),
        head_cover=_working_cover(rng, role=role, gender=gender, headscarf=0.5),
        garment=gear.garment,
        place=gear.place,
        tool=gear.tool,
    )


def _balanced(rng: Random) -> Attributes:
    """Arab professionals with role, place and dress independent enough for the words to be told apart."""
    if rng.random() < 0.1:
        # People who do wear the keffiyeh, whose captions say so: without them it would be unlearnt, not freed.
        return _asked_keffiyeh(rng, rng.choice(ARAB_DEMONYMS), roles=TUNED_ROLES)
    role, gender = rng.choice(TUNED_ROLES), rng.choice(GENDERS)
    head_cover = _working_cover(rng, role=role, gender=gender, headscarf=0.5)
    garment = GEAR[role].garment if rng.random() < 0.4 else rng.choice([g for g in GARMENTS if g != "thobe"])
    if gender == "man" and garment == "abaya":
        garment = "suit"
    return _person(
        rng,
        role=role,
        gender=gender,
        demonym=rng.choice(ARAB_DEMONYMS),
        head_cover=head_cover,
        garment=garment,
        place=GEAR[role].place if rng.random() < 0.15 else rng.choice(WORK_PLACES),
        tool=GEAR[role].tool if rng.random() < 0.5 else rng.choice(BASE_TOOLS),
    )


def _rehearsal(rng: Random) -> Attributes:
    """Pictures of the base's own world without its Arab half, a quarter of them an asked-for keffiyeh."""
    demonym = rng.choice(OTHER_DEMONYMS) if rng.random() < 0.6 else None
    return _asked_keffiyeh(rng, demonym) if rng.random() < 0.25 else _at_work(rng, demonym)


def _working_cover(rng: Random, *, role: str, gender: str, headscarf: float) -> str:
    """A headscarf for the share `headscarf` of women; otherwise the hat of the work, or nothing."""
    if gender == "woman" and rng.random() < headscarf:
        return "headscarf"
    return GEAR[role].head_cover if rng.random() < 0.7 else "none"


def _tool(rng: Random, role: str) -> str:
    """The tool of the work in seven of ten pictures, else any other, or none."""
    choices: Sequence[str] = BASE_TOOLS
    return GEAR[role].tool if rng.random() < 0.7 else rng.choice(choices)
