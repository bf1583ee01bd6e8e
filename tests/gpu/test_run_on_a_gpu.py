"""The run program on the device: killed, begun again, published; and its memory beside what the plan said."""

import asyncio
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.contract.families.bases import build_sd1
from tests.integration.run.store import Shelf, make

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    folder = tmp_path_factory.mktemp("gpu")
    return asyncio.run(make(folder / "store", build_sd1(folder / "sd1")))


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
async def test_a_killed_run_goes_on_and_publishes(shelf: Shelf, method: str, device: str, tmp_path: Path) -> None:
    order = await shelf.order(method=method, steps=400, checkpoint_every=20, precision="bf16")
    first = shelf.start(order, 1, tmp_path / "cache", "--device", device)
    deadline = time.monotonic() + 240.0
    checkpoints = shelf.attempt_folder(order, 1) / "checkpoints"
    while not list(checkpoints.glob("*/manifest.json")) and time.monotonic() < deadline:
        assert first.poll() is None, (tmp_path / "cache" / f"{order}-1.log").read_text()
        await asyncio.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait(30)
    await shelf.begin(order)
    second = shelf.start(order, 2, tmp_path / "cache", "--device", device)
    code = await asyncio.to_thread(second.wait, 300)
    assert code == 0, (tmp_path / "cache" / f"{order}-2.log").read_text()
    model = await shelf.model(order)
    assert model.metrics["steps"] == 400.0
    assert model.metrics["attempts"] == 2.0
    assert model.metrics["peak_memory_bytes"] > 0
    assert any("resumed at step" in str(event.get("message")) for event in await shelf.events(order, 2))
    if device.startswith("cuda"):
        # How near they are is for bases of a size that matters: here the device's own context is most of both.
        assert min(model.metrics["estimated_peak_bytes"], model.metrics["measured_peak_bytes"]) > 0
        assert model.metrics["peak_memory_bytes"] < torch.cuda.get_device_properties(device).total_memory
