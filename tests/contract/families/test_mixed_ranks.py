"""Adapters whose layers have ranks and alphas of their own: they come in, are applied, and go out as PEFT has them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from marsam_generator.engine.bank import AdapterBank
from marsam_trainer.adapters import read_adapter
from marsam_trainer.exports import FILES
from marsam_trainer.weights import Content
from peft import PeftModel

from marsam.core.errors import Invalid
from marsam.diffusion import registry
from marsam.diffusion.adapter import net as adapters
from marsam.diffusion.adapter.parts import net as parts_of_adapters
from tests.contract.families import rig as rigs
from tests.contract.families.foreign import RANKS, Foreign, held_in
from tests.contract.families.test_dialects import UNETS, with_changes
from tests.contract.families.test_dialects_pixels import drawn
from tests.contract.families.test_text_dialects import TOLD, reads, same

pytestmark = pytest.mark.slow
every_family = pytest.mark.parametrize("name", registry.families())
WITH_ALPHAS = [
    *((name, dialect) for name in UNETS for dialect in ("kohya", "comfyui")),
    *((name, "comfyui") for name in registry.families() if registry.family_facts(name).comfyui),
]
"""Dialects with an alpha beside every pair, under names that one layer each has. diffusers 0.42 reads such files
too, but mistakes alphas that differ: it looks for those of a UNet's attention under names of its own."""
stabilised_or_not = pytest.mark.parametrize("stabilised", [False, True], ids=["plain", "stabilised"])


def _changed(plain: Any, tuned: Foreign, dialect: str) -> Any:
    """A base's denoiser after what the readers of a dialect with alphas compute of the exported file."""
    facts = tuned.rig.family.facts
    if facts.name not in UNETS:
        return with_changes(plain, tuned.exported(dialect), "transformer.{}".format)
    theirs = held_in(facts, dict(plain.named_modules())) if dialect == "kohya" else {}
    return with_changes(
        plain, tuned.exported(dialect), lambda path: f"lora_unet_{theirs.get(path, path).replace('.', '_')}"
    )


def _taken(tuned: Foreign, files: Mapping[str, Path]) -> tuple[dict[str, Any], dict[str, Path] | None]:
    contents = {name: Content.SAFETENSORS if name.endswith(".safetensors") else Content.JSON for name in files}
    return read_adapter(
        files, contents, family=tuned.rig.family.facts.name, denoiser=tuned.denoiser_tensors(),
        encoders=tuned.encoder_tensors(), scratch=tuned.folder / "back",
    )  # fmt: skip


@stabilised_or_not
@every_family
def test_what_peft_saved_comes_in_as_it_is(bases: dict[str, Path], name: str, tmp_path: Path, stabilised: bool) -> None:
    tuned = Foreign(bases[name], name, tmp_path, stabilised=stabilised)
    parameters, rewritten = _taken(tuned, tuned.stored())
    assert rewritten is None
    assert parameters["ranks"] == sorted(RANKS)
    assert (len(parameters["alphas"]) > 2, parameters["rank_stabilised"]) == (True, stabilised)
    plain = rigs.plain(tuned.rig).denoiser
    adapter = adapters.read(tmp_path / "adapter")
    assert not torch.allclose(tuned.says(plain), tuned.said, atol=1e-2)
    assert adapters.apply(plain, adapter) == parameters["modules"]
    assert torch.equal(tuned.says(plain), tuned.said)
    # What we save of it is PEFT's again.
    adapters.save(plain, tmp_path / "again", metadata={})
    theirs = PeftModel.from_pretrained(rigs.plain(tuned.rig).denoiser, tmp_path / "again").base_model.model
    assert torch.equal(tuned.says(theirs), tuned.said)


@stabilised_or_not
@every_family
def test_the_bank_says_what_peft_says(bases: dict[str, Path], name: str, tmp_path: Path, stabilised: bool) -> None:
    tuned = Foreign(bases[name], name, tmp_path, stabilised=stabilised)
    plain = rigs.plain(tuned.rig).denoiser
    before = tuned.says(plain)
    bank = AdapterBank(plain)
    bank.install(bank.prepare("a", adapters.read(tmp_path / "adapter")))
    with bank.rows([{"a": 1.0}, {}, {"a": 1.0}]):
        mixed = tuned.says(plain)
    torch.testing.assert_close(mixed[::2], tuned.said[::2], atol=1e-4, rtol=1e-3)
    assert torch.equal(mixed[1], before[1])


