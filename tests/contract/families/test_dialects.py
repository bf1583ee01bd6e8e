"""An exported adapter is read by the other library and predicts what it did here; what comes back is the same."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from marsam_trainer.adapters import read_adapter
from marsam_trainer.exports import FILES, export
from marsam_trainer.weights import Content, Tensor, read_header
from peft import PeftModel
from safetensors.torch import load_file

from marsam.catalog.files import FileRef
from marsam.catalog.models import Model
from marsam.core.errors import Invalid
from marsam.diffusion import dialects, registry
from marsam.store.cache import Cache
from marsam.store.content import put_blob
from marsam.store.folder import FolderBlobs
from tests.contract.families import rig as rigs

pytestmark = pytest.mark.slow
every_family = pytest.mark.parametrize("name", registry.families())
UNETS = [name for name in registry.families() if registry.family_facts(name).denoiser_folder == "unet"]
BASE = "projects/p/models/b"


class Tuned:
    """A family's tiny base tuned for a few steps, its adapter stored as a model."""

    def __init__(self, base: Path, name: str, folder: Path, **params: Any) -> None:
        self.base, self.folder = base, folder
        self.rig = rigs.load(base, name, "lora", params=params)
        loop = rigs.loop(self.rig, steps=4)
        while not loop.done:
            loop.step()
        self.said = rigs.predict(self.rig.family, self.rig.parts)
        self.rig.method.save(self.rig.denoiser, folder / "adapter", metadata={})
        self.blobs = FolderBlobs(folder / "store")

    @property
    def part(self) -> str:
        return self.rig.family.facts.denoiser_folder

    def exported(self, dialect: str) -> Path:
        """The adapter's one file in a dialect."""

        async def work() -> Path:
            files = []
            for path in sorted((self.folder / "adapter").iterdir()):
                stored = await put_blob(self.blobs, "p", path)
                files.append(FileRef(path=path.name, digest=stored.digest, size=stored.size))
            model = Model(
                name="projects/p/models/a", kind="adapter", create_time=datetime.now(UTC), files=tuple(files),
                family=self.rig.family.facts.name, method="lora", base=BASE, base_digest=f"sha256:{'0' * 64}",
            )  # fmt: skip
            scratch = self.folder / dialect
            scratch.mkdir()
            (one,) = await export(self.blobs, Cache(self.folder / "cache"), model, dialect=dialect, scratch=scratch)
            assert one.local is not None
            return one.local

        return asyncio.run(work())

    def says(self, denoiser: Any) -> torch.Tensor:
        """What another denoiser says of the same."""
        return rigs.predict(self.rig.family, rigs.with_denoiser(self.rig.parts, denoiser))

    def denoiser_tensors(self) -> dict[str, Tensor]:
        return {
            key: tensor
            for file in (self.base / self.part).glob("*.safetensors")
            for key, tensor in read_header(file, name=file.name).tensors.items()
        }


@pytest.mark.parametrize("params", [{}, {"rank_stabilised": True}], ids=["plain", "stabilised"])
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


@pytest.mark.parametrize("params", [{}, {"rank_stabilised": True}], ids=["plain", "stabilised"])
@pytest.mark.parametrize("dialect", ["kohya", "comfyui"])
@every_family
def test_a_scale_in_the_file_is_alpha_by_rank(
    bases: dict[str, Path], name: str, tmp_path: Path, dialect: str, params: dict[str, Any]
) -> None:
    tuned = Tuned(bases[name], name, tmp_path, **params)
    try:
        file = tuned.exported(dialect)
    except Invalid as error:
        assert error.reason == "DIALECT_UNSUITED"
        assert "diffusers" in error.remedy
        facts = tuned.rig.family.facts
        assert not (facts.kohya if dialect == "kohya" else facts.comfyui or tuned.part == "unet")
        return
    # What sd-scripts and ComfyUI compute: W + alpha / rank · up · down.
    tensors, plain = load_file(file), rigs.plain(tuned.rig).denoiser
    for path, layer in plain.named_modules():
        names = [dialects.pair_key(dialect, tuned.part, path, half) for half in "AB"]
        if names[0] not in tensors:
            continue
        down, up = (tensors.pop(each) for each in names)
        alpha = tensors.pop(dialects.alpha_key(dialect, tuned.part, path))
        change = (up.flatten(1) @ down.flatten(1)) * (alpha / down.shape[0])
        layer.weight.data += change.view(layer.weight.shape)
    assert tensors == {}
    torch.testing.assert_close(tuned.says(plain), tuned.said, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", UNETS)
def test_diffusers_reads_kohyas_names_too(bases: dict[str, Path], name: str, tmp_path: Path) -> None:
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
        {file.name: file}, {file.name: Content.SAFETENSORS}, part=tuned.part, denoiser=tuned.denoiser_tensors(),
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
