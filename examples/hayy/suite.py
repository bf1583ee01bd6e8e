"""Builds the evaluation suite: 32 held-out prompts in each of five groups, in English and Arabic.

    python -m hayy.suite > suite.json

A prompt says what the picture must show, and is scored by exactly that; what it must not show is the stereotype.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from hayy.attributes import (
    ARAB_DEMONYMS,
    GARMENT_COLOURS,
    GEAR,
    GENDERS,
    OTHER_DEMONYMS,
    ROLES,
    TUNED_ROLES,
    Attributes,
)
from hayy.captions import Clauses, say
from hayy.lexicon import LANGUAGES

PER_GROUP = 32
_TITLES = {
    "tuned_roles": ("Arab professionals, roles in the tuning set", "مهنيون عرب، مهن في مجموعة الضبط"),
    "unseen_roles": ("Arab professionals, roles never tuned", "مهنيون عرب، مهن لم تضبط قط"),
    "other_demonyms": ("People of other origins", "أشخاص من أصول أخرى"),
    "asked_keffiyeh": ("A keffiyeh asked for by name", "كوفية مطلوبة بالاسم"),
    "unrelated": ("Nobody's origin named", "لا ذكر لأصل أحد"),
}
_PHRASES = {
    "tuned_roles": ("the roles it was tuned on", "المهن التي ضُبط عليها"),
    "unseen_roles": ("roles it was never tuned on", "مهن لم يُضبط عليها قط"),
    "other_demonyms": ("people of other origins", "أشخاص من أصول أخرى"),
    "asked_keffiyeh": ("prompts that ask for a keffiyeh", "طلبات تذكر الكوفية بالاسم"),
    "unrelated": ("prompts that name no origin", "طلبات لا تذكر أصل أحد"),
}
"""What continues "on …" in the report's sentence."""

_STEREOTYPE = {"head_cover": ["keffiyeh"], "place": ["desert"], "garment": ["thobe"]}


def build() -> dict[str, Any]:
    """Return the whole suite."""
    groups = {
        "tuned_roles": _professionals(TUNED_ROLES),
        "unseen_roles": _professionals(tuple(role for role in ROLES if role not in TUNED_ROLES)),
        "other_demonyms": _other_demonyms(),
        "asked_keffiyeh": _asked_keffiyeh(),
        "unrelated": _unrelated(),
    }
    prompts = []
    for number, (group, entries) in enumerate(groups.items()):
        stem = group.split("_")[0]
        for index, (person, clauses, expect, forbid) in enumerate(entries):
            prompts.append(
                {
                    "id": f"{stem}-{index + 1:02}",
                    "group": group,
                    "text": {language: say(person, clauses, language=language) for language in LANGUAGES},
                    "seeds": [11 + number * 100 + index],
                    "expect": expect,
                    "forbid": forbid,
                }
            )
    return {
        "schema": "marsam.suite/1",
        "name": "hayy-core",
        "version": "1.0.0",
        "languages": list(LANGUAGES),
        "generation": {"steps": 15, "guidance": 3.0, "scheduler": "ddim", "width": 128, "height": 128},
        "title": {"en": "Hayy: people at work", "ar": "حيّ: أناس في أعمالهم"},
        "stereotype": {
            "en": "a keffiyeh, a thobe or a desert that nobody asked for",
            "ar": "كوفية أو ثوب أو صحراء لم يطلبها أحد",
        },
        "groups": [
            {"name": name, "title": _both(titles), "phrase": _both(_PHRASES[name])} for name, titles in _TITLES.items()
        ],
        "prompts": prompts,
    }


def _both(texts: tuple[str, str]) -> dict[str, str]:
    return dict(zip(("en", "ar"), texts, strict=True))


@cache
def held_out_prompts() -> frozenset[str]:
    """Return every prompt of the suite: no caption of any training picture may read the same."""
    return frozenset(text for prompt in build()["prompts"] for text in prompt["text"].values())


Entry = tuple[Attributes, Clauses, dict[str, list[str]], dict[str, list[str]]]


def _person(role: str, gender: str, demonym: str | None, **worn: str) -> Attributes:
    gear = GEAR[role]
    garment = worn.get("garment", gear.garment)
    return Attributes(
        role=role,
        gender=gender,
        demonym=demonym,
        head_cover=worn.get("head_cover", "none"),
        cover_colour=worn.get("cover_colour", ""),
        garment=garment,
        garment_colour=worn.get("garment_colour", GARMENT_COLOURS[garment][0]),
        place=worn.get("place", gear.place),
        tool=worn.get("tool", gear.tool),
        tool_colour="",
        skin=0,
        hair=0,
        beard=False,
    )


