"""Adapters that others trained, under the names that they write: matched key by key, or refused by name."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from marsam_trainer.adapter_keys import MOST_NAMED
from marsam_trainer.adapters import PREFIX, read_adapter
from marsam_trainer.weights import Content, Tensor
from safetensors.numpy import load_file, save_file

from marsam.core.errors import Invalid

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
        ("hada_w1_a", "LoHa"), ("lokr_w1", "LoKr"), ("lokr_w2_b", "LoKr"), ("dora_scale", "DoRA"),
        ("lora_magnitude_vector.weight", "DoRA"), ("lora_mid.weight", "Tucker"), ("oft_blocks", "OFT"),
        ("diff", "whole layers"),
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
        (lambda t: t.update({f"{flat(THEIRS[0])}.alpha": np.array(2.0, np.float16)}), r"mixes alphas \[1.0, 2.0\]"),
        (lambda t: t.update(pair(flat(THEIRS[0]), 8, 6, rank=3)), r"mixes ranks \[2, 3\]"),
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
