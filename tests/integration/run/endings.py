"""How a run program ends, how far it has come, and what its weights are."""

import asyncio
import hashlib
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from safetensors.torch import load

from marsam.catalog.checkpoints import MARK, STATE, Checkpoint
from marsam.catalog.models import Model
from marsam.core.ids import digest_of
from marsam.core.names import parse
from marsam.core.records import load as load_record
from marsam.store.blobs import Blobs
from marsam.store.content import read_blob
from tests.integration.run.store import Shelf

PATIENCE_S = 300.0


def ended(process: subprocess.Popen[bytes]) -> int:
    """The exit code, or minus the signal; what does not end in time is killed."""
    try:
        return process.wait(PATIENCE_S)
    finally:
        process.kill()


def came_past(shelf: Shelf, job_id: str, attempt: int, step: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until an attempt has committed a checkpoint of `step` or later; False when its program ended before."""
    folder = shelf.attempt_folder(job_id, attempt) / "checkpoints"
    deadline = time.monotonic() + PATIENCE_S
    while not any(int(mark.parent.name) >= step for mark in folder.glob("*/manifest.json")):
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return True


def killed_past(shelf: Shelf, job_id: str, cache: Path, step: int = 9) -> None:
    """Start the first attempt of a run, and kill it when it has committed a checkpoint of `step` or later."""
    process = shelf.start(job_id, 1, cache)
    try:
        assert came_past(shelf, job_id, 1, step, process)
    finally:
        process.kill()
    assert ended(process) == -signal.SIGKILL


def calm_and_killed(shelf: Shelf, cache: Path, **changes: Any) -> tuple[Model, Model]:
    """What two runs of one order publish: one left alone, and one killed past step 9 and begun again."""
    calm, killed = asyncio.run(shelf.order(**changes)), asyncio.run(shelf.order(**changes))
    assert ended(shelf.start(calm, 1, cache)) == 0
    killed_past(shelf, killed, cache)
    asyncio.run(shelf.begin(killed))
    assert ended(shelf.start(killed, 2, cache)) == 0
    return asyncio.run(shelf.model(calm)), asyncio.run(shelf.model(killed))


def last_state(shelf: Shelf, job_id: str) -> tuple[int, str, bytes]:
    """The most advanced checkpoint of a run: its step, the digest of its state (weights, moments, average, best
    weights, all losses), and the state itself."""
    marks = shelf.attempt_folder(job_id, 1).parent.glob(f"*/checkpoints/*/{MARK}")
    newest = max(marks, key=lambda mark: (int(mark.parent.name), int(mark.parts[-4])))
    mark = load_record(Checkpoint, newest.read_bytes())
    state = (newest.parent / STATE).read_bytes()
    assert digest_of(state) == mark.state_digest
    return mark.step, mark.state_digest, state


async def tensors(blobs: Blobs, model: Model) -> str:
    """SHA-256 of the trained tensors. An adapter's header names its run, so they are compared without it."""
    project = parse(model.name, "model").project
    total = hashlib.sha256()
    for file in sorted(model.files, key=lambda file: file.path):
        if file.path.endswith(".safetensors"):
            for name, value in sorted(load(await read_blob(blobs, project, file.digest)).items()):
                total.update(name.encode() + value.numpy().tobytes())
    return total.hexdigest()


async def card(blobs: Blobs, model: Model) -> str:
    """The model's card."""
    file = next(file for file in model.files if file.path == "README.md")
    return (await read_blob(blobs, model.project, file.digest)).decode()
