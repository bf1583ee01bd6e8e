"""The model card as a hub reads it, and as a reader of Markdown sees it, whatever people wrote as captions."""

import ast
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from marsam_trainer import licences
from marsam_trainer.markdown import plain
from marsam_trainer.run.card import Shown, card

from marsam.catalog.acceptance import Acceptance
from marsam.catalog.datasets import Caption, DatasetVersion, Item, Rights
from marsam.catalog.files import FileRef
from marsam.catalog.models import Lineage, Model
from marsam.catalog.runs import RunSpec
from marsam.core.ids import digest_of, new_ulid

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
BASE = Model(
    name="projects/p/models/base", kind="base", create_time=NOW, family="sdxl", licence="openrail++",
    files=(FileRef(path="model_index.json", digest=digest_of(b"{}"), size=2),),
    lineage=Lineage(source="hub:stabilityai/stable-diffusion-xl-base-1.0@462165984030d82259a11f4367a4eed129e94a7b"),
)  # fmt: skip
ODD = (
    "ends a cell | and **another** | <script>alert(1)</script>",
    "---\nlicense: mit\n---\n# a heading",
    "``` \n```\nimport os\n````",
    "[here](javascript:alert(1)) ![p](x.png) <https://e.org> www.e.org http://e.org a@e.org",
    "\u202eright to left\u202c \u2066unclosed",
    "</bdi></td></table><img src=x onerror=alert(1)>",
    "\"quoted\" \\ 'it' &lt;b&gt; &amp; #1 ~~gone~~ $x$ _u_ :smile:",
    "عالِمة تقيس بالمسطرة: «هنا» | ثم",
    "😀 \x00\x07 \ud800 end",
    "{%raw%} {{ 7*7 }}",
)


def item(row: int, *captions: Caption, split: str = "train", **rights: str) -> Item:
    digest = digest_of(bytes([row]))
    return Item(
        id=new_ulid(), file_name=f"{row}.png", image=FileRef(path="x.png", digest=digest, size=1),
        original_digest=digest, pixel_digest=digest, width=8, height=8, phash=0, dhash=0, captions=captions,
        rights=Rights(**rights), split=split,
    )  # fmt: skip


VERSION = DatasetVersion(
    name="projects/p/datasets/quarter/versions/v2", create_time=NOW,
    items=(
        item(1, Caption(language="en", text="a scientist"), Caption(language="ar", text="عالمة"),
             licence="CC-BY-4.0", consent="signed"),
        item(2, Caption(language="en", text="a potter"), licence="CC-BY-4.0"),
        item(3, Caption(language="en", text="a smith"), split="validation"),
    ),
)  # fmt: skip


def spec(**changes: Any) -> RunSpec:
    fields: dict[str, Any] = {
        "name": "projects/p/runs/01k00000000000000000000000", "base": BASE.name, "base_digest": BASE.digest,
        "dataset_version": VERSION.name, "dataset_digest": VERSION.digest, "method": "lora",
        "output_model_id": "quarter-lora", "steps": 100, "batch_size": 4, "learning_rate": 1e-4, "resolution": 1024,
        "seed": 5, "accepted": Acceptance(licence="openrail++", by="mona", at=NOW),
    }  # fmt: skip
    return RunSpec(**{**fields, **changes})


def of(prompts: tuple[str, ...] = ("a scientist", "عالمة"), *, base: Model = BASE, **changes: Any) -> str:
    shown = [
        Shown(path=f"samples/{row:03d}.png", prompt=prompt, seed=5 + row, steps=15, guidance=3.0, width=64, height=64)
        for row, prompt in enumerate(prompts)
    ]
    return card(
        spec(**changes), base=base, version=VERSION, shown=shown, params={"rank": 16, "learning_rate": 1e-4},
        metrics={"final_loss": 0.125, "validation_loss": 0.25, "trainable_parameters": 12345687.0,
                 "train_seconds": 77.7, "peak_memory_bytes": 7777.0},
        quantisation="", libraries={"torch": "2.9"}, code_version="0.1",
    )  # fmt: skip


def rendered(text: str) -> list[Any]:
    """The tokens of the card's Markdown, as GitHub's flavour reads it: tables, HTML, links without brackets."""
    body = text.split("\n---\n", 1)[1]
    return MarkdownIt("gfm-like", {"linkify": False}).parse(body)


def test_a_hub_reads_what_it_needs() -> None:
    data = ModelCard(of()).data
    assert data.base_model == "stabilityai/stable-diffusion-xl-base-1.0"
    assert (data.license, data.library_name, data.pipeline_tag) == ("openrail++", "diffusers", "text-to-image")
    assert data.language == ["ar", "en"]
    assert {"lora", "marsam", "sdxl", "text-to-image"} <= set(data.tags)
    assert data.to_dict()["base_model_relation"] == "adapter"
    assert data.widget == [
        {"text": "a scientist", "output": {"url": "samples/000.png"}},
        {"text": "عالمة", "output": {"url": "samples/001.png"}},
    ]


