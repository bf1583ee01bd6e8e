"""Models whose text encoders were tuned, from the store to a picture."""

import asyncio
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from marsam_generator.models import Library

from marsam.catalog.models import Model
from marsam.diffusion.sampling import Picture
from marsam.store.folder import FolderBlobs
from tests.contract.families import rig as rigs
from tests.contract.families.bases import build_sd1
from tests.integration.generator.support import draw, library, publish

pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A base, an adapter with and without its encoder's share, and full models with and without an encoder of their
    own."""

    library: Library
    base: Model
    adapter: Model
    mute: Model
    full: Model
    half: Model

    async def draw(self, model: Model, adapters: Sequence[Model] = ()) -> torch.Tensor:
        picture = Picture(prompt="a red kite", negative="grey", seed=3, width=32, height=32, steps=3, guidance=3.0)
        return await draw(self.library, model, picture, adapters)


@pytest.fixture
async def tuned(tmp_path: Path) -> Tuned:
    blobs, base = FolderBlobs(tmp_path / "store"), build_sd1(tmp_path / "base")
    for method in ("lora", "full"):
        rig = rigs.load(base, "sd1", method, params=rigs.WITH_TEXT)
        rigs.taught(rig, steps=6)
        rig.save(tmp_path / method)
    shutil.copytree(tmp_path / "lora", tmp_path / "mute", ignore=shutil.ignore_patterns("text_encoder"))
    for name, left_out in (("whole", ()), ("half", ("text_encoder",))):
        shutil.copytree(base, tmp_path / name)
        shutil.copytree(
            tmp_path / "full", tmp_path / name, ignore=shutil.ignore_patterns(*left_out), dirs_exist_ok=True
        )
    root = await publish(blobs, "base", "base", base)
    return Tuned(
        library=library(blobs, tmp_path / "cache"),
        base=root,
        adapter=await publish(blobs, "adapter", "adapter", tmp_path / "lora", base=root),
        mute=await publish(blobs, "mute", "adapter", tmp_path / "mute", base=root),
        full=await publish(blobs, "full", "full", tmp_path / "whole", base=root),
        half=await publish(blobs, "half", "full", tmp_path / "half", base=root),
    )  # fmt: skip


async def test_an_encoders_share_is_drawn_with_and_leaves_others_alone(tuned: Tuned) -> None:
    try:
        before = await tuned.draw(tuned.base)
        drawn = [
            await tuned.draw(tuned.base, [tuned.adapter]),
            await tuned.draw(tuned.base, [tuned.mute]),
            await tuned.draw(tuned.full),
            await tuned.draw(tuned.half),
            # The base's encoder is shared by what has none of its own, each with adapters of its own.
            await tuned.draw(tuned.half, [tuned.adapter]),
            await tuned.draw(tuned.full, [tuned.adapter]),
        ]
        for place, one in enumerate(drawn):
            assert all(not torch.equal(one, other) for other in (before, *drawn[place + 1 :]))
        assert torch.equal(await tuned.draw(tuned.base), before)
        await tuned.library.evict(tuned.half)
        assert torch.equal(await tuned.draw(tuned.base, [tuned.adapter]), drawn[0])
        await tuned.library.evict(tuned.adapter)
        assert torch.equal(await tuned.draw(tuned.full), drawn[2])
        assert torch.equal(await tuned.draw(tuned.base), before)
        assert torch.equal(await tuned.draw(tuned.base, [tuned.adapter]), drawn[0])
    finally:
        await tuned.library.close()


async def test_a_model_that_is_asked_for_while_it_goes_comes_back_whole(tuned: Tuned) -> None:
    try:
        before = await tuned.draw(tuned.full)
        engine = tuned.library.residents()[0].engine
        gate = threading.Event()
        standing = engine._loop.between(lambda: gate.wait(60))
        try:
            going = asyncio.create_task(tuned.library.evict(tuned.full))
            await asyncio.sleep(0.1)
            coming = asyncio.create_task(tuned.draw(tuned.full))
            await asyncio.sleep(1.0)  # time enough to load it, were it not on its way out
        finally:
            gate.set()
        await going
        assert torch.equal(await coming, before)
        assert standing.result(60)
    finally:
        await tuned.library.close()