@stabilised_or_not
@every_family
def test_diffusers_reads_its_own_dialect(bases: dict[str, Path], name: str, tmp_path: Path, stabilised: bool) -> None:
    tuned = Foreign(bases[name], name, tmp_path, stabilised=stabilised)
    pipeline = DiffusionPipeline.from_pretrained(bases[name], local_files_only=True)
    pipeline.load_lora_weights(tuned.exported("diffusers"))
    torch.testing.assert_close(tuned.says(getattr(pipeline, tuned.part)), tuned.said, atol=1e-5, rtol=1e-3)


@stabilised_or_not
@pytest.mark.parametrize(("name", "dialect"), WITH_ALPHAS)
def test_what_sd_scripts_and_comfyui_compute(
    bases: dict[str, Path], name: str, tmp_path: Path, dialect: str, stabilised: bool
) -> None:
    tuned = Foreign(bases[name], name, tmp_path, stabilised=stabilised)
    plain = _changed(rigs.plain(tuned.rig).denoiser, tuned, dialect)
    torch.testing.assert_close(tuned.says(plain), tuned.said, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "dialect"), [*WITH_ALPHAS, *((name, "diffusers") for name in registry.families()), ("sd1", "peft")]
)
def test_pictures(bases: dict[str, Path], name: str, dialect: str, tmp_path: Path) -> None:
    tuned = Foreign(bases[name], name, tmp_path)
    pipeline = DiffusionPipeline.from_pretrained(bases[name], local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    before = drawn(pipeline, tuned.rig.side)
    ours = rigs.plain(tuned.rig).denoiser
    adapters.apply(ours, adapters.read(tmp_path / "adapter"))
    own = getattr(pipeline, tuned.part)
    if dialect == "diffusers":
        pipeline.load_lora_weights(tuned.exported(dialect))
    elif dialect == "peft":
        PeftModel.from_pretrained(own, tmp_path / "adapter")
    else:
        _changed(own, tuned, dialect)
    theirs = drawn(pipeline, tuned.rig.side)
    pipeline.register_modules(**{tuned.part: ours})
    assert np.abs(theirs - drawn(pipeline, tuned.rig.side)).max() <= 1
    assert (theirs != before).mean() > 0.2


@stabilised_or_not
@pytest.mark.parametrize("dialect", sorted(FILES))
@every_family
def test_what_comes_back_says_the_same(
    bases: dict[str, Path], name: str, tmp_path: Path, dialect: str, stabilised: bool
) -> None:
    tuned = Foreign(bases[name], name, tmp_path, stabilised=stabilised)
    try:
        file = tuned.exported(dialect)
    except Invalid as error:
        assert error.reason == "DIALECT_UNSUITED" and "no names" in error.message
        return
    parameters, _ = _taken(tuned, {file.name: file})
    assert set(RANKS) <= set(parameters["ranks"])
    plain = rigs.plain(tuned.rig).denoiser
    adapters.apply(plain, adapters.read(tuned.folder / "back"))
    torch.testing.assert_close(tuned.says(plain), tuned.said, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("dialect", sorted(FILES))
@pytest.mark.parametrize("name", TOLD)
def test_text_encoders_have_their_own(bases: dict[str, Path], name: str, tmp_path: Path, dialect: str) -> None:
    tuned = Foreign(bases[name], name, tmp_path, text=True)
    wanted = reads(tuned, {})
    stored, _ = _taken(tuned, tuned.stored())
    networks = tuned.rig.family.load(bases[name])
    modules = {tuned.part: networks.denoiser, **networks.text}
    parts_of_adapters.apply_all(modules, tuned.rig.family.facts, adapters.read(tmp_path / "adapter"))
    same(reads(tuned, networks.text), wanted)
    file = tuned.exported(dialect)
    back, _ = _taken(tuned, {file.name: file})
    assert (back["modules"], back["text_modules"]) == (stored["modules"], stored["text_modules"])
    networks = tuned.rig.family.load(bases[name])
    modules = {tuned.part: networks.denoiser, **networks.text}
    parts_of_adapters.apply_all(modules, tuned.rig.family.facts, adapters.read(tuned.folder / "back"))
    same(reads(tuned, networks.text), wanted)
    if dialect == "diffusers":
        pipeline = DiffusionPipeline.from_pretrained(tuned.base, local_files_only=True)
        encoders = {folder: getattr(pipeline, folder) for folder in tuned.rig.family.facts.encoders}
        pipeline.load_lora_weights(file)
        same(reads(tuned, encoders), wanted)


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_one_layer_of_theirs_has_one_scale(bases: dict[str, Path], name: str, tmp_path: Path) -> None:
    tuned = Foreign(bases[name], name, tmp_path, apart=True)
    with pytest.raises(Invalid, match=r"q\w* and .*k\w* and .*v\w* have scales of their own") as caught:
        tuned.exported("kohya")
    assert (caught.value.reason, caught.value.remedy) == ("DIALECT_UNSUITED", "export as diffusers or peft")
