"""A tuned model with an image coder of its own, from the store to a picture."""

import contextlib
import shutil
from pathlib import Path

import pytest
import torch
from marsam_generator.engine.admission import Admission
from marsam_generator.engine.engine import Drawing, Drawn
from marsam_generator.hardware import choose
from marsam_generator.models import Library
from marsam_generator.trees import Trees
from safetensors.torch import load_file, save_file

from marsam.catalog.models import Model
from marsam.core.ids import new_ulid
from marsam.diffusion import registry
from marsam.diffusion.sampling import Picture, sample
from marsam.store.cache import Cache
from marsam.store.folder import FolderBlobs
from marsam.telemetry import Meter
from tests.contract.families.bases import build_sd1
from tests.integration.generator.support import publish

pytestmark = pytest.mark.slow
PICTURE = Picture(prompt="a red kite", seed=3, width=32, height=32, steps=3, guidance=3.0)


async def _draw(library: Library, model: Model) -> torch.Tensor:
    async with library.lease(model, ()) as lease:
        drawing = Drawing(id=new_ulid(), pictures=[PICTURE], denoiser=lease.denoiser, adapters={})
        async with contextlib.aclosing(lease.engine.draw(drawing)) as events:
            return next(iter([event.pixels async for event in events if isinstance(event, Drawn)]))


def _levels(folder: Path) -> torch.Tensor:
    """What the model in `folder` draws, as the engine gives it."""
    family = registry.family("sd1")
    (pixels,) = sample(family, family.load(folder), [PICTURE])
    return ((pixels + 1.0) * 127.5).round().to(torch.uint8).permute(1, 2, 0)


async def test_it_is_decoded_by_its_own(tmp_path: Path) -> None:
    blobs, base, other = FolderBlobs(tmp_path / "store"), build_sd1(tmp_path / "base"), tmp_path / "other"
    shutil.copytree(base, other)
    (weights,) = (other / "vae").glob("*.safetensors")
    tensors = load_file(weights)
    tensors["decoder.conv_out.bias"] += 0.3
    save_file(tensors, weights, metadata={"format": "pt"})
    root = await publish(blobs, "base", "base", base)
    tuned = await publish(blobs, "full", "full", other, base=root)
    library = Library(
        blobs=blobs, trees=Trees(blobs, Cache(tmp_path / "cache")), hardware=choose("cpu", "fp32", 1), tick_rows=4,
        budget=1 << 30, admission=Admission(seconds=600, pictures=64), meter=Meter(service="generator", version="0"),
    )  # fmt: skip
    try:
        before = await _draw(library, root)
        after = await _draw(library, tuned)
        assert torch.equal(before, _levels(base))
        assert torch.equal(after, _levels(other))
        assert not torch.equal(before, after)
        await library.evict(tuned)
        assert torch.equal(await _draw(library, root), before)
    finally:
        await library.close()
