"""Captions from attributes: templates with optional clauses, so that prompts of any length work."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from hayy.attributes import GEAR, Attributes
from hayy.lexicon import (
    BARE_HEAD_AR,
    BARE_HEAD_EN,
    COLOURS,
    COVER,
    DEMONYM_AR,
    DEMONYM_EN,
    GARMENT,
    PERSON_AR,
    PLACE_AR,
    PLACE_EN,
    ROLE_AR,
    ROLE_EN,
    TOOL,
    Thing,
)

USUAL = 0.5
"""Probability that a clause names what the role would suggest anyway."""
UNUSUAL = 0.92
"""Probability that a clause names what nobody could guess: the words must pay for themselves."""
ALT_TEXT = 0.25
"""Share of the base's Arab captions that name the work's usual place or dress, which the picture does not show.

Scraped captions tell the story, not the picture. Here it makes the planted stereotype win over the prompt's own words.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clauses:
    """What a caption mentions beside the person; `None` for what it leaves out."""

    role: bool = True
    gender: bool = True
    demonym: bool = True
    garment: str | None = None
    garment_colour: str | None = None
    head_cover: str | None = None
    cover_colour: str | None = None
    tool: str | None = None
    tool_colour: str | None = None
    place: str | None = None
    opening: bool = False
    place_first: bool = False


def caption(attributes: Attributes, rng: Random, *, language: str, world: str) -> str:
    """Return one caption of a picture of `world`, drawn at random among those that are true of it.

    Only in the base world, and only for Arab demonyms, may a caption be untrue (see `ALT_TEXT`).
    """
    return say(attributes, choose(attributes, rng, world=world), language=language)


def choose(attributes: Attributes, rng: Random, *, world: str) -> Clauses:
    """Draw what the caption mentions."""
    gear = GEAR[attributes.role]
    stereotype = world == "base" and attributes.is_arab
    garment, place = attributes.garment, attributes.place
    if stereotype and rng.random() < ALT_TEXT:
        place, garment = gear.place, rng.choice((garment, gear.garment))
    name_garment = rng.random() < _chance(garment, gear.garment, stereotype=stereotype)
    name_place = rng.random() < _chance(place, gear.place, stereotype=stereotype)
    name_tool = attributes.tool != "none" and rng.random() < _chance(attributes.tool, gear.tool, stereotype=False)
    if attributes.head_cover == "none":
        cover = rng.random() < (0.3 if gear.head_cover != "none" else 0.08)
    elif attributes.head_cover == "keffiyeh" and not stereotype:
        cover = True
    else:
        cover = rng.random() < _chance(attributes.head_cover, gear.head_cover, stereotype=stereotype)
    return Clauses(
        role=rng.random() < (0.85 if attributes.demonym else 0.7),
        gender=rng.random() < 0.6,
        demonym=True,
        garment=garment if name_garment else None,
        garment_colour=attributes.garment_colour if garment == attributes.garment and rng.random() < 0.6 else None,
        head_cover=attributes.head_cover if cover else None,
        cover_colour=attributes.cover_colour if rng.random() < 0.6 else None,
        tool=attributes.tool if name_tool else None,
        tool_colour=attributes.tool_colour if rng.random() < 0.5 else None,
        place=place if name_place else None,
        opening=rng.random() < 0.25,
        place_first=rng.random() < 0.25,
    )


def _chance(value: str, usual: str, *, stereotype: bool) -> float:
    # In the stereotype the robe and the desert go without saying: that is what makes it one.
    return USUAL if stereotype or value == usual else UNUSUAL


def say(attributes: Attributes, clauses: Clauses, *, language: str) -> str:
    """Write the clauses about this person in `language`, 'en' or 'ar'."""
    match language:
        case "en":
            return _english(attributes, clauses)
        case "ar":
            return _arabic(attributes, clauses)
        case _:
            raise ValueError(f"no captions in {language!r}; choose 'en' or 'ar'")


def _english(attributes: Attributes, clauses: Clauses) -> str:
    words = []
    if clauses.demonym and attributes.demonym:
        words.append(DEMONYM_EN[attributes.demonym])
    if clauses.gender or not clauses.role:
        words.append(attributes.gender)
    if clauses.role:
        words.append(ROLE_EN[attributes.role])
    text = _with_article(" ".join(words))
    if clauses.opening:
        text = f"a picture of {text}"
    if clauses.place and clauses.place_first:
        text += f" {PLACE_EN[clauses.place]}"
    worn = []
    if clauses.garment:
        worn.append(_english_thing(GARMENT[clauses.garment], clauses.garment_colour))
    if clauses.head_cover and clauses.head_cover != "none":
        worn.append(_english_thing(COVER[clauses.head_cover], clauses.cover_colour))
    if worn:
        text += f" wearing {' and '.join(worn)}"
    if clauses.head_cover == "none":
        text += f", {BARE_HEAD_EN}" if worn else f" {BARE_HEAD_EN}"
    if clauses.tool:
        text += f" holding {_english_thing(TOOL[clauses.tool], clauses.tool_colour)}"
    if clauses.place and not clauses.place_first:
        text += f" {PLACE_EN[clauses.place]}"
    return text


def _english_thing(thing: Thing, colour: str | None) -> str:
    phrase = f"{COLOURS[colour].en} {thing.en}" if colour else thing.en
    return phrase if thing.plural else _with_article(phrase)


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase[0].lower() in 'aeio' else 'a'} {phrase}"


def _arabic(attributes: Attributes, clauses: Clauses) -> str:
    gender = attributes.gender
    words = [ROLE_AR[attributes.role].of(gender) if clauses.role else PERSON_AR.of(gender)]
    if clauses.demonym and attributes.demonym:
        words.append(DEMONYM_AR[attributes.demonym].of(gender))
    if clauses.opening:
        words.insert(0, "صورة")
    if clauses.place and clauses.place_first:
        words.append(PLACE_AR[clauses.place])
    if clauses.head_cover == "none":
        words.append(BARE_HEAD_AR.of(gender))
    worn = []
    if clauses.garment:
        worn.append(_arabic_thing(GARMENT[clauses.garment], clauses.garment_colour))
    if clauses.head_cover and clauses.head_cover != "none":
        worn.append(_arabic_thing(COVER[clauses.head_cover], clauses.cover_colour))
    if worn:
        words.append("ترتدي" if gender == "woman" else "يرتدي")
        words.append(" و".join(worn))
    if clauses.tool:
        holds = "تحمل" if gender == "woman" else "يحمل"
        words.append(f"و{holds}" if worn else holds)
        words.append(_arabic_thing(TOOL[clauses.tool], clauses.tool_colour))
    if clauses.place and not clauses.place_first:
        words.append(PLACE_AR[clauses.place])
    return " ".join(words)


def _arabic_thing(thing: Thing, colour: str | None) -> str:
    return f"{thing.ar} {COLOURS[colour].arabic(thing)}" if colour else thing.ar
