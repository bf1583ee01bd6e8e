"""Adapters that others trained, under the names that they write: matched key by key, or refused by name."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from marsam_trainer.adapter_keys import MOST_NAMED
from marsam_trainer.adapters import read_adapter
from marsam_trainer.weights import Content, Tensor
from safetensors.numpy import load_file, save_file

from marsam.core.errors import Invalid
from marsam.diffusion.dialects import PEFT as PREFIX

SDXL = {
    "down_blocks.0.resnets.0.conv1.weight": Tensor(dtype="F16", shape=(8, 8, 3, 3)),
    "down_blocks.0.resnets.1.conv1.weight": Tensor(dtype="F16", shape=(8, 8, 3, 3)),
    "down_blocks.1.attentions.0.norm.weight": Tensor(dtype="F16", shape=(8,)),
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight": Tensor(dtype="F16", shape=(8, 6)),
    "up_blocks.0.resnets.2.conv1.weight": Tensor(dtype="F16", shape=(8, 8, 3, 3)),
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight": Tensor(dtype="F16", shape=(16, 8)),
}
"""A little of SDXL's UNet."""

OURS = ("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj")  # fmt: skip
THEIRS = ("input_blocks.4.1.transformer_blocks.0.attn1.to_q", "middle_block.1.transformer_blocks.0.ff.net.0.proj")


def pair(stem: str, rows: int, columns: int, *, rank: int = 2, alpha: float | None = 1.0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(rows)
    halves = {
        f"{stem}.lora_down.weight": random.standard_normal((rank, columns)).astype(np.float16),
        f"{stem}.lora_up.weight": random.standard_normal((rows, rank)).astype(np.float16),
    }
    return halves | ({} if alpha is None else {f"{stem}.alpha": np.array(alpha, np.float16)})


def flat(name: str) -> str:
    return f"lora_unet_{name.replace('.', '_')}"


def kohya() -> dict[str, np.ndarray]:
    """As sd-scripts writes it for SDXL."""
    return {**pair(flat(THEIRS[0]), 8, 6), **pair(flat(THEIRS[1]), 16, 8)}


def read(tmp_path: Path, tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    save_file(dict(tensors), tmp_path / "a.safetensors")
    parameters, files = read_adapter(
        {"a.safetensors": tmp_path / "a.safetensors"}, {"a.safetensors": Content.SAFETENSORS}, family="sdxl",
        denoiser=SDXL, scratch=tmp_path / "made",
    )  # fmt: skip
    assert files is not None
    return parameters, load_file(files["adapter_model.safetensors"])


@pytest.mark.parametrize("spell", [flat, "diffusion_model.{}".format])
@pytest.mark.parametrize("names", [THEIRS, OURS], ids=["the makers' names", "diffusers' names"])
def test_every_key_finds_its_layer(tmp_path: Path, names: tuple[str, str], spell: object) -> None:
    assert callable(spell)
    tensors = {**pair(spell(names[0]), 8, 6), **pair(spell(names[1]), 16, 8)}
    parameters, stored = read(tmp_path, tensors)
    assert parameters == {"rank": 2, "alpha": 1.0, "rank_stabilised": False, "modules": 2, "keys": 6}
    assert set(stored) == {f"{PREFIX}{module}.lora_{half}.weight" for module in OURS for half in "AB"}
    for module, name in zip(OURS, names, strict=True):
        for half, word in (("A", "down"), ("B", "up")):
            theirs = tensors[f"{spell(name)}.lora_{word}.weight"]
            assert np.array_equal(stored[f"{PREFIX}{module}.lora_{half}.weight"], theirs)


@pytest.mark.parametrize("matched", [0, 3])
def test_none_or_some_of_the_keys_is_an_error_that_lists_the_others(tmp_path: Path, matched: int) -> None:
    strangers = {key: value for block in range(30, 60) for key, value in pair(f"lora_unet_block_{block}", 8, 6).items()}
    known = dict(list(kohya().items())[:matched])
    with pytest.raises(Invalid) as caught:
        read(tmp_path, {**known, **strangers})
    error = caught.value
    assert error.reason == "ADAPTER_LAYERS_UNKNOWN"
    assert f"of the adapter's {90 + matched} tensors {matched} are" in error.message
    assert f"90 are of layers that it does not have, {error.violations[0].field} first" in error.message
    assert f"{90 - MOST_NAMED} more" in error.message
    assert len(error.violations) == MOST_NAMED
    assert {violation.field for violation in error.violations} <= set(strangers)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("hada_w1_a", "LoHa"), ("lokr_w1", "LoKr"), ("lokr_w2_b", "LoKr"), ("lora_mid.weight", "Tucker"),
        ("oft_blocks", "OFT"), ("diff", "whole layers"),
    ],
)  # fmt: skip
def test_other_kinds_are_refused_by_name(tmp_path: Path, key: str, name: str) -> None:
    with pytest.raises(Invalid, match=name) as caught:
        read(tmp_path, {**kohya(), f"{flat(THEIRS[0])}.{key}": np.ones((2, 2), np.float16)})
    assert caught.value.reason == "ADAPTER_KIND"
    assert "1 of its 7 tensors" in caught.value.message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(f"{flat(THEIRS[0])}.lora_up.weight"), "lacks one half"),
        (lambda t: t.pop(f"{flat(THEIRS[0])}.alpha"), "others have none"),
        (lambda t: t.update({f"{flat(THEIRS[0])}.alpha": np.array(np.nan, np.float16)}), r"\.alpha is no number"),
        (lambda t: t.update(pair(flat(THEIRS[0]), 9, 6)), "no layer"),
        (lambda t: t.update(pair(flat("down_blocks.1.attentions.0.norm"), 8, 1)), "no layer"),
    ],
)
def test_pairs_that_do_not_fit(tmp_path: Path, change: object, words: str) -> None:
    assert callable(change)
    tensors = kohya()
    change(tensors)
    with pytest.raises(Invalid, match=words):
        read(tmp_path, tensors)