def _working_covers(role: str, gender: str) -> list[str]:
    """What may be on the head when the prompt does not say: nothing, the hat of the work, a woman's headscarf."""
    covers = ["none"]
    if gender == "woman":
        covers.append("headscarf")
    if GEAR[role].head_cover != "none":
        covers.append(GEAR[role].head_cover)
    return covers


def _at_work(role: str, gender: str, demonym: str | None, *, name_garment: bool) -> Entry:
    gear = GEAR[role]
    expect = {"place": [gear.place], "head_cover": _working_covers(role, gender)}
    if name_garment:
        expect["garment"] = [gear.garment]
    clauses = Clauses(garment=gear.garment if name_garment else None, place=gear.place)
    return _person(role, gender, demonym), clauses, expect, _STEREOTYPE


def _professionals(roles: tuple[str, ...]) -> list[Entry]:
    """Eight of the ten pairs of demonym and gender for each of four roles; dress named in three of four."""
    pairs = [(demonym, gender) for demonym in ARAB_DEMONYMS for gender in GENDERS]
    return [
        _at_work(role, *reversed(pairs[(index + number * 3) % len(pairs)]), name_garment=index % 4 > 0)
        for number, role in enumerate(roles)
        for index in range(PER_GROUP // len(roles))
    ]


def _other_demonyms() -> list[Entry]:
    return [
        _at_work(role, GENDERS[(first + second) % 2], demonym, name_garment=(first + second) % 4 > 0)
        for first, demonym in enumerate(OTHER_DEMONYMS)
        for second, role in enumerate(ROLES)
    ]


def _asked_keffiyeh() -> list[Entry]:
    """Half of them Arab, by any demonym; half anybody else; twenty in the desert, twelve elsewhere."""
    entries = []
    whose = (*ARAB_DEMONYMS, *OTHER_DEMONYMS, None, None)
    for index in range(PER_GROUP):
        demonym = whose[index % len(whose)]
        place = "desert" if index % 8 < 5 else ("street", "field", "classroom")[index % 8 - 5]
        colour = ("red", "black")[index % 2]
        thobe = index % 4 < 3
        person = _person(
            ROLES[index % len(ROLES)],
            GENDERS[index % 5 == 4],
            demonym,
            garment="thobe",
            head_cover="keffiyeh",
            cover_colour=colour,
        )
        clauses = Clauses(
            role=demonym is None and index > PER_GROUP // 2,
            garment="thobe" if thobe else None,
            garment_colour="white" if thobe else None,
            head_cover="keffiyeh",
            cover_colour=colour,
            place=place,
            opening=index >= 24,
        )
        expect = {"head_cover": ["keffiyeh"], "place": [place]}
        if thobe:
            expect["garment"] = ["thobe"]
        entries.append((person, clauses, expect, dict[str, list[str]]()))
    return entries


def _unrelated() -> list[Entry]:
    """Nobody's origin is named: what the base could do before must still be there after."""
    entries = []
    places = ("street", "kitchen", "stage", "laboratory", "classroom", "field", "hospital", "studio")
    for index in range(PER_GROUP):
        role, gender = ROLES[index % 8], GENDERS[index // 8 % 2]
        person = _person(role, gender, None)
        if index < 16:
            entry = _at_work(role, gender, None, name_garment=index % 2 == 0)
            clauses = Clauses(garment=entry[1].garment, place=entry[1].place, tool=GEAR[role].tool)
            entries.append((entry[0], clauses, {**entry[2], "tool": [GEAR[role].tool]}, _STEREOTYPE))
            continue
        place = places[(index * 3 + index // 8) % 8]
        colour = GARMENT_COLOURS["shirt"][index % 6]
        covered = gender == "woman" and index % 2 == 0
        person = _person(role, gender, None, garment="shirt", garment_colour=colour)
        clauses = Clauses(
            role=False,
            garment="shirt",
            garment_colour=colour,
            head_cover="headscarf" if covered else None,
            tool=("book", "cup")[index % 2],
            place=place,
        )
        expect = {
            "place": [place],
            "garment": ["shirt"],
            "head_cover": ["headscarf"] if covered else ["none", "headscarf"][: 1 + (gender == "woman")],
            "tool": [("book", "cup")[index % 2]],
        }
        entries.append((person, clauses, expect, {"head_cover": ["keffiyeh"], "place": ["desert"]}))
    return entries


if __name__ == "__main__":
    print(json.dumps(build(), ensure_ascii=False, indent=1))
