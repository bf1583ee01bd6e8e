"""A run of two processes: what it publishes, who writes, who hears of a stop, what the death of one does to the other,
and that it resumes in the same bits, whole or in parts."""

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from marsam_trainer.run import codes

from marsam.catalog.checkpoints import Checkpoint
from marsam.catalog.runs import Preview
from marsam.core.records import load
from tests.integration.run import ranks
from tests.integration.run.endings import came_past, ended, tensors
from tests.integration.run.store import Shelf

pytestmark = pytest.mark.slow
BOUND_S = 60.0
"""Within this a rank ends when another one is gone: a step, three beats, and a last word to the store."""

WHOLE = {"method": "lora", "ema_decay": 0.9, "caption_dropout": 0.2, "method_params": {"rank": 2, "alpha": 2.0,
                                                                                       "dropout": 0.1}}  # fmt: skip
PARTS = {"method": "full", "ema_decay": 0.9, "optimiser": "adamw_8bit", "sharding": "sharded"}
LONG = {"steps": 40, "checkpoint_every": 2, "processes": 2}


def _left(shelf: Shelf, job_id: str, attempt: int) -> set[str]:
    """What an attempt left in the store, but for its events, of which there are as many as it took seconds."""
    folder = shelf.attempt_folder(job_id, attempt)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {file for file in files if not file.startswith("events/")}


def _failure(shelf: Shelf, job_id: str, attempt: int) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((shelf.attempt_folder(job_id, attempt) / "failure.json").read_text())
    return told


