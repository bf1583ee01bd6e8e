"""DoRA adapters that others trained: their lengths find their layers, shaped as PEFT has them, or are refused."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from marsam_trainer.adapters import read_adapter
from marsam_trainer.weights import Content, Tensor
from safetensors.numpy import load_file, save_file

from marsam.core.errors import Invalid
from marsam.diffusion.dialects import PEFT as PREFIX

LINE, CONV = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "down_blocks.0.resnets.0.conv1"
SQUARE = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
SDXL = {
    f"{LINE}.weight": Tensor(dtype="F16", shape=(8, 6)),
    f"{CONV}.weight": Tensor(dtype="F16", shape=(8, 4, 3, 3)),
    f"{SQUARE}.weight": Tensor(dtype="F16", shape=(4, 4)),
}
"""A little of SDXL's UNet."""

ENCODER = "text_model.encoder.layers.0.self_attn.q_proj"
ENCODERS = {"text_encoder": {f"{ENCODER}.weight": Tensor(dtype="F16", shape=(8, 8))}}
Tensors = dict[str, np.ndarray]


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def kohya() -> Tensors:
    """As LyCORIS writes it with `wd_on_output`."""
    line, conv = (f"lora_unet_{module.replace('.', '_')}" for module in (LINE, CONV))
    return {
        f"{line}.alpha": np.array(1.0, np.float32), f"{line}.dora_scale": numbers(8, 1),
        f"{line}.lora_down.weight": numbers(2, 6), f"{line}.lora_up.weight": numbers(8, 2),
        f"{conv}.alpha": np.array(1.0, np.float32), f"{conv}.dora_scale": numbers(8, 1, 1, 1),
        f"{conv}.lora_down.weight": numbers(2, 4, 3, 3), f"{conv}.lora_up.weight": numbers(8, 2, 1, 1),
    }  # fmt: skip


def read(tmp_path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, object] | None = None) -> Tensors:
    """What is stored instead of this file."""
    file = tmp_path / "a.safetensors"
    save_file(dict(tensors), file, metadata={"lora_adapter_metadata": json.dumps(metadata or {})})
    parameters, files = read_adapter(
        {file.name: file}, {file.name: Content.SAFETENSORS}, family="sdxl", denoiser=SDXL, encoders=ENCODERS,
        scratch=tmp_path / "made",
    )  # fmt: skip
    assert files is not None
    config = json.loads(files["adapter_config.json"].read_text())
    assert parameters.get("dora") is config.get("use_dora")
    assert parameters["keys"] == len(tensors)
    return load_file(files["adapter_model.safetensors"])


def the_key(tensors: Tensors, end: str) -> str:
    return next(key for key in tensors if key.endswith(end))


def beside(tensors: Tensors, end: str) -> str:
    return the_key(tensors, "to_q.dora_scale").replace("dora_scale", end)


@pytest.mark.parametrize("flat", [False, True], ids=["as LyCORIS has them", "without ones"])
def test_dora_scale_becomes_what_peft_has(tmp_path: Path, flat: bool) -> None:
    tensors = kohya()
    if flat:
        tensors |= {key: value.flatten() for key, value in tensors.items() if key.endswith(".dora_scale")}
    stored = read(tmp_path, tensors)
    assert len(stored) == 6
    for module, shape in ((LINE, (8,)), (CONV, (1, 8, 1, 1))):
        lengths = stored[f"{PREFIX}{module}.lora_magnitude_vector"]
        theirs = tensors[f"lora_unet_{module.replace('.', '_')}.dora_scale"]
        assert lengths.shape == shape
        assert np.array_equal(lengths.flatten(), theirs.flatten())


@pytest.mark.parametrize("end", ["", ".weight"])
def test_diffusers_names_are_taken_as_they_are(tmp_path: Path, end: str) -> None:
    lengths = {LINE: numbers(8), CONV: numbers(1, 8, 1, 1)}
    halves = {LINE: ((2, 6), (8, 2)), CONV: ((2, 4, 3, 3), (8, 2, 1, 1))}
    tensors = {f"unet.{module}.lora_magnitude_vector{end}": value for module, value in lengths.items()}
    for module, (down, up) in halves.items():
        tensors |= {f"unet.{module}.lora_A.weight": numbers(*down), f"unet.{module}.lora_B.weight": numbers(*up)}
    stored = read(tmp_path, tensors, {"unet.use_dora": True, "unet.lora_alpha": 3})
    for module, value in lengths.items():
        assert np.array_equal(stored[f"{PREFIX}{module}.lora_magnitude_vector"], value)


