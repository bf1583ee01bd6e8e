"""How captions are read, measured with real tokenizers: which languages are refused, which are only told of."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hayy.captions import caption
from hayy.world import sample
from marsam_trainer.run.probe import captions_of, check
from transformers import AutoTokenizer

from marsam.catalog.datasets import Caption, DatasetVersion, Item
from marsam.catalog.files import FileRef
from marsam.core.errors import Corrupt, Invalid
from marsam.core.ids import digest_of, new_ulid
from marsam.diffusion import reading, registry
from marsam.diffusion.reading import Reading, readings_of
from marsam.diffusion.spec import Part
from tests.contract.families.bases import build_sd1
from tests.contract.families.tokenizers import clip, t5_without_arabic, words_only

HAYY = Path(__file__).parents[3] / "examples" / "hayy" / "base"
FACTS = registry.read_base_folder("sd1", HAYY)
TEXTS = {"en": ["a man in the lab", "the old man"], "ar": ["رجل في المختبر", "رجل عجوز"]}
LONG = " ".join(["a man with the red kite in the lab"] * 8)


Made = Mapping[str, Any]


def of(
    words: Made, captions: Mapping[str, Sequence[str]] = TEXTS, *, readers: tuple[str, ...] = (), **facts: Any
) -> dict[tuple[str, str], Reading]:
    """The readings of a base that has these tokenizers, by language and tokenizer."""
    family = dataclasses.replace(registry.family_facts("sd1"), readers=readers)
    base = dataclasses.replace(FACTS, **{"text_length": 77, **facts})
    return {(one.language, one.tokenizer): one for one in readings_of(words, family, base, captions)}


def made(tmp_path: Path, **how: Callable[[Path], Path]) -> Made:
    """Tokenizers as they come back from their folders."""
    return {name: AutoTokenizer.from_pretrained(make(tmp_path / name)) for name, make in how.items()}


def reasons(readings: Mapping[Any, Reading]) -> list[tuple[str, str]]:
    """(language, reason) of what is refused."""
    return [(v.message.split("'")[1], v.reason) for v, _ in reading.faults(readings.values())]


def told(readings: Mapping[Any, Reading]) -> list[tuple[str, str]]:
    """(language, reason) of what is only told."""
    return [(v.message.split("'")[1], v.reason) for v in reading.warnings(readings.values())]


def test_hayys_own_base_reads_arabic() -> None:
    chance = Random(0)
    texts = {
        language: [caption(sample(chance, "raw"), chance, language=language, world="raw") for _ in range(40)]
        for language in ("ar", "en")
    }
    found = of(registry.family("sd1").load(HAYY, parts=frozenset({Part.WORDS})).text, texts, text_length=30 + 2)
    assert all(one.reads and one.round_trip == 1.0 and one.tokens_per_word < 1.5 for one in found.values())
    assert reasons(found) == told(found) == []


def test_bytes_are_read_and_told_with_the_figure(tmp_path: Path) -> None:
    found = of(made(tmp_path, tokenizer=clip))
    arabic = found["ar", "tokenizer"]
    # Two bytes a letter: 3 + 2 + 7 and 3 + 4 letters in 5 words.
    assert arabic.tokens_per_word == pytest.approx(2 * 19 / 5)
    assert (arabic.unknown, arabic.lost, arabic.round_trip, arabic.usable) == (0.0, 0.0, 1.0, 75)
    assert reasons(found) == []
    assert told(found) == [("ar", "WORDS_SPLIT")]
    (warning,) = reading.warnings(found.values())
    assert "7.6 tokens a word" in warning.message


def test_words_without_an_entry_are_refused_by_what_the_tokenizer_does(tmp_path: Path) -> None:
    found = of(made(tmp_path, tokenizer=t5_without_arabic))
    # Half of the tokens stand for the spaces before the words, and are known.
    assert found["ar", "tokenizer"].unknown == 1.0
    assert found["ar", "tokenizer"].round_trip == 0.0
    assert (found["en", "tokenizer"].unknown, found["en", "tokenizer"].round_trip) == (0.0, 1.0)
    ((violation, remedy),) = reading.faults(found.values())
    assert (violation.field, violation.reason) == ("languages", "LANGUAGE_UNREADABLE")
    assert "does not know 100 % of their words" in violation.message
    assert remedy == "leave it out (languages: en), or choose a base that reads it"
    assert told(found) == []
    alone = of(made(tmp_path, tokenizer=t5_without_arabic), {"ar": TEXTS["ar"]})
    assert [remedy for _, remedy in reading.faults(alone.values())] == ["choose a base that reads it"]


def test_words_that_vanish_are_unknown_too(tmp_path: Path) -> None:
    found = of(made(tmp_path, tokenizer=words_only))
    assert reasons(found) == [("ar", "LANGUAGE_UNREADABLE")]


def test_one_encoder_that_reaches_the_attention_is_enough(tmp_path: Path) -> None:
    """As Stable Diffusion 3: CLIP reads the bytes, T5 knows no word."""
    source = made(tmp_path, tokenizer=clip, tokenizer_3=t5_without_arabic)
    found = of(source)
    assert len(found) == 4
    assert reasons(found) == []
    assert set(told(found)) == {("ar", "WORDS_SPLIT"), ("ar", "WORDS_UNKNOWN")}


def test_an_encoder_that_gives_a_pooled_vector_only_is_not(tmp_path: Path) -> None:
    """As FLUX.1: what CLIP reads never reaches the attention layers."""
    found = of(made(tmp_path, tokenizer=clip, tokenizer_2=t5_without_arabic), readers=("tokenizer_2",))
    assert [one.attends for one in found.values()] == [False, True, False, True]
    assert reasons(found) == [("ar", "LANGUAGE_UNREADABLE")]


def test_what_lies_beyond_the_base_s_length_is_counted(tmp_path: Path) -> None:
    source = made(tmp_path, tokenizer=t5_without_arabic)
    # 72 tokens, and one for the end.
    whole = of(source, {"en": [LONG]}, text_length=73)
    assert (whole["en", "tokenizer"].usable, whole["en", "tokenizer"].cut) == (72, 0.0)
    some = of(source, {"en": [LONG, "a man"]}, text_length=55)
    assert some["en", "tokenizer"].lost == pytest.approx(18 / 74)
    assert some["en", "tokenizer"].cut == 0.5
    assert (reasons(some), told(some)) == ([], [("en", "CAPTIONS_TRUNCATED")])
    most = of(source, {"en": [LONG]}, text_length=30)
    assert reasons(most) == [("en", "LANGUAGE_TRUNCATED")]
    ((violation, remedy),) = reading.faults(most.values())
    assert "takes 29 tokens" in violation.message
    assert remedy.startswith("shorten them, or ")


def test_a_base_may_say_what_it_takes(tmp_path: Path) -> None:
    source = made(tmp_path, tokenizer=t5_without_arabic)
    texts = {"en": [LONG]}
    assert [one.usable for one in of(source, texts, caption_tokens={"tokenizer": 10}).values()] == [10]
    # Two words before the caption, and one token for the end.
    assert [one.usable for one in of(source, texts, preamble="a man").values()] == [77 - 2 - 1]


def test_a_foreign_word_among_many_is_only_told(tmp_path: Path) -> None:
    found = of(made(tmp_path, tokenizer=t5_without_arabic), {"en": [*["the old man"] * 5, "a كوفية"]})
    assert found["en", "tokenizer"].unknown == pytest.approx(1 / 17)
    assert (reasons(found), told(found)) == ([], [("en", "WORDS_UNKNOWN")])


def test_scripts_without_spaces_are_counted_by_letters(tmp_path: Path) -> None:
    found = of(made(tmp_path, tokenizer=clip), {"zh": ["实验室里的男人"]})
    assert (found["zh", "tokenizer"].words, found["zh", "tokenizer"].tokens_per_word) == (7, 3.0)
    assert told(found) == []


def test_no_captions_are_no_trouble(tmp_path: Path) -> None:
    source = made(tmp_path, tokenizer=clip)
    assert of(source, {}) == {}
    found = of(source, {"en": ["", " "]})
    assert (found["en", "tokenizer"].captions, found["en", "tokenizer"].reads) == (0, True)


def version(*captions: tuple[str, str], split: str = "train") -> DatasetVersion:
    digest = digest_of(b"picture")
    item = Item(
        id=new_ulid(),
        file_name="p.png",
        image=FileRef(path="p.png", digest=digest, size=7),
        original_digest=digest,
        pixel_digest=digest,
        width=8,
        height=8,
        phash=0,
        dhash=0,
        captions=tuple(Caption(language=language, text=text) for language, text in captions),
        split=split,
    )
    return DatasetVersion(name="projects/p/datasets/d/versions/v1", create_time=datetime.now(UTC), items=(item,))


VERSION = version(("en", "a man"), ("ar", "رجل"))


def test_only_captions_that_a_run_may_use_are_read() -> None:
    assert captions_of([VERSION], ()) == {"ar": ["رجل"], "en": ["a man"]}
    assert captions_of([VERSION], ("en",)) == {"en": ["a man"]}
    assert captions_of([version(("en", "a man"), split="holdout")], ()) == {}


def test_captions_of_what_must_not_be_forgotten_are_read_too(tmp_path: Path) -> None:
    others = version(("en", "a woman"), ("fr", "une femme"))
    assert captions_of([VERSION, others, None], ()) == {
        "ar": ["رجل"], "en": ["a man", "a woman"], "fr": ["une femme"],
    }  # fmt: skip
    source = build_sd1(tmp_path / "base")
    shutil.rmtree(source / "tokenizer")
    clip(source / "tokenizer", letters="abcdefghijklmnopqrstuvwxyz")
    facts = registry.read_base_folder("sd1", source)
    assert check(source, facts, [version(("en", "a man"))], ()) == []
    with pytest.raises(Invalid) as caught:
        check(source, facts, [version(("en", "a man")), VERSION], ())
    assert caught.value.reason == "LANGUAGE_UNREADABLE"


def test_a_run_refuses_by_itself_what_nobody_asked_about(tmp_path: Path) -> None:
    source = build_sd1(tmp_path / "base")
    told = check(source, registry.read_base_folder("sd1", source), [VERSION], ())
    assert [message.split(":")[0] for message in told] == ["'ar' in tokenizer"]
    shutil.rmtree(source / "tokenizer")
    clip(source / "tokenizer", letters="abcdefghijklmnopqrstuvwxyz")
    facts = registry.read_base_folder("sd1", source)
    with pytest.raises(Invalid) as caught:
        check(source, facts, [VERSION], ())
    assert (caught.value.reason, caught.value.field) == ("LANGUAGE_UNREADABLE", "languages")
    assert "languages: en" in caught.value.remedy
    check(source, facts, [VERSION], ("en",))


def test_a_tokenizer_that_cannot_be_loaded_is_a_stated_error(tmp_path: Path) -> None:
    source = build_sd1(tmp_path / "base")
    facts = registry.read_base_folder("sd1", source)
    (source / "tokenizer" / "tokenizer.json").write_text("{")
    (source / "tokenizer" / "vocab.json").write_text("{")
    with pytest.raises(Corrupt) as caught:
        check(source, facts, [VERSION], ())
    assert caught.value.reason == "TOKENIZER_UNREADABLE"
    assert check(source, facts, [VERSION], ("fr",)) == []