def test_a_card_beside_one_file_stays_with_the_adapter(tmp_path: Path) -> None:
    save_file(kohya(), tmp_path / "a.safetensors")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    _, files = read_adapter(
        {"a.safetensors": tmp_path / "a.safetensors", "README.md": tmp_path / "README.md"},
        {"a.safetensors": Content.SAFETENSORS, "README.md": Content.TEXT},
        family="sdxl", denoiser=SDXL, scratch=tmp_path / "made",
    )  # fmt: skip
    assert files is not None
    assert files["README.md"].read_text() == "---\nlicense: mit\n---\n"


ENCODER = "text_model.encoder.layers.0.self_attn.q_proj"


def diffusers(tmp_path: Path, told: Mapping[str, object]) -> dict[str, object]:
    """The parameters of an adapter of both, as `save_lora_weights` writes it, with `told` as its metadata."""
    both = {**pair(f"unet.{OURS[0]}", 8, 6, alpha=None), **pair(f"text_encoder.{ENCODER}", 8, 8, alpha=None)}
    file = tmp_path / "a.safetensors"
    save_file(both, file, metadata={"lora_adapter_metadata": json.dumps(told)})
    parameters, _ = read_adapter(
        {file.name: file}, {file.name: Content.SAFETENSORS}, family="sdxl", denoiser=SDXL,
        encoders={"text_encoder": {f"{ENCODER}.weight": Tensor(dtype="F16", shape=(8, 8))}}, scratch=tmp_path / "made",
    )  # fmt: skip
    return parameters