@pytest.mark.parametrize(("module", "columns"), [(LINE, (1, 6)), (CONV, (1, 4, 1, 1)), (SQUARE, (1, 4))])
def test_lengths_of_inputs_are_refused_by_name(tmp_path: Path, module: str, columns: tuple[int, ...]) -> None:
    rows, *others = SDXL[f"{module}.weight"].shape
    stem = f"lora_unet_{module.replace('.', '_')}"
    ones = [1] * len(others[1:])
    tensors = {
        f"{stem}.lora_down.weight": numbers(2, *others), f"{stem}.lora_up.weight": numbers(rows, 2, *ones),
        f"{stem}.dora_scale": numbers(*columns),
    }  # fmt: skip
    with pytest.raises(Invalid, match=r"a DoRA adapter whose lengths are those of a layer's inputs") as caught:
        read(tmp_path, tensors)
    assert caught.value.reason == "ADAPTER_KIND"
    assert "wd_on_output" in caught.value.remedy
    assert "lora" in read(tmp_path, {**tensors, f"{stem}.dora_scale": numbers(rows, 1, *ones)}).popitem()[0]


def _of_an_encoder(tensors: Tensors) -> None:
    stem = f"lora_te1_{ENCODER.replace('.', '_')}"
    tensors |= {f"{stem}.lora_down.weight": numbers(2, 8), f"{stem}.lora_up.weight": numbers(8, 2)}
    tensors[f"{stem}.alpha"] = np.array(1.0, np.float32)


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (lambda t: t.pop(the_key(t, "to_q.dora_scale")), "ADAPTER_LAYOUT", "lacks the lengths of 1 of its 2 layers, "),
        (_of_an_encoder, "ADAPTER_LAYOUT", f"lacks the lengths of 1 of its 3 layers, {ENCODER} first"),
        (lambda t: t.pop(the_key(t, "to_q.lora_up.weight")), "ADAPTER_LAYOUT", "lacks one half"),
        (lambda t: t.update({the_key(t, "to_q.dora_scale"): numbers(7, 1)}), "ADAPTER_LAYOUT", r"\[7, 1\].* 8 outputs"),
        (lambda t: t.update({the_key(t, "to_q.dora_scale"): numbers(1, 8)}), "ADAPTER_LAYOUT", r"\[1, 8\].* 8 outputs"),
        (lambda t: t.update({beside(t, "lora_magnitude_vector"): numbers(8)}), "ADAPTER_LAYOUT", "two names of one"),
        (lambda t: t.update({"lora_unet_x.dora_scale": numbers(8, 1)}), "ADAPTER_LAYERS_UNKNOWN", "9 tensors 8 are"),
        (lambda t: t.update({beside(t, "hada_w1_a"): numbers(8, 1)}), "ADAPTER_KIND", r"LoHa \(LyCORIS\)"),
        (lambda t: t.update({beside(t, "lokr_w1"): numbers(8, 1)}), "ADAPTER_KIND", r"LoKr \(LyCORIS\)"),
    ],
)  # fmt: skip
def test_lengths_that_do_not_fit(tmp_path: Path, change: Callable[[Tensors], object], reason: str, words: str) -> None:
    tensors = kohya()
    change(tensors)
    with pytest.raises(Invalid, match=words) as caught:
        read(tmp_path, tensors)
    assert caught.value.reason == reason


def test_a_file_that_says_dora_and_holds_no_lengths(tmp_path: Path) -> None:
    tensors = {f"unet.{LINE}.lora_A.weight": numbers(2, 6), f"unet.{LINE}.lora_B.weight": numbers(8, 2)}
    with pytest.raises(Invalid, match="says use_dora, and it holds no lengths"):
        read(tmp_path, tensors, {"unet.use_dora": True})


@pytest.mark.parametrize(
    ("says", "end", "words"),
    [
        (False, "", "says nothing of use_dora, and the tensors hold its lengths"),
        (True, None, "says use_dora, and the tensors hold none of its lengths"),
        (True, ".weight", "PEFT's own names"),
    ],
)
def test_peft_folders_whose_parts_disagree(tmp_path: Path, says: bool, end: str | None, words: str) -> None:
    stem = f"{PREFIX}{LINE}"
    tensors = {f"{stem}.lora_A.weight": numbers(2, 6), f"{stem}.lora_B.weight": numbers(8, 2)}
    if end is not None:
        tensors[f"{stem}.lora_magnitude_vector{end}"] = numbers(8)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"r": 2, "lora_alpha": 2, "target_modules": ["to_q"], "use_dora": says}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    contents = {"adapter_model.safetensors": Content.SAFETENSORS, "adapter_config.json": Content.JSON}
    with pytest.raises(Invalid, match=words) as caught:
        read_adapter(
            {name: tmp_path / name for name in contents}, contents, family="sdxl", denoiser=SDXL,
            scratch=tmp_path / "made",
        )  # fmt: skip
    assert caught.value.reason == "ADAPTER_LAYOUT"
