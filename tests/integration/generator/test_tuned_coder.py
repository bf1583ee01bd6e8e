"""A tuned model with an image coder of its own, from the store to a picture."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from marsam.diffusion import registry
from marsam.diffusion.sampling import Picture, sample
from marsam.store.folder import FolderBlobs
from tests.contract.families.bases import build_sd1
from tests.contract.families.drawing import levels
from tests.integration.generator.support import draw, library, publish

pytestmark = pytest.mark.slow
PICTURE = Picture(prompt="a red kite", seed=3, width=32, height=32, steps=3, guidance=3.0)


def _levels(folder: Path) -> torch.Tensor:
    """What the model in `folder` draws."""
    family = registry.family("sd1")
    return levels(sample(family, family.load(folder), [PICTURE])[0])


async def test_it_is_decoded_by_its_own(tmp_path: Path) -> None:
    blobs, base, other = FolderBlobs(tmp_path / "store"), build_sd1(tmp_path / "base"), tmp_path / "other"
    shutil.copytree(base, other)
    (weights,) = (other / "vae").glob("*.safetensors")
    tensors = load_file(weights)
    tensors["decoder.conv_out.bias"] += 0.3
    save_file(tensors, weights, metadata={"format": "pt"})
    root = await publish(blobs, "base", "base", base)
    tuned = await publish(blobs, "full", "full", other, base=root)
    held = library(blobs, tmp_path / "cache")
    try:
        before = await draw(held, root, PICTURE)
        after = await draw(held, tuned, PICTURE)
        assert torch.equal(before, _levels(base))
        assert torch.equal(after, _levels(other))
        assert not torch.equal(before, after)
        await held.evict(tuned)
        assert torch.equal(await draw(held, root, PICTURE), before)
    finally:
        await held.close()
