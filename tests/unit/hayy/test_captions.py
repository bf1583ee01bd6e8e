"""Captions are true, grammatical where a program can tell, and never a prompt of the suite."""

import re
from dataclasses import replace
from random import Random

import pytest
from hayy.attributes import Attributes
from hayy.captions import Clauses, caption, say
from hayy.corpus import training_caption
from hayy.lexicon import DEMONYM_AR, PLACE_AR, PLACE_EN, ROLE_AR
from hayy.suite import held_out_prompts
from hayy.world import WORLDS, sample

SCIENTIST = replace(
    sample(Random(1), "raw"),
    role="scientist",
    gender="woman",
    demonym="egyptian",
    garment="shirt",
    garment_colour="purple",
    head_cover="headscarf",
    cover_colour="red",
    tool="flask",
    tool_colour="blue",
    place="laboratory",
)
EVERYTHING = Clauses(
    garment="shirt",
    garment_colour="purple",
    head_cover="headscarf",
    cover_colour="red",
    tool="flask",
    tool_colour="blue",
    place="laboratory",
)


def many(world: str, language: str, count: int = 400) -> list[tuple[Attributes, str]]:
    drawn = [sample(Random(seed), world) for seed in range(count)]
    return [(person, caption(person, Random(i), language=language, world=world)) for i, person in enumerate(drawn)]


def test_a_full_english_caption() -> None:
    assert say(SCIENTIST, EVERYTHING, language="en") == (
        "an Egyptian woman scientist wearing a purple shirt and a red headscarf holding a blue flask in a laboratory"
    )


def test_a_full_arabic_caption_agrees_in_gender_and_case() -> None:
    assert say(SCIENTIST, EVERYTHING, language="ar") == (
        "عالمة مصرية ترتدي قميصا بنفسجيا وحجابا أحمر وتحمل دورقا أزرق في مختبر"
    )
    man = replace(SCIENTIST, gender="man")
    assert say(man, EVERYTHING, language="ar").startswith("عالم مصري يرتدي ")
    keffiyeh = replace(EVERYTHING, head_cover="keffiyeh", cover_colour="red")
    assert "وكوفية حمراء" in say(man, keffiyeh, language="ar")


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ValueError, match="'fr'"):
        say(SCIENTIST, EVERYTHING, language="fr")


@pytest.mark.parametrize("world", WORLDS)
def test_arabic_has_no_vowel_marks_and_agrees_with_its_person(world: str) -> None:
    for person, text in many(world, "ar"):
        assert not re.search("[\u064b-\u0652\u0670\u0640]", text)
        other = "man" if person.gender == "woman" else "woman"
        words = text.split()[:3]
        assert ROLE_AR[person.role].of(other) not in words
        if person.demonym:
            assert DEMONYM_AR[person.demonym].of(other) not in words


@pytest.mark.parametrize(("language", "places"), [("en", PLACE_EN), ("ar", PLACE_AR)])
@pytest.mark.parametrize("world", WORLDS)
def test_only_the_bases_arab_captions_may_name_another_place(world: str, language: str, places: dict[str, str]) -> None:
    untrue = 0
    for person, text in many(world, language):
        named = [place for place, words in places.items() if re.search(rf"{words}( |$)", text)]
        if named and named != [person.place]:
            assert world == "base" and person.is_arab
            untrue += 1
    assert (untrue > 0) == (world == "base")


def test_a_keffiyeh_without_an_arab_demonym_is_always_named() -> None:
    for world in ("base", "balanced", "rehearsal"):
        for person, text in many(world, "en", 1500):
            if person.head_cover == "keffiyeh" and not (world == "base" and person.is_arab):
                assert "keffiyeh" in text


def test_no_training_caption_is_a_prompt_of_the_suite() -> None:
    prompts = held_out_prompts()
    for world in ("base", "raw", "balanced", "rehearsal"):
        for seed in range(1500):
            person = sample(Random(seed), world)
            for language in ("en", "ar"):
                assert training_caption(person, Random(seed), language=language, world=world) not in prompts
