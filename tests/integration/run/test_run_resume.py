"""A run that was killed ends in the same bits as one that was not: real processes, SIGKILL, and SIGTERM."""

import asyncio
import signal
import subprocess
import time
from pathlib import Path

import pytest

from marsam.catalog.models import Model
from tests.integration.run.store import Shelf

PATIENCE_S = 300.0


def _ended(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(PATIENCE_S)
    finally:
        process.kill()


def _when_past(shelf: Shelf, job_id: str, step: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the first attempt has committed a checkpoint of `step` or later."""
    folder = shelf.attempt_folder(job_id, 1) / "checkpoints"
    deadline = time.monotonic() + PATIENCE_S
    while not any(int(mark.parent.name) >= step for mark in folder.glob("*/manifest.json")):
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _weights(model: Model) -> dict[str, str]:
    """Path → digest of the trained tensors; the adapter's header names its run, so those are compared without it."""
    return {file.path: file.digest for file in model.files if file.path.endswith(".safetensors")}


def _tensors(shelf: Shelf, model: Model) -> str:
    import hashlib

    from safetensors.torch import load

    total = hashlib.sha256()
    for _, digest in sorted(_weights(model).items()):
        hexadecimal = digest.removeprefix("sha256:")
        data = (shelf.root / "p" / "hayy" / "blobs" / "sha256" / hexadecimal[:2] / hexadecimal).read_bytes()
        for name, value in sorted(load(data).items()):
            total.update(name.encode() + value.numpy().tobytes())
    return total.hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_killed_and_resumed_is_bit_for_bit_the_uninterrupted_run(shelf: Shelf, cache: Path, method: str) -> None:
    changes = {"method": method, "steps": 60, "checkpoint_every": 3, "ema_decay": 0.9, "caption_dropout": 0.2}
    calm, killed = asyncio.run(shelf.order(**changes)), asyncio.run(shelf.order(**changes))
    assert _ended(shelf.start(calm, 1, cache)) == 0
    first = shelf.start(killed, 1, cache)
    try:
        _when_past(shelf, killed, 9, first)
    finally:
        first.kill()
    assert _ended(first) == -signal.SIGKILL
    assert (cache / "runs" / killed / "1").is_dir()
    asyncio.run(shelf.begin(killed))
    assert _ended(shelf.start(killed, 2, cache)) == 0
    assert not (cache / "runs" / killed).exists()
    resumed = [event for event in asyncio.run(shelf.events(killed, 2)) if event["kind"] == "log"]
    assert "resumed at step" in resumed[0]["message"]
    one, two = asyncio.run(shelf.model(calm)), asyncio.run(shelf.model(killed))
    assert _tensors(shelf, one) == _tensors(shelf, two)
    assert [sample.digest for sample in one.samples] == [sample.digest for sample in two.samples]


@pytest.mark.slow
def test_a_polite_stop_leaves_a_checkpoint(shelf: Shelf, cache: Path) -> None:
    job_id = asyncio.run(shelf.order(steps=4000, checkpoint_every=5))
    process = shelf.start(job_id, 1, cache)
    try:
        _when_past(shelf, job_id, 5, process)
        process.send_signal(signal.SIGTERM)
        assert _ended(process) == 75
    finally:
        process.kill()
    told = [event["step"] for event in asyncio.run(shelf.events(job_id, 1)) if event["kind"] == "checkpoint"]
    kept = sorted(int(mark.parent.name) for mark in shelf.attempt_folder(job_id, 1).glob("checkpoints/*/manifest.json"))
    assert kept == told[-2:]
    assert not (shelf.attempt_folder(job_id, 1) / "result.json").exists()
