"""A run that tunes the image coder's decoder: what it publishes, and that it ends in the same bits when killed."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from marsam_trainer.run import codes, preview
from PIL import Image
from safetensors.torch import load_file

from marsam.diffusion import registry
from marsam.diffusion.lanes.net import Lanes
from marsam.store.cache import Cache
from marsam.store.content import read_blob
from tests.integration.run.endings import calm_and_killed, tensors
from tests.integration.run.store import PROJECT, Shelf
from tests.integration.run.test_run_program import Program

pytestmark = pytest.mark.slow
DECODER = {"method": "full", "method_params": {"image_decoder": True}}


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = (folder / "vae").glob("*.safetensors")
    return dict(load_file(file))


def test_a_model_with_a_decoder_of_its_own(
    shelf: Shelf, cache: Path, program: Program, base_folder: Path, tmp_path: Path
) -> None:
    shelf = asyncio.run(shelf.holding_out(1))
    job_id = asyncio.run(shelf.order(**DECODER, steps=6, learning_rate=0.005, warmup_steps=1, ema_decay=0.3))
    assert program(shelf.arguments(job_id, 1, cache)) == codes.DONE
    model = asyncio.run(shelf.model(job_id))
    ours, theirs = ({file.path: file.digest for file in one.files} for one in (model, shelf.base))
    changed = {path.split("/")[0] for path in ours if ours[path] != theirs.get(path) and path.endswith(".safetensors")}
    assert changed == {"unet", "vae"}
    assert "validation_loss" in model.metrics
    folder = asyncio.run(Cache(tmp_path / "c").lay_out(shelf.blobs, PROJECT, model.files, tmp_path / "m"))
    before, after = _weights(base_folder), _weights(folder)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith(("decoder.", "post_quant_conv."))}
    # The run was shown by the decoder as it came to be.
    family = registry.family("sd1")
    parts = family.load(folder)
    prompts = asyncio.run(_prompts(shelf, model))
    drawn = preview.draw(
        family, parts, preview.pictures(prompts, parts.facts, side=32, seed=5), None, lanes=Lanes(1), budget_s=60.0
    )
    assert drawn is not None
    pictures = [file for file in model.samples if file.media_type == "image/png"]
    shown = [asyncio.run(read_blob(shelf.blobs, PROJECT, file.digest)) for file in pictures]
    assert max(_apart(one, other) for one, other in zip(shown, drawn, strict=True)) <= 1


async def _prompts(shelf: Shelf, model: Any) -> list[str]:
    (file,) = (sample for sample in model.samples if sample.path.endswith("samples.json"))
    return [one["prompt"] for one in json.loads(await read_blob(shelf.blobs, PROJECT, file.digest))]


def _apart(one: bytes, other: bytes) -> int:
    """The largest difference of two PNGs in levels."""
    first, second = (np.asarray(Image.open(io.BytesIO(data)), dtype=np.int16) for data in (one, other))
    return int(np.abs(first - second).max())


def test_killed_and_resumed_is_bit_for_bit_the_uninterrupted_run(shelf: Shelf, cache: Path) -> None:
    changes = {**DECODER, "steps": 40, "checkpoint_every": 3, "ema_decay": 0.9}
    one, two = calm_and_killed(shelf, cache, **changes)
    assert asyncio.run(tensors(shelf.blobs, one)) == asyncio.run(tensors(shelf.blobs, two))
    assert [sample.digest for sample in one.samples] == [sample.digest for sample in two.samples]
