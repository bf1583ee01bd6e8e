"""What is told of a prompt before it is drawn: by real tokenizers, those of Hayy's base among them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from marsam_generator.prompts import remarks
from transformers import AutoTokenizer

from marsam.diffusion import registry
from marsam.diffusion.spec import Part
from tests.contract.families.tokenizers import clip, t5_without_arabic

HAYY = Path(__file__).parents[3] / "examples" / "hayy" / "base"
ENGLISH, ARABIC = "a man in a red lab", "طاهية في مطبخ أزرق"
FAMILY = replace(registry.family_facts("sd1"), readers=())
FACTS = replace(registry.read_base_folder("sd1", HAYY), text_length=77)


def told(folder: Path, **texts: str) -> list[str]:
    words: Any = AutoTokenizer.from_pretrained(folder)
    return remarks({"tokenizer": words}, FAMILY, FACTS, {name.replace("_", " "): text for name, text in texts.items()})


def test_a_base_that_knows_no_arabic_is_said_to_read_none(tmp_path: Path) -> None:
    t5_without_arabic(tmp_path)
    assert told(tmp_path, prompt=ENGLISH) == []
    (arabic,) = told(tmp_path, prompt=ARABIC)
    assert "cannot read the Arabic words of the prompt" in arabic and "100 %" in arabic
    (mixed,) = told(tmp_path, prompt=f"{ENGLISH} {ARABIC}", negative_prompt=ENGLISH)
    assert "Arabic" in mixed and "Latin" not in mixed
    (negative,) = told(tmp_path, prompt=ENGLISH, negative_prompt=ARABIC)
    assert "of the negative prompt" in negative


def test_a_tokenizer_that_spells_is_said_to_spell(tmp_path: Path) -> None:
    # CLIP takes every byte, so nothing is unknown: it reads Arabic as letters, English as words.
    clip(tmp_path)
    (arabic,) = told(tmp_path, prompt=ARABIC)
    assert "most likely not learnt to read the Arabic words" in arabic and "tokens a word" in arabic
    assert told(tmp_path, prompt="") == []


def test_what_is_beyond_the_bases_length_is_said(tmp_path: Path) -> None:
    clip(tmp_path)
    (cut,) = told(tmp_path, prompt=" ".join(["abcd"] * 30))
    assert "takes 75 tokens of a prompt; 38 % of this one" in cut


@pytest.mark.slow
def test_hayys_base_reads_arabic() -> None:
    parts = registry.family("sd1").load(HAYY, parts=frozenset({Part.WORDS}))
    facts, family = parts.facts, registry.family_facts("sd1")
    assert remarks(parts.text, family, facts, {"prompt": ARABIC, "negative prompt": ENGLISH}) == []
    (chinese,) = remarks(parts.text, family, facts, {"prompt": "机器学习实验室里的人"})
    assert "Cjk" in chinese
