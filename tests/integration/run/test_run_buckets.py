"""Pictures of several aspects through the whole run program: cut as said, named where they lose, the same after a
kill."""

import asyncio
import io
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from marsam_trainer.run import codes
from PIL import Image

from tests.integration.run.endings import came_past, ended, tensors
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
    assert sizes == "pictures by size: 88×40: 2, 40×88: 1, 64×64: 1, 128×32: 1; at most 50% of one is cut away"
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
    calm, killed = asyncio.run(mixed.order(**changes)), asyncio.run(mixed.order(**changes))
    assert ended(mixed.start(calm, 1, cache)) == 0
    first = mixed.start(killed, 1, cache)
    try:
        assert came_past(mixed, killed, 1, 9, first)
    finally:
        first.kill()
    assert ended(first) == -signal.SIGKILL
    asyncio.run(mixed.begin(killed))
    assert ended(mixed.start(killed, 2, cache)) == 0
    one, two = asyncio.run(mixed.model(calm)), asyncio.run(mixed.model(killed))
    assert asyncio.run(tensors(mixed.blobs, one)) == asyncio.run(tensors(mixed.blobs, two))
    assert one.metrics["validation_loss"] == two.metrics["validation_loss"]