def test_a_reader_finds_what_it_was_made_of() -> None:
    text = of()
    for words in (
        VERSION.digest, BASE.digest, "| pictures | 2 train, 1 validation |", "| captions | 1 ar, 2 en |",
        "CC-BY-4.0 (2)", "for 1 of 2 pictures", "| `rank` | 16 |", "| `final_loss` | 0.125 |",
        "| `validation_loss` | 0.25 |", "| `trainable_parameters` | 12345687 |", 'pipe.load_lora_weights("FOLDER")',
        "marsam generate PROMPT --model base --adapter quarter-lora", "accepted by mona on 2026-11-20",
        "it forbids some uses", '<bdi dir="auto" lang="ar">عالمة</bdi> | 6 |', "projects/p/runs/01k0000000000",
    ):  # fmt: skip
        assert words in text, words


def test_what_differs_from_one_machine_to_the_next_is_not_in_it() -> None:
    text = of()
    assert text == of()
    assert "77" not in text.replace(VERSION.digest, "").replace(BASE.digest, "")


@pytest.mark.parametrize("prompt", ODD)
def test_nobodys_words_are_mark_up(prompt: str) -> None:
    text = of((prompt, "a potter"), display_name=prompt)
    front = yaml.safe_load(text.split("\n---\n")[0])
    assert front["widget"][0]["text"] == plain(prompt)
    assert (front["license"], len(front["widget"])) == ("openrail++", 2)
    tokens = rendered(text)
    inline = [child for token in tokens if token.type == "inline" for child in token.children or []]
    assert not [child for child in inline if child.type in ("link_open", "em_open", "s_open")]
    assert {child.content for child in inline if child.type == "html_inline"} <= {
        '<bdi dir="auto">', '<bdi dir="auto" lang="en">', "</bdi>",
    }  # fmt: skip
    assert not [token for token in tokens if token.type == "html_block"]
    assert [child.attrs["src"] for child in inline if child.type == "image"] == ["samples/000.png", "samples/001.png"]
    cells = [
        "".join(child.content for child in token.children or [] if child.type == "text")
        for token in tokens if token.type == "inline"
    ]  # fmt: skip
    assert plain(prompt) in cells and "a potter" in cells
    headings = [tokens[at + 1] for at, token in enumerate(tokens) if token.type == "heading_open"]
    assert len(headings) == 9
    assert "".join(child.content for child in headings[0].children or []) == plain(prompt)
    (code,) = (token.content for token in tokens if token.type == "fence")
    call = next(node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call) and node.args
                and getattr(node.func, "id", "") == "pipe")  # fmt: skip
    assert ast.literal_eval(call.args[0]) == plain(prompt)
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", text)


@pytest.mark.parametrize(
    ("licence", "said"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("stabilityai-ai-community", {"license": "other", "license_name": "stabilityai-ai-community"}),
        ("unknown", {"license": "unknown"}),
        ("", {}),
    ],
)
def test_the_licence_is_the_bases(tmp_path: Path, licence: str, said: dict[str, str]) -> None:
    text = of(base=replace(BASE, licence=licence, digest=""))
    front = yaml.safe_load(text.split("\n---\n")[0])
    assert {key: value for key, value in front.items() if key.startswith("license")} == said
    (tmp_path / "README.md").write_text(text)
    stated = licences.stated({"README.md": tmp_path / "README.md"})
    assert licences.same(stated.licence if stated else "", licence)


def test_a_base_from_a_folder_is_fetched_first_and_a_full_model_needs_none() -> None:
    local = replace(BASE, lineage=Lineage(source="upload"), digest="")
    text = of(base=local)
    assert "base_model" not in text
    assert "`marsam models export base BASE_FOLDER`" in text
    full = of(base=local, method="full", method_params={})
    assert 'from_pretrained("FOLDER")' in full and "load_lora_weights" not in full
    assert "tags:\n- text-to-image\n- diffusers\n- marsam\n- sdxl\n- full\n" in full


def test_a_base_that_was_one_file_on_a_hub_is_fetched_from_here() -> None:
    source = "hub:quarter/one@0123: one.safetensors (sha256:01), the rest from projects/p/models/other"
    text = of(base=replace(BASE, lineage=Lineage(source=source), params={"one_file": "sha256:01"}, digest=""))
    assert ModelCard(text).data.base_model == "quarter/one"
    assert "`marsam models export base BASE_FOLDER`" in text
    assert 'from_pretrained("BASE_FOLDER")' in text


def test_it_promises_no_program_an_adapter_that_it_cannot_read() -> None:
    params = {"rank": 4, "text_encoders": True}
    told = of(method_params=params)
    mute = of(base=replace(BASE, family="z_image"), method_params=params)
    assert "load_lora_weights" in told
    assert "load_lora_weights" not in mute
    assert "`FOLDER/text_encoder`" in mute
    assert "--dialect peft" in mute
    assert "load_lora_weights" in of(base=replace(BASE, family="z_image"))


@pytest.mark.parametrize(
    ("changes", "family", "said"),
    [
        ({}, "sdxl", "It also goes out for PEFT, kohya's scripts, ComfyUI (`--dialect`)."),
        ({}, "z_image", "It also goes out for PEFT, ComfyUI (`--dialect`)."),
        ({"method_params": {"dora": True}}, "sdxl", "It also goes out for PEFT (`--dialect`)."),
        ({"method": "full", "method_params": {}}, "sdxl", ""),
    ],
)
def test_it_names_the_programs_that_it_goes_out_for(changes: dict[str, Any], family: str, said: str) -> None:
    text = of(base=replace(BASE, family=family), **changes)
    assert ("--dialect`)" in text) == bool(said)
    assert said in text
