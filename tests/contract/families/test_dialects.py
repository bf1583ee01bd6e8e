"""An exported adapter is read by the other library and predicts what it did here; what comes back is the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from marsam_trainer.adapters import read_adapter
from marsam_trainer.exports import FILES
from marsam_trainer.weights import Content
from peft import PeftModel
from safetensors.torch import load_file

from marsam.core.errors import Invalid
from marsam.diffusion import registry
from tests.contract.families import rig as rigs
from tests.contract.families.tuned import Tuned

pytestmark = pytest.mark.slow
every_family = pytest.mark.parametrize("name", registry.families())
stabilised_or_not = pytest.mark.parametrize("params", [{}, {"rank_stabilised": True}], ids=["plain", "stabilised"])
UNETS = [name for name in registry.families() if registry.family_facts(name).denoiser_folder == "unet"]


@stabilised_or_not
@every_family
def test_diffusers_reads_its_own_dialect(
    bases: dict[str, Path], name: str, tmp_path: Path, params: dict[str, Any]
) -> None:
    tuned = Tuned(bases[name], name, tmp_path, **params)
    pipeline = DiffusionPipeline.from_pretrained(bases[name], local_files_only=True)
    pipeline.load_lora_weights(tuned.exported("diffusers"))
    torch.testing.assert_close(tuned.says(getattr(pipeline, tuned.part)), tuned.said, atol=1e-5, rtol=1e-4)


@every_family
def test_peft_reads_its_own(bases: dict[str, Path], name: str, tmp_path: Path) -> None:
    tuned = Tuned(bases[name], name, tmp_path)
    theirs = PeftModel.from_pretrained(rigs.plain(tuned.rig).denoiser, tmp_path / "adapter").base_model.model
    assert torch.equal(tuned.says(theirs), tuned.said)


def with_changes(plain: Any, file: Path, stem: Callable[[str], str]) -> Any:
    """`plain` after what sd-scripts and ComfyUI compute, W + alpha / rank · up · down, for the layers that `stem`
    gives the names of. Every tensor of the file is used."""
    tensors = load_file(file)
    for path, layer in plain.named_modules():
        names = [f"{stem(path)}.{half}.weight" for half in ("lora_A", "lora_B", "lora_down", "lora_up")]
        halves = [tensors.pop(name) for name in names if name in tensors]
        if halves:
            down, up = halves
            change = (up.flatten(1) @ down.flatten(1)) * (tensors.pop(f"{stem(path)}.alpha") / down.shape[0])
            layer.weight.data += change.view(layer.weight.shape)
    assert tensors == {}
    return plain


@stabilised_or_not
@every_family
def test_what_comfyui_computes(bases: dict[str, Path], name: str, tmp_path: Path, params: dict[str, Any]) -> None:
    tuned = Tuned(bases[name], name, tmp_path, **params)
    try:
        file = tuned.exported("comfyui")
    except Invalid as error:
        assert (error.reason, error.remedy) == ("DIALECT_UNSUITED", "export as diffusers or peft")
        assert not tuned.rig.family.facts.comfyui
        return
    unet = tuned.part == "unet"
    plain = with_changes(
        rigs.plain(tuned.rig).denoiser, file,
        lambda path: f"lora_unet_{path.replace('.', '_')}" if unet else f"transformer.{path}",
    )  # fmt: skip
    torch.testing.assert_close(tuned.says(plain), tuned.said, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", UNETS)
def test_diffusers_reads_comfyuis_names_too(bases: dict[str, Path], name: str, tmp_path: Path) -> None:
    tuned = Tuned(bases[name], name, tmp_path)
    pipeline = DiffusionPipeline.from_pretrained(bases[name], local_files_only=True)
    pipeline.load_lora_weights(tuned.exported("comfyui"))
    torch.testing.assert_close(tuned.says(pipeline.unet), tuned.said, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("stabilised", [False, True], ids=["plain", "stabilised"])
@pytest.mark.parametrize("dialect", sorted(FILES))
@every_family
def test_what_comes_back_is_the_same(
    bases: dict[str, Path], name: str, tmp_path: Path, dialect: str, stabilised: bool
) -> None:
    tuned = Tuned(bases[name], name, tmp_path, rank_stabilised=stabilised)
    try:
        file = tuned.exported(dialect)
    except Invalid:
        return
    parameters, rewritten = read_adapter(
        {file.name: file}, {file.name: Content.SAFETENSORS}, family=name, denoiser=tuned.denoiser_tensors(),
        scratch=tmp_path / "back",
    )  # fmt: skip
    assert rewritten is not None
    # A file that keeps its alphas has them for the rule alpha / rank: 8 / √4 is 16 / 4.
    kept = stabilised and dialect == "diffusers"
    expected = (4, 16.0 if stabilised and not kept else 8.0, kept)
    assert (parameters["rank"], parameters["alpha"], parameters["rank_stabilised"]) == expected
    ours, back = (
        load_file(tmp_path / "adapter" / "adapter_model.safetensors"),
        load_file(rewritten["adapter_model.safetensors"]),
    )
    assert set(ours) == set(back)
    assert all(torch.equal(ours[key], back[key]) for key in ours)
