"""A run that was killed ends in the same bits as one that was not: real processes, SIGKILL, and SIGTERM."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from marsam.catalog.repository import load_model
from marsam.catalog.runs import Preview
from tests.integration.run.endings import came_past, card, ended, killed_past, last_state, tensors
from tests.integration.run.store import Shelf

PREVIEW = Preview(prompts=("a kite",), every=7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "optimiser", "rank", "also"),
    [
        ("lora", "adamw_8bit", 256, {"regularisation": True}),
        ("qlora", "adamw_unfused", 2, {"preview": PREVIEW}),
        ("full", "adamw", 0, {}),
    ],
)
def test_killed_and_resumed_is_bit_for_bit_the_uninterrupted_run(
    shelf: Shelf, cache: Path, method: str, optimiser: str, rank: int, also: dict[str, Any]
) -> None:
    """Every method and optimiser once; the whole grid is in tests/soak. Only the killed run draws previews."""
    shelf = asyncio.run(shelf.holding_out(1))
    apart = asyncio.run(shelf.apart(2)) if also.get("regularisation") else {}
    changes = {
        "method": method, "optimiser": optimiser, "steps": 60, "checkpoint_every": 3, "ema_decay": 0.9,
        "caption_dropout": 0.2, "publish": "both", **apart,
        **({"method_params": {"rank": rank, "alpha": 2.0}} if rank else {}),
    }  # fmt: skip
    calm = asyncio.run(shelf.order(**changes))
    killed = asyncio.run(shelf.order(**changes, preview=also.get("preview")))
    assert ended(shelf.start(calm, 1, cache)) == 0
    killed_past(shelf, killed, cache)
    assert (cache / "runs" / killed / "1").is_dir()
    asyncio.run(shelf.begin(killed))
    assert ended(shelf.start(killed, 2, cache)) == 0
    assert not (cache / "runs" / killed).exists()
    resumed = [event for event in asyncio.run(shelf.events(killed, 2)) if event["kind"] == "log"]
    assert any("resumed at step" in event["message"] for event in resumed)
    step, digest, state = last_state(shelf, calm)
    assert (step, digest) == last_state(shelf, killed)[:2]
    held = load(state)
    assert len(held["losses"]) == step == 57
    kinds = {name.split("/")[0] for name in held}
    assert kinds == {"losses", "validation", "param", "optimiser", "average", "best"}
    # An optimiser that is said to keep its moments in 8 bits does.
    eights = any(value.dtype is torch.uint8 for name, value in held.items() if name.startswith("optimiser/"))
    assert eights == (optimiser == "adamw_8bit")
    one, two = asyncio.run(shelf.model(calm)), asyncio.run(shelf.model(killed))
    assert asyncio.run(tensors(shelf.blobs, one)) == asyncio.run(tensors(shelf.blobs, two))
    if PREVIEW not in also.values():
        assert [sample.digest for sample in one.samples] == [sample.digest for sample in two.samples]
        cards = [asyncio.run(card(shelf.blobs, model)) for model in (one, two)]
        assert cards[0].replace(calm, killed) == cards[1]
    for number in ("validation_loss_first", "validation_loss", "validation_loss_best", "validation_best_step"):
        assert one.metrics[number] == two.metrics[number]
    bests = [asyncio.run(load_model(shelf.blobs, f"{model.name}-best")) for model in (one, two)]
    assert bests[0].metrics["weights_step"] == bests[1].metrics["weights_step"] > 0
    assert asyncio.run(tensors(shelf.blobs, bests[0])) == asyncio.run(tensors(shelf.blobs, bests[1]))


@pytest.mark.slow
def test_a_polite_stop_leaves_a_checkpoint(shelf: Shelf, cache: Path) -> None:
    job_id = asyncio.run(shelf.order(steps=4000, checkpoint_every=5))
    process = shelf.start(job_id, 1, cache)
    try:
        assert came_past(shelf, job_id, 1, 5, process)
        process.send_signal(signal.SIGTERM)
        assert ended(process) == 75
    finally:
        process.kill()
    told = [event["step"] for event in asyncio.run(shelf.events(job_id, 1)) if event["kind"] == "checkpoint"]
    kept = sorted(int(mark.parent.name) for mark in shelf.attempt_folder(job_id, 1).glob("checkpoints/*/manifest.json"))
    assert kept == told[-2:]
    assert not (shelf.attempt_folder(job_id, 1) / "result.json").exists()
