"""Runs whose text encoders train: what they publish, and that they end in the same bits however often they were
killed."""

import asyncio
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from marsam_trainer.run import codes, preview
from marsam_trainer.run.data import encoder_digest
from PIL import Image

from marsam.catalog.files import FileRef
from marsam.catalog.models import Model
from marsam.diffusion import registry
from marsam.diffusion.adapter import net as adapters
from marsam.diffusion.adapter.parts import net as parts_of_adapters
from marsam.diffusion.lanes.net import Lanes
from marsam.diffusion.spec import Components, Part
from marsam.store.cache import Cache
from marsam.store.content import read_blob
from tests.integration.run.endings import calm_and_killed, tensors
from tests.integration.run.store import PROJECT, Shelf
from tests.integration.run.test_run_program import Program

pytestmark = pytest.mark.slow
ENCODER = "text_encoder"


def _params(method: str) -> dict[str, Any]:
    return {"text_encoders": True, **({} if method == "full" else {"rank": 2, "alpha": 2.0})}


@torch.no_grad()
def _reads(parts: Components) -> torch.Tensor:
    return registry.family("sd1").encode_text(parts, ["a kite"]).tensors["hidden"]


def _bytes(shelf: Shelf, file: FileRef) -> bytes:
    return asyncio.run(read_blob(shelf.blobs, PROJECT, file.digest))


def _told(shelf: Shelf, model: Model) -> list[dict[str, Any]]:
    """What `samples.json` says of each picture."""
    (file,) = (sample for sample in model.samples if sample.path.endswith("samples.json"))
    found: list[dict[str, Any]] = json.loads(_bytes(shelf, file))
    return found


def _apart(one: bytes, other: bytes) -> int:
    """The largest difference of two PNGs in levels."""
    first, second = (np.asarray(Image.open(io.BytesIO(data)), dtype=np.int16) for data in (one, other))
    return int(np.abs(first - second).max())


def test_an_adapter_holds_the_encoders_share_in_a_folder_of_its_own(
    shelf: Shelf, cache: Path, program: Program, base_folder: Path, tmp_path: Path
) -> None:
    shelf = asyncio.run(shelf.holding_out(1))
    job_id = asyncio.run(
        shelf.order(
            method_params=_params("lora"), gradient_checkpointing=True, learning_rate=0.02, steps=12, warmup_steps=1
        )
    )
    assert program(shelf.arguments(job_id, 1, cache)) == codes.DONE
    model = asyncio.run(shelf.model(job_id))
    names = ["adapter_config.json", "adapter_model.safetensors"]
    assert [file.path for file in model.files] == [*names, *(f"{ENCODER}/{name}" for name in names), "README.md"]
    assert model.params["text_encoders"] is True
    assert "validation_loss" in model.metrics
    folder = asyncio.run(Cache(tmp_path / "c").lay_out(shelf.blobs, PROJECT, model.files, tmp_path / "a"))
    adapter = adapters.read(folder)
    assert model.metrics["trainable_parameters"] == sum(half.numel() for pair in adapter.every_pair() for half in pair)
    family = registry.family("sd1")
    parts = family.load(base_folder, parts=frozenset({Part.DENOISER, Part.TEXT}))
    before = _reads(parts)
    parts_of_adapters.apply_all({"unet": parts.denoiser, **parts.text}, family.facts, adapter)
    assert not torch.equal(_reads(parts), before)
    # The run was shown by the encoder as it came to be.
    prompts = [one["prompt"] for one in _told(shelf, model)]
    wanted = preview.pictures(prompts, parts.facts, side=32, seed=5)
    whole = replace(parts, image_coder=family.load(base_folder, parts=frozenset({Part.IMAGE})).image_coder)
    drawn = preview.draw(family, whole, wanted, None, lanes=Lanes(1), budget_s=60.0)
    frozen = family.load(base_folder, parts=frozenset({Part.TEXT}))
    texts = family.encode_text(frozen, [*prompts, *[""] * len(prompts)])
    otherwise = preview.draw(family, whole, wanted, texts, lanes=Lanes(1), budget_s=60.0)
    shown = [_bytes(shelf, sample) for sample in model.samples if sample.media_type == "image/png"]
    assert drawn is not None
    assert otherwise is not None
    assert sum(_apart(one, other) for one, other in zip(shown, drawn, strict=True)) <= len(shown)
    assert sum(_apart(one, other) for one, other in zip(shown, otherwise, strict=True)) > 4 * len(shown)


def test_a_full_model_with_its_encoder_is_a_whole_base_of_another_encoder(
    shelf: Shelf, cache: Path, program: Program, base_folder: Path, tmp_path: Path
) -> None:
    job_id = asyncio.run(shelf.order(method="full", steps=2, method_params=_params("full")))
    assert program(shelf.arguments(job_id, 1, cache)) == codes.DONE
    model = asyncio.run(shelf.model(job_id))
    ours, theirs = ({file.path: file.digest for file in one.files} for one in (model, shelf.base))
    assert set(ours) == {*theirs, "README.md"}
    changed = {path for path in ours if ours[path] != theirs.get(path) and path.endswith(".safetensors")}
    assert changed == {"unet/diffusion_pytorch_model.safetensors", f"{ENCODER}/model.safetensors"}
    # What was encoded with the base's encoder is not taken for this one's.
    assert encoder_digest(model, Part.TEXT) != encoder_digest(shelf.base, Part.TEXT)
    assert encoder_digest(model, Part.IMAGE) == encoder_digest(shelf.base, Part.IMAGE)
    folder = asyncio.run(Cache(tmp_path / "c").lay_out(shelf.blobs, PROJECT, model.files, tmp_path / "m"))
    family, only = registry.family("sd1"), frozenset({Part.TEXT})
    assert not torch.equal(_reads(family.load(folder, parts=only)), _reads(family.load(base_folder, parts=only)))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_killed_and_resumed_is_bit_for_bit_the_uninterrupted_run(shelf: Shelf, cache: Path, method: str) -> None:
    changes = {"method": method, "steps": 40, "checkpoint_every": 3, "ema_decay": 0.9, "caption_dropout": 0.2}
    changes["method_params"] = _params(method)
    one, two = calm_and_killed(shelf, cache, **changes)
    assert asyncio.run(tensors(shelf.blobs, one)) == asyncio.run(tensors(shelf.blobs, two))
    assert [sample.digest for sample in one.samples] == [sample.digest for sample in two.samples]
