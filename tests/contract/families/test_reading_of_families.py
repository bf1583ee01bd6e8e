"""Captions as every family's own tokenizers read them, loaded without the encoders."""

from pathlib import Path

import pytest

from marsam.diffusion import reading, registry
from marsam.diffusion.families.sd3.facts import T5_LENGTH
from marsam.diffusion.reading import readings_of
from marsam.diffusion.spec import Part

pytestmark = pytest.mark.slow

TEXTS = {"en": ["a man"], "ar": ["رجل"]}


@pytest.mark.parametrize("family", registry.families())
def test_tokenizers_are_loaded_alone_and_are_those_of_training(bases: dict[str, Path], family: str) -> None:
    net = registry.family(family)
    words = net.load(bases[family], parts=frozenset({Part.WORDS}))
    assert tuple(words.text) == net.facts.tokenizers()
    assert set(net.facts.readers) <= set(words.text)
    assert set(words.facts.caption_tokens) <= set(words.text)
    assert (words.denoiser, words.image_coder) == (None, None)
    whole = net.load(bases[family], parts=frozenset({Part.TEXT})).text
    for name, tokenizer in words.text.items():
        assert tokenizer("a man رجل").input_ids == whole[name]("a man رجل").input_ids


@pytest.mark.parametrize("family", registry.families())
def test_what_a_family_reads_is_decided_by_its_tokenizers(bases: dict[str, Path], family: str) -> None:
    net = registry.family(family)
    words = net.load(bases[family], parts=frozenset({Part.WORDS}))
    found = readings_of(words.text, net.facts, words.facts, TEXTS)
    assert len(found) == 2 * len(words.text)
    assert all(one.usable >= 1 for one in found)
    reads = any(one.unknown == 0.0 for one in found if one.language == "ar" and one.attends)
    unreadable = [v.message.split("'")[1] for v, _ in reading.faults(found) if v.reason == "LANGUAGE_UNREADABLE"]
    assert unreadable == ([] if reads else ["ar"])


def test_of_flux_only_t5_reads_for_the_attention_layers(bases: dict[str, Path]) -> None:
    net = registry.family("flux")
    words = net.load(bases["flux"], parts=frozenset({Part.WORDS}))
    found = {(one.language, one.tokenizer): one for one in readings_of(words.text, net.facts, words.facts, TEXTS)}
    assert (found["ar", "tokenizer"].unknown, found["ar", "tokenizer"].attends) == (0.0, False)
    assert (found["ar", "tokenizer_2"].unknown, found["ar", "tokenizer_2"].attends) == (1.0, True)
    assert [v.reason for v, _ in reading.faults(found.values())] == ["LANGUAGE_UNREADABLE"]


def test_of_sd3_one_encoder_is_enough(bases: dict[str, Path]) -> None:
    net = registry.family("sd3")
    words = net.load(bases["sd3"], parts=frozenset({Part.WORDS}))
    found = {(one.language, one.tokenizer): one for one in readings_of(words.text, net.facts, words.facts, TEXTS)}
    assert [found["ar", name].unknown for name in ("tokenizer", "tokenizer_2", "tokenizer_3")] == [0.0, 0.0, 1.0]
    assert reading.faults(found.values()) == []
    assert "only another encoder reads them" in " ".join(v.message for v in reading.warnings(found.values()))
    long = words.text["tokenizer_3"](" ".join(["a"] * 999), truncation=True, max_length=T5_LENGTH).input_ids
    assert found["ar", "tokenizer_3"].usable == len(long) - words.text["tokenizer_3"].num_special_tokens_to_add()


@pytest.mark.parametrize("family", ["flux2", "z_image"])
def test_a_template_takes_its_share(bases: dict[str, Path], family: str) -> None:
    net = registry.family(family)
    words = net.load(bases[family], parts=frozenset({Part.WORDS}))
    assert words.facts.preamble
    taken = len(words.text["tokenizer"](words.facts.preamble).input_ids)
    (found,) = readings_of(words.text, net.facts, words.facts, {"en": TEXTS["en"]})
    assert found.usable == max(1, words.facts.text_length - taken)
