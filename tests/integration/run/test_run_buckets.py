"""Pictures of several aspects, and masked ones, through the whole run program: cut as said, named where they lose, the
same after a kill."""

import asyncio
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from marsam_trainer.run import codes
from PIL import Image

from tests.integration.run.endings import calm_and_killed, tensors
from tests.integration.run.store import Picture, Shelf, make, plain

SIZES = ((64, 64), (96, 48), (100, 48), (48, 96), (400, 50))


def _picture(row: int, size: tuple[int, int]) -> Picture:
    shown = Image.open(io.BytesIO(plain(row).data)).resize(size)
    out = io.BytesIO()
    shown.save(out, format="PNG")
    return Picture(data=out.getvalue(), width=size[0], height=size[1], captions=plain(row).captions)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Shelf:
    pictures = [_picture(row, size) for row, size in enumerate(SIZES)]
    return asyncio.run(make(tmp_path_factory.mktemp("mixed") / "store", base_folder, pictures=pictures))


@pytest.mark.slow
def test_a_run_says_how_its_pictures_are_cut(mixed: Shelf, cache: Path, program: Callable[[list[str]], int]) -> None:
    job_id = asyncio.run(mixed.order(aspect_buckets=True, resolution=64, steps=4))
    assert program(mixed.arguments(job_id, 1, cache)) == codes.DONE
    told = [event for event in asyncio.run(mixed.events(job_id, 1)) if event["kind"] == "log"]
    sizes = next(event["message"] for event in told if "by size" in event["message"])
    assert sizes == (
        "pictures by size: 88×40: 2, 40×88: 1, 64×64: 1, 128×32: 1; at most 50% of one is cut away; "
        "an epoch is 4 steps, 3 of them of fewer than 2 pictures"
    )
    (named,) = (event["message"] for event in told if event["level"] == "warning" and "cut" in event["message"])
    assert "picture-4.png (400×50) loses 50%" in named
    metrics = asyncio.run(mixed.model(job_id)).metrics
    assert {name: value for name, value in metrics.items() if name.startswith("bucket")} == {
        "bucket_88x40": 2.0, "bucket_40x88": 1.0, "bucket_64x64": 1.0, "bucket_128x32": 1.0,
    }  # fmt: skip
    assert metrics["cut_away_most"] == 0.5
    assert asyncio.run(mixed.model(job_id)).params["aspect_buckets"] is True


@pytest.mark.slow
def test_killed_and_resumed_is_bit_for_bit_the_uninterrupted_run(mixed: Shelf, cache: Path) -> None:
    mixed = asyncio.run(mixed.holding_out(2))
    changes = {
        "aspect_buckets": True, "resolution": 64, "steps": 60, "checkpoint_every": 3, "ema_decay": 0.9, "batch_size": 2,
    }  # fmt: skip
    one, two = calm_and_killed(mixed, cache, **changes)
    assert asyncio.run(tensors(mixed.blobs, one)) == asyncio.run(tensors(mixed.blobs, two))
    assert one.metrics["validation_loss"] == two.metrics["validation_loss"]


def _half(size: tuple[int, int], *, white: bool) -> bytes:
    """A mask of which the left half counts when `white`, and nothing otherwise."""
    mask = Image.new("L", size, 0)
    if white:
        mask.paste(255, (0, 0, size[0] // 2, size[1]))
    out = io.BytesIO()
    mask.save(out, format="PNG")
    return out.getvalue()


@pytest.mark.slow
def test_masks_decide_what_is_learnt_and_an_empty_one_is_named(
    tmp_path: Path, base_folder: Path, cache: Path, program: Callable[[list[str]], int]
) -> None:
    pictures = [_picture(row, size) for row, size in enumerate(SIZES[:4])]
    pictures[1] = replace(pictures[1], mask=_half(SIZES[1], white=True))
    pictures[2] = replace(pictures[2], mask=_half(SIZES[2], white=False))
    shelf = asyncio.run(make(tmp_path / "store", base_folder, pictures=pictures))
    ends, metrics = [], []
    orders: list[dict[str, Any]] = [
        {}, {"masked_loss": True}, {"masked_loss": True, "masked_loss_floor": 0.0}, {"masked_loss": True},
    ]  # fmt: skip
    for changes in orders:
        job_id = asyncio.run(shelf.order(aspect_buckets=True, resolution=64, steps=6, **changes))
        assert program(shelf.arguments(job_id, 1, cache)) == codes.DONE
        model = asyncio.run(shelf.model(job_id))
        ends.append(asyncio.run(tensors(shelf.blobs, model)))
        metrics.append(model.metrics.get("masked_samples"))
        told = [event["message"] for event in asyncio.run(shelf.events(job_id, 1)) if event["kind"] == "log"]
        named = [message for message in told if "mask of" in message]
        assert len(named) == bool(changes)
        if changes:
            assert "picture-2.png" in named[0]
            assert ("teaches nothing" in named[0]) == (changes.get("masked_loss_floor") == 0.0)
    assert len(set(ends)) == 3
    assert ends[1] == ends[3]
    assert metrics == [None, 2.0, 2.0, 2.0]
