"""An adapter that changes text encoders goes out in other programs' names, and comes back."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from marsam_trainer.adapters import read_adapter
from marsam_trainer.exports import FILES
from marsam_trainer.weights import Content
from peft import PeftModel
from safetensors.torch import load_file, save_file

from marsam.core.errors import Invalid
from marsam.diffusion import dialects, registry
from marsam.diffusion.adapter import net as adapters
from marsam.diffusion.adapter.parts import net as parts_of_adapters
from marsam.diffusion.spec import Components
from tests.contract.families import rig as rigs
from tests.contract.families.tuned import Tuned

pytestmark = pytest.mark.slow
TOLD = [
    name for name in registry.families()
    if all(encoder.prefix for encoder in registry.family_facts(name).encoders.values())
]  # fmt: skip
"""Families of whose encoders other programs read adapters."""
every_told = pytest.mark.parametrize("name", TOLD)
every_family = pytest.mark.parametrize("name", registry.families())
stabilised_or_not = pytest.mark.parametrize("params", [{}, {"rank_stabilised": True}], ids=["plain", "stabilised"])


def _tuned(base: Path, name: str, folder: Path, **params: Any) -> Tuned:
    return Tuned(base, name, folder, **rigs.WITH_TEXT, **params)


@torch.no_grad()
def reads(tuned: Tuned, encoders: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """How captions are read by other encoders."""
    parts: Components = replace(tuned.rig.parts, text={**tuned.rig.parts.text, **encoders})
    for part in parts.text.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return dict(tuned.rig.family.encode_text(parts, rigs.PROMPTS).tensors)


def same(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], atol=1e-5, rtol=1e-3)


def _read_by_diffusers(tuned: Tuned, dialect: str) -> None:
    pipeline = DiffusionPipeline.from_pretrained(tuned.base, local_files_only=True)
    encoders = {folder: getattr(pipeline, folder) for folder in tuned.rig.family.facts.encoders}
    before, wanted = reads(tuned, encoders), reads(tuned, {})
    assert any(not torch.allclose(before[name], wanted[name], atol=1e-4) for name in wanted)
    pipeline.load_lora_weights(tuned.exported(dialect))
    same(reads(tuned, encoders), wanted)
    torch.testing.assert_close(tuned.says(getattr(pipeline, tuned.part)), tuned.said, atol=1e-5, rtol=1e-3)


@stabilised_or_not
@every_told
def test_diffusers_reads_its_own_dialect(
    bases: dict[str, Path], name: str, tmp_path: Path, params: dict[str, Any]
) -> None:
    _read_by_diffusers(_tuned(bases[name], name, tmp_path, **params), "diffusers")


@pytest.mark.parametrize("dialect", ["kohya", "comfyui"])
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_diffusers_reads_kohyas_names_too(bases: dict[str, Path], name: str, tmp_path: Path, dialect: str) -> None:
    _read_by_diffusers(_tuned(bases[name], name, tmp_path), dialect)


@stabilised_or_not
@pytest.mark.parametrize("dialect", ["kohya", "comfyui"])
@every_told
def test_a_scale_in_the_file_is_alpha_by_rank(
    bases: dict[str, Path], name: str, tmp_path: Path, dialect: str, params: dict[str, Any]
) -> None:
    tuned = _tuned(bases[name], name, tmp_path, **params)
    tensors = {key: value for key, value in load_file(tuned.exported(dialect)).items() if key.startswith("lora_te")}
    plain = tuned.rig.family.load(bases[name])
    for folder, encoder in tuned.rig.family.facts.encoders.items():
        for path, layer in plain.text[folder].named_modules():
            stem = encoder.prefix + f"text_model.{path.removeprefix('text_model.')}".replace(".", "_")
            if f"{stem}.alpha" in tensors:
                down, up = (tensors.pop(f"{stem}.lora_{half}.weight") for half in ("down", "up"))
                layer.weight.data += up @ down * (tensors.pop(f"{stem}.alpha") / down.shape[0])
    assert tensors == {}
    same(reads(tuned, plain.text), reads(tuned, {}))


@every_family
def test_peft_reads_its_own(bases: dict[str, Path], name: str, tmp_path: Path) -> None:
    tuned = _tuned(bases[name], name, tmp_path)
    plain = tuned.rig.family.load(bases[name])
    theirs = {
        folder: PeftModel.from_pretrained(plain.text[folder], tmp_path / "adapter" / folder).base_model.model
        for folder in tuned.rig.family.facts.encoders
    }
    same(reads(tuned, theirs), reads(tuned, {}))
    denoiser = PeftModel.from_pretrained(plain.denoiser, tmp_path / "adapter").base_model.model
    assert torch.equal(tuned.says(denoiser), tuned.said)


def _back(tuned: Tuned, files: Mapping[str, Path]) -> tuple[dict[str, Any], dict[str, Path] | None]:
    contents = {name: Content.SAFETENSORS if name.endswith(".safetensors") else Content.JSON for name in files}
    return read_adapter(
        files, contents, family=tuned.rig.family.facts.name, denoiser=tuned.denoiser_tensors(),
        encoders=tuned.encoder_tensors(), scratch=tuned.folder / "back",
    )  # fmt: skip


@pytest.mark.parametrize("dialect", sorted(FILES))
@every_told
def test_what_comes_back_reads_the_same(bases: dict[str, Path], name: str, tmp_path: Path, dialect: str) -> None:
    tuned = _tuned(bases[name], name, tmp_path)
    file = tuned.exported(dialect)
    parameters, rewritten = _back(tuned, {file.name: file})
    assert rewritten is not None
    ours = adapters.read(tmp_path / "adapter")
    assert parameters["text_modules"] == sum(len(own.pairs) for own in ours.text.values()) > 0
    assert parameters["keys"] == len(load_file(file))
    plain = tuned.rig.family.load(bases[name])
    networks = {tuned.part: plain.denoiser, **plain.text}
    parts_of_adapters.apply_all(networks, tuned.rig.family.facts, adapters.read(tuned.folder / "back"))
    same(reads(tuned, plain.text), reads(tuned, {}))
    torch.testing.assert_close(tuned.says(plain.denoiser), tuned.said, atol=1e-5, rtol=1e-3)


@every_family
def test_a_stored_one_comes_back_as_it_is(bases: dict[str, Path], name: str, tmp_path: Path) -> None:
    tuned = _tuned(bases[name], name, tmp_path)
    ours = adapters.read(tmp_path / "adapter")
    parameters, rewritten = _back(tuned, tuned.stored())
    assert rewritten is None
    assert parameters["modules"] == len(ours.pairs)
    assert parameters["text_modules"] == sum(len(own.pairs) for own in ours.text.values())
    assert parameters["keys"] == 2 * len(ours.every_pair())


@pytest.mark.parametrize("dialect", sorted(FILES))
@pytest.mark.parametrize("name", sorted(set(registry.families()) - set(TOLD)))
def test_nobody_else_reads_adapters_of_language_models(
    bases: dict[str, Path], name: str, tmp_path: Path, dialect: str
) -> None:
    tuned = _tuned(bases[name], name, tmp_path)
    with pytest.raises(Invalid) as caught:
        tuned.exported(dialect)
    assert caught.value.reason == "DIALECT_UNSUITED"
    kohya = registry.family_facts(name).kohya
    assert "peft" in caught.value.remedy or (dialect == "kohya" and kohya is None)


def test_layers_of_an_encoder_that_the_base_lacks_are_named(bases: dict[str, Path], tmp_path: Path) -> None:
    tuned = _tuned(bases["sd1"], "sd1", tmp_path)
    tensors = load_file(tuned.exported("kohya"))
    names = dialects.encoder_pairs("kohya", registry.family_facts("sd1"), "text_encoder", ["encoder.layers.9.mlp.fc1"])
    strange = {names[0].down: torch.zeros(4, 16), names[0].up: torch.zeros(16, 4), names[0].alpha: torch.tensor(8.0)}
    save_file({**tensors, **strange}, tmp_path / "more.safetensors")
    with pytest.raises(Invalid) as caught:
        _back(tuned, {"more.safetensors": tmp_path / "more.safetensors"})
    assert caught.value.reason == "ADAPTER_LAYERS_UNKNOWN"
    assert {violation.field for violation in caught.value.violations} == set(strange)
    assert f"{len(tensors)} are of the base's layers" in caught.value.message
    other = {key.replace("lora_te_", "lora_te2_"): value for key, value in tensors.items()}
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(Invalid) as caught:
        _back(tuned, {"other.safetensors": tmp_path / "other.safetensors"})
    assert caught.value.reason == "ADAPTER_TEXT_ENCODER"