def test_metadata_speaks_of_every_part(tmp_path: Path) -> None:
    told = {f"{part}.{name}": value for part in ("unet", "text_encoder")
            for name, value in {"r": 2, "lora_alpha": 8, "use_rslora": True, "alpha_pattern": {}}.items()}  # fmt: skip
    assert diffusers(tmp_path, told) == {
        "rank": 2, "alpha": 8.0, "rank_stabilised": True, "modules": 1, "text_modules": 1, "keys": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"unet.lora_alpha": "much"}, "in numbers"),
        ({"unet.lora_alpha": 1, "unet.alpha_pattern": {"to_q": "much"}}, "in numbers"),
        ({"unet.lora_alpha": float("inf")}, "in numbers"),
        ({"unet.alpha_pattern": {"(a*)*": 3}}, "'\\(a\\*\\)\\*', which is no name of a layer"),
        ({"unet.alpha_pattern": ["to_q"]}, "alpha_pattern names no layers"),
        (
            {"unet.lora_alpha": 8, "transformer.lora_alpha": 8},
            "transformer and unet, and not of text_encoder",
        ),
    ],
)
def test_metadata_that_does_not_say_a_scale(tmp_path: Path, told: Mapping[str, object], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        diffusers(tmp_path, told)


def test_a_file_of_mixed_ranks_and_alphas_keeps_them_layer_by_layer(tmp_path: Path) -> None:
    """conv_dim ≠ network_dim in sd-scripts, and an alpha beside every pair."""
    convolutions = ("down_blocks.0.resnets.0.conv1", "down_blocks.0.resnets.1.conv1", "up_blocks.0.resnets.2.conv1")
    tensors = {**pair(flat(OURS[0]), 8, 6, rank=6, alpha=3.0), **pair(flat(OURS[1]), 16, 8, rank=6, alpha=0.5)}
    for place, module in enumerate(convolutions):
        down = np.full((2, 8, 3, 3), place + 1, np.float16)
        tensors |= {f"{flat(module)}.lora_down.weight": down, f"{flat(module)}.alpha": np.array(0.5, np.float16)}
        tensors[f"{flat(module)}.lora_up.weight"] = np.ones((8, 2, 1, 1), np.float16)
    parameters, stored = read(tmp_path, tensors)
    assert parameters == {
        "rank": 2, "alpha": 0.5, "rank_stabilised": False, "ranks": [2, 6], "alphas": [0.5, 3.0], "modules": 5,
        "keys": 15,
    }  # fmt: skip
    config = json.loads((tmp_path / "made" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 0.5)
    assert config["rank_pattern"] == {f"^{module}": 6 for module in OURS}
    assert config["alpha_pattern"] == {f"^{OURS[0]}": 3.0}
    assert stored[f"{PREFIX}{OURS[0]}.lora_A.weight"].shape == (6, 6)
    assert stored[f"{PREFIX}{convolutions[2]}.lora_A.weight"].shape == (2, 8, 3, 3)


def test_what_files_of_one_rank_become_says_nothing_of_layers(tmp_path: Path) -> None:
    read(tmp_path, kohya())
    config = json.loads((tmp_path / "made" / "adapter_config.json").read_text())
    assert set(config) == {"bias", "lora_alpha", "lora_dropout", "peft_type", "r", "target_modules", "use_rslora"}


def test_without_a_word_alpha_is_the_rank_of_each_layer(tmp_path: Path) -> None:
    parameters, _ = read(tmp_path, {**pair(flat(OURS[0]), 8, 6, rank=3, alpha=None),
                                    **pair(flat(OURS[1]), 16, 8, rank=5, alpha=None)})  # fmt: skip
    assert (parameters["ranks"], parameters["alphas"]) == ([3, 5], [3.0, 5.0])
    config = json.loads((tmp_path / "made" / "adapter_config.json").read_text())
    assert config["alpha_pattern"] == {f"^{OURS[1]}": 5.0}


def test_metadata_gives_parts_and_layers_scales_of_their_own(tmp_path: Path) -> None:
    told = {
        "unet.lora_alpha": 8, "unet.use_rslora": True, "unet.alpha_pattern": {"attn1.to_k": 3, f"^{OURS[0]}": 5},
        "text_encoder.lora_alpha": 1,
        "text_encoder.alpha_pattern": {"^text_model.encoder.layers.0.self_attn.q_proj": 7},
    }  # fmt: skip
    parameters = diffusers(tmp_path, told)
    assert (parameters["alpha"], parameters["rank_stabilised"], parameters["alphas"]) == (5.0, True, [5.0, 7.0])
    own, text = (
        json.loads((tmp_path / "made" / folder / "adapter_config.json").read_text()) for folder in ("", "text_encoder")
    )
    assert (own["lora_alpha"], own["use_rslora"]) == (5.0, True)
    assert (text["lora_alpha"], text["use_rslora"]) == (7.0, False)


def taken(tmp_path: Path, said: Mapping[str, object]) -> dict[str, object]:
    """The parameters of a small adapter in PEFT's own layout whose configuration is this."""
    halves = pair(f"{PREFIX}{OURS[0]}", 8, 6, alpha=None).items()
    spelt = {key.replace("lora_down", "lora_A").replace("lora_up", "lora_B"): value for key, value in halves}
    save_file(spelt, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    names = {"adapter_model.safetensors": Content.SAFETENSORS, "adapter_config.json": Content.JSON}
    files = {name: tmp_path / name for name in names}
    return read_adapter(files, names, family="sdxl", denoiser=SDXL, scratch=tmp_path / "made")[0]


CONFIG = {"r": 2, "lora_alpha": 2, "target_modules": ["to_q"], "alpha_pattern": {}, "rank_pattern": {}}


@pytest.mark.parametrize("name", ["to_q", f"^{OURS[0]}", OURS[0].replace(".", r"\."), "attn1.to_q"])
def test_patterns_of_peft_name_layers(tmp_path: Path, name: str) -> None:
    said = {
        **CONFIG,
        "r": 4,
        "rank_pattern": {"to_k": 1, name: 2},
        "alpha_pattern": {"o_q": 1, name: 8, "0.attn1.to_q": 9},
    }
    parameters = taken(tmp_path, said)
    assert parameters == {"rank": 2, "alpha": 8.0, "rank_stabilised": False, "modules": 1, "keys": 2}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alpha_pattern": {"to_q": "8"}}, "no number"),
        ({"alpha_pattern": {".*to_q": 8}}, "which is no name of a layer but an expression"),
        ({"rank_pattern": {"to_(q|k)": 2}}, "which is no name of a layer but an expression"),
        ({"rank_pattern": {"to_q": 3}}, "says rank 3, the tensors say 2"),
        ({"rank_pattern": {"to_q": 0}}, "a whole number"),
        ({"rank_pattern": {"^to_q": 2}, "r": 3}, "says rank 3, the tensors say 2"),
        ({"target_modules": None}, "names no layers"),
        ({"lora_alpha": float("nan")}, "no number"),
    ],
)
def test_configurations_of_peft_that_do_not_fit(tmp_path: Path, change: Mapping[str, object], words: str) -> None:
    assert taken(tmp_path, CONFIG)["alpha"] == 2.0
    with pytest.raises(Invalid, match=words) as caught:
        taken(tmp_path, {**CONFIG, **change})
    assert caught.value.reason == "ADAPTER_LAYOUT"


def test_one_half_under_two_names_is_none_too_many(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="two names of one tensor"):
        read(tmp_path, {**kohya(), **pair(flat(OURS[0]), 8, 6, alpha=None)})
