"""What is kept of encoded captions is given back to nobody else."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from marsam_trainer.run.data import Encoder, read_picture
from marsam_trainer.run.encoded import EncodedCache
from marsam_trainer.run.samples import Sample
from PIL import Image

from marsam.catalog.files import FileRef
from marsam.catalog.models import Model
from marsam.core.ids import sha256_hex
from marsam.diffusion import registry
from marsam.diffusion.conditionings import join
from marsam.diffusion.lanes.net import Lanes
from marsam.diffusion.precision import Precision
from marsam.diffusion.spec import Conditioning, Part
from tests.contract.families import rig as rigs
from tests.contract.families.tiny import flux

pytestmark = pytest.mark.slow


def _encoder(source: Path, family: str, cache: Path) -> Encoder:
    files = tuple(
        FileRef(
            path=path.relative_to(source).as_posix(), digest=f"sha256:{sha256_hex(path.read_bytes())}",
            size=path.stat().st_size,
        )
        for path in sorted(source.rglob("*"))
        if path.is_file()
    )  # fmt: skip
    base = Model(name="projects/p/models/b", kind="base", create_time=datetime.now(UTC), files=files, family=family)
    return Encoder(
        family=registry.family(family), base=base, source=source, cache=EncodedCache(cache),
        precision=Precision.FP32, device="cpu", lanes=Lanes(1),
    )  # fmt: skip


@pytest.mark.parametrize("name", registry.families())
def test_what_comes_from_the_cache_is_what_was_encoded(bases: dict[str, Path], name: str, tmp_path: Path) -> None:
    first = _encoder(bases[name], name, tmp_path).texts(rigs.PROMPTS)
    again = _encoder(bases[name], name, tmp_path)
    found = again.texts(rigs.PROMPTS)
    assert again.loaded == {}
    assert set(found.tensors) == set(first.tensors)
    assert all(torch.equal(found.tensors[key], first.tensors[key]) for key in found.tensors)


def _sample(path: Path, name: str, size: tuple[int, int]) -> Sample:
    pixels = np.random.default_rng(len(name)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path / name)
    data = (path / name).read_bytes()
    image = FileRef(path=name, digest=f"sha256:{sha256_hex(data)}", size=len(data))
    return Sample(key=name, item=name, file_name=name, image=image, width=size[0], height=size[1], captions=("a kite",))


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_pictures_are_kept_as_they_were_cut(bases: dict[str, Path], name: str, tmp_path: Path) -> None:
    """Another size, or another cut to the same size, is another entry; the same cut is not encoded again."""
    samples = [_sample(tmp_path, "wide.png", (120, 60)), _sample(tmp_path, "tall.png", (50, 90))]
    files = {sample.image.digest: tmp_path / sample.file_name for sample in samples}
    buckets, square = ((32, 64), (64, 32), (32, 32)), ((32, 32),)
    for sizes in (buckets, square, buckets):
        encoder = _encoder(bases[name], name, tmp_path / "cache")
        found = encoder.training_set(samples, files, sizes)
        parts = encoder.part(Part.IMAGE)
        for row, sample in enumerate(samples):
            cut = sample.cut(sizes)
            pixels = read_picture(tmp_path / sample.file_name, cut.size, name=sample.file_name)
            assert pixels.shape == (3, cut.size[1], cut.size[0])
            alone = encoder.family.encode_image(parts, pixels.unsqueeze(0))[0]
            assert torch.equal(found.latents[row], alone)
            assert found.conditioning([row], [0]).tensors["frame"].tolist() == [list(cut.frame)]
    again = _encoder(bases[name], name, tmp_path / "cache")
    again.latents(samples, files, buckets)
    assert again.loaded == {}


def test_bases_with_the_same_encoders_that_read_otherwise_share_nothing(tmp_path: Path) -> None:
    """FLUX.1's dev and schnell have the same encoders, and different lengths."""
    dev, schnell = (flux.build(tmp_path / kind, schnell=kind == "schnell") for kind in ("dev", "schnell"))
    for folder in registry.family_facts("flux").text_folders:
        shutil.rmtree(schnell / folder)
        shutil.copytree(dev / folder, schnell / folder)
    lengths = []
    for source in (dev, schnell):
        # The tokenizer's own limit would make them equally short at tiny sizes.
        path = source / "tokenizer_2" / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 600}))
        facts = registry.read_base_folder("flux", source)
        found = _encoder(source, "flux", tmp_path / "cache").texts(rigs.PROMPTS)
        assert tuple(found.tensors["hidden"].shape[1:]) == facts.conditioning["hidden"]
        lengths.append(facts.conditioning["hidden"][0])
    assert lengths == [512, 256]


def test_conditionings_without_a_mask_are_not_filled_up() -> None:
    short, long = (Conditioning({"hidden": torch.ones(1, length, 4)}) for length in (3, 5))
    with pytest.raises(RuntimeError):
        join([short, long])


@pytest.mark.parametrize("name", registry.families())
def test_what_is_absent_beside_it_changes_no_bit_of_an_encoding(
    bases: dict[str, Path], name: str, tmp_path: Path
) -> None:
    """A run that was killed while it encoded goes on with what is still absent, in another company."""
    side = rigs.side(registry.read_base_folder(name, bases[name]))
    samples = [_sample(tmp_path, f"{'x' * row}.png", (side, side)) for row in range(1, 6)]
    files = {sample.image.digest: tmp_path / sample.file_name for sample in samples}
    whole = _encoder(bases[name], name, tmp_path / "whole")
    latents, texts = whole.latents(samples, files, [(side, side)]), whole.texts(rigs.PROMPTS)
    halves = _encoder(bases[name], name, tmp_path / "halves")
    halves.latents(samples[3:], files, [(side, side)])
    halves.texts(rigs.PROMPTS[1:])
    found = halves.latents(samples, files, [(side, side)])
    assert all(torch.equal(here, there) for here, there in zip(latents, found, strict=True))
    again = halves.texts(rigs.PROMPTS)
    assert all(torch.equal(value, again.tensors[key]) for key, value in texts.tensors.items())
