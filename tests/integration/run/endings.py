"""How a run program ends, how far it has come, and what its weights are."""

import hashlib
import subprocess
import time

from safetensors.torch import load

from marsam.catalog.models import Model
from marsam.core.names import parse
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