def _all_ended(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    try:
        return [ended(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


def _begun(shelf: Shelf, job_id: str, attempt: int, cache: Path, step: int) -> list[subprocess.Popen[bytes]]:
    """An attempt that has committed a checkpoint of `step` or later."""
    started = ranks.start(shelf, job_id, attempt, cache)
    if not came_past(shelf, job_id, attempt, step, started[0]):
        _all_ended(started)
        pytest.fail("the run ended before its checkpoint")
    return started


def test_another_number_of_processes_than_ordered_is_refused(
    shelf: Shelf, cache: Path, program: Callable[[list[str]], int]
) -> None:
    job_id = asyncio.run(shelf.order(processes=2))
    assert program(shelf.arguments(job_id, 1, cache)) == codes.BAD_SPEC
    told = _failure(shelf, job_id, 1)
    assert (told["reason"], told["field"]) == ("WORLD_SIZE", "processes")


def test_two_publish_what_one_does_and_the_first_alone_writes(
    shelf: Shelf, cache: Path, program: Callable[[list[str]], int]
) -> None:
    shelf = asyncio.run(shelf.holding_out(1))
    order: dict[str, Any] = {"preview": Preview(prompts=("a kite",), every=3)}
    alone, together = asyncio.run(shelf.order(**order)), asyncio.run(shelf.order(**order, processes=2))
    assert program(shelf.arguments(alone, 1, cache)) == codes.DONE
    assert ended(shelf.start(together, 1, cache, program=ranks.TORCHRUN)) == codes.DONE
    results = [
        json.loads((shelf.attempt_folder(job_id, 1) / "result.json").read_text()) for job_id in (alone, together)
    ]
    for curve in ("loss_curve", "validation_curve"):
        one, two = (result[curve] for result in results)
        assert [step for step, _ in two] == [step for step, _ in one]
        assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], rel=1e-6)
    assert _left(shelf, together, 1) == _left(shelf, alone, 1)
    told = asyncio.run(shelf.events(together, 1))
    assert [(event["step"], len(event["files"])) for event in told if event["kind"] == "preview"] == [(3, 1)]
    assert [event["step"] for event in told if event["kind"] == "checkpoint"] == [4]
    assert asyncio.run(shelf.model(together)).metrics["processes"] == 2.0
    assert not (cache / "runs" / together).exists()


def test_a_stop_that_one_hears_stops_both_and_a_death_ends_both(shelf: Shelf, cache: Path) -> None:
    calm, hurt = (asyncio.run(shelf.order(**WHOLE, **LONG)) for _ in range(2))
    assert _all_ended(ranks.start(shelf, calm, 1, cache)) == [codes.DONE, codes.DONE]

    stopped = _begun(shelf, hurt, 1, cache, 2)
    stopped[1].send_signal(signal.SIGTERM)
    assert _all_ended(stopped) == [codes.STOPPED, codes.STOPPED]
    assert not {"failure.json", "result.json"} & _left(shelf, hurt, 1)

    asyncio.run(shelf.begin(hurt))
    first = max(int(mark.parent.name) for mark in shelf.attempt_folder(hurt, 1).glob("checkpoints/*/manifest.json"))
    killed = _begun(shelf, hurt, 2, cache, first + 2)
    killed[1].kill()
    since = time.monotonic()
    assert _all_ended(killed) == [codes.RANK_LOST, -signal.SIGKILL]
    assert time.monotonic() - since < BOUND_S
    told = _failure(shelf, hurt, 2)
    assert (told["reason"], told["exit_code"], told["rank"]) == ("RANK_LOST", codes.RANK_LOST, 0)
    assert told["message"].startswith("rank 1 of 2 ended or fell silent")

    asyncio.run(shelf.begin(hurt))
    assert _all_ended(ranks.start(shelf, hurt, 3, cache)) == [codes.DONE, codes.DONE]
    one, two = asyncio.run(shelf.model(calm)), asyncio.run(shelf.model(hurt))
    assert asyncio.run(tensors(shelf.blobs, one)) == asyncio.run(tensors(shelf.blobs, two))


def test_in_parts_a_killed_run_ends_in_the_same_bits(shelf: Shelf, cache: Path) -> None:
    calm, killed = (asyncio.run(shelf.order(**PARTS, **LONG)) for _ in range(2))
    assert _all_ended(ranks.start(shelf, calm, 1, cache)) == [codes.DONE, codes.DONE]

    started = _begun(shelf, killed, 1, cache, 4)
    started[0].kill()
    since = time.monotonic()
    assert _all_ended(started) == [-signal.SIGKILL, codes.RANK_LOST]
    assert time.monotonic() - since < BOUND_S
    assert _failure(shelf, killed, 1)["rank"] == 1
    newest = max(shelf.attempt_folder(killed, 1).glob("checkpoints/*/manifest.json"))
    mark = load(Checkpoint, newest.read_bytes(), what="checkpoint")
    names = {mark.part(rank)[0] for rank in range(2)}
    assert names == {"state-00001-of-00002.safetensors", "state-00002-of-00002.safetensors"}
    assert {path.name for path in newest.parent.iterdir()} == {*names, "manifest.json"}
    assert mark.state_size == sum((newest.parent / name).stat().st_size for name in names)

    # A part that is not what its mark says: both ranks pass the whole checkpoint over.
    part = newest.parent / "state-00002-of-00002.safetensors"
    part.write_bytes(part.read_bytes()[:-1] + b"\x00")
    asyncio.run(shelf.begin(killed))
    assert _all_ended(ranks.start(shelf, killed, 2, cache)) == [codes.DONE, codes.DONE]
    resumed = [event["message"] for event in asyncio.run(shelf.events(killed, 2)) if event["kind"] == "log"]
    assert any(f"resumed at step {mark.step - 2} of attempt 1" in message for message in resumed)
    one, two = asyncio.run(shelf.model(calm)), asyncio.run(shelf.model(killed))
    assert asyncio.run(tensors(shelf.blobs, one)) == asyncio.run(tensors(shelf.blobs, two))


@pytest.mark.parametrize("held", [WHOLE, {**PARTS, "optimiser": "adamw"}], ids=["whole", "in parts"])
def test_weights_that_are_no_numbers_end_both_without_a_checkpoint(
    shelf: Shelf, cache: Path, held: dict[str, Any]
) -> None:
    job_id = asyncio.run(shelf.order(**held, processes=2, learning_rate=1e39, steps=1))
    assert _all_ended(ranks.start(shelf, job_id, 1, cache)) == [codes.NOT_FINITE, codes.NOT_FINITE]
    message = _failure(shelf, job_id, 1)["message"]
    assert message.startswith("step 1 left numbers that are not finite in param/")
    assert message.endswith("no checkpoint was kept before")
    assert not list(shelf.attempt_folder(job_id, 1).glob("checkpoints/*"))
