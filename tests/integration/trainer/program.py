"""A small run program for tests of the trainer: real process, real store, no torch; the run's labels say what it does.

It honours the contract of `marsam_trainer.run`: arguments, exit codes, heartbeat, events, checkpoints, model, result.
Of several ranks the first does all that; the others are there, and leave a file with their process number in the cache.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from marsam.catalog.checkpoints import MARK, Checkpoint, checkpoints, step_name
from marsam.catalog.files import FileRef
from marsam.catalog.models import Lineage, Model
from marsam.catalog.repository import load_model, save_model
from marsam.catalog.runs import RunSpec
from marsam.core.clock import SystemClock, format_time
from marsam.core.errors import Exists, Missing, Precondition
from marsam.core.names import ResourceName, format_name, parse
from marsam.core.records import canonical, dump, load
from marsam.jobs.progress import append_events, heartbeat
from marsam.jobs.store import JobStore
from marsam.store import keys
from marsam.store.blobs import Blobs
from marsam.store.content import put_blob
from marsam.store.open import open_store

CLOCK = SystemClock()
AVAILABLE = 64_000


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    names = (
        "--store",
        "--run",
        "--attempt",
        "--cache",
        "--cache-bytes",
        "--metrics-port",
        "--metrics-host",
        "--spec",
    )
    for name in names:
        parser.add_argument(name)
    parser.add_argument("--beat-file")
    parser.add_argument("--memory-limit", type=float)
    parser.add_argument("--memory-correction", action="append", default=[])
    parser.add_argument("--spec-json")
    parser.add_argument("--together", type=int, default=1)
    options = parser.parse_args()
    if options.command in ("plan", "probe"):
        said = options.spec_json.encode() if options.spec_json else Path(options.spec).read_bytes()
        spec, cache = load(RunSpec, said), Path(options.cache)
        return plan(spec, cache, options.together) if options.command == "plan" else probe(spec, cache)
    corrections = dict(given.split("=") for given in options.memory_correction)
    most = options.memory_limit * AVAILABLE / float(corrections.get("cpu", 1.0))
    return asyncio.run(train(options.store, options.run, int(options.attempt), Path(options.cache), most=most))


def needs(spec: RunSpec) -> int:
    return 1000 * spec.batch_size


def plan(spec: RunSpec, cache: Path, together: int) -> int:
    with (cache / "plans").open("a") as calls:
        calls.write("asked\n")
    if "plan-crash" in spec.labels:
        sys.stderr.write("ImportError: no such library\n")
        return 70
    total = needs(spec) * together
    waiting = int(spec.labels.get("host", 0))
    host = {"memory": [{"term": "libraries", "bytes": 100}, {"term": "checkpoint on its way", "bytes": waiting}],
            "total_bytes": waiting + 100, "available_bytes": AVAILABLE}  # fmt: skip
    print(json.dumps({
        **({"host": host} if waiting else {}),
        "faults": [], "memory": [{"term": "base weights", "bytes": total - 100}, {"term": "optimiser", "bytes": 100}],
        "total_bytes": total, "available_bytes": AVAILABLE, "trainable_parameters": 7, "quantised_share": 0.0,
        "seconds": 2.0 * spec.steps, "device": "cpu", "peak_stage": "train",
        "stages": [{
            "name": "train", "memory": [{"term": "base weights", "bytes": total}], "total_bytes": total,
            "host_bytes": 0, "seconds": 2.0 * spec.steps,
        }],
        "remedies": [{
            "changes": {"batch_size": 32, "accumulate": 2}, "total_bytes": 32_000, "fits": True, "message": "half",
        }] * (total > 57_600),
    }))  # fmt: skip
    return 0


def probe(spec: RunSpec, cache: Path) -> int:
    """The same figures for all; the labels of the run that asks first say what is told of them."""
    with (cache / "probes").open("a") as calls:
        calls.write(" ".join(spec.languages) + "\n")
    if "probe-crash" in spec.labels:
        sys.stderr.write("ImportError: no such tokenizer\n")
        return 70
    if "probe-outage" in spec.labels:
        print(json.dumps({"faults": [{"exit_code": 74, "reason": "STORE", "message": "the store is away"}]}))
        return 74
    fault = {
        "field": "languages",
        "reason": "LANGUAGE_UNREADABLE",
        "message": "it cannot read 'ar'",
        "remedy": "another",
    }
    reading = {
        "language": "en", "tokenizer": "tokenizer", "captions": 3, "words": 9, "tokens_per_word": 1.5, "unknown": 0.0,
        "lost": 0.25, "cut": 0.5, "round_trip": 1.0, "usable": 75, "attends": True,
    }  # fmt: skip
    warning = {"field": "languages", "reason": "CAPTIONS_TRUNCATED", "message": "half are cut", "remedy": ""}
    refused = "probe-refuses" in spec.labels
    print(json.dumps({"faults": [fault] * refused, "readings": [reading], "warnings": [warning]}))
    return 0


async def train(store_url: str, run: str, attempt: int, cache: Path, *, most: float) -> int:
    name = parse(run, "run")
    blobs = open_store(store_url)
    jobs = JobStore(blobs, name.project, "runs", CLOCK)
    ordered = load(RunSpec, await jobs.spec(name.id))
    spec = ordered.as_changed(entry.detail for entry in await jobs.history(name.id))
    if needs(spec) * int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > most:  # the run program checks on its own, too
        return 64
    does = spec.labels
    stopping = asyncio.Event()
    if does.get("on-term") != "ignore":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if rank := int(os.environ.get("RANK", "0")):
        return await second(blobs, name, attempt, rank_file(cache, name.id, attempt, rank), stopping)
    others = [rank_file(cache, name.id, attempt, rank) for rank in range(1, spec.processes)]
    if int(does.get("fail-until", 0)) >= attempt:
        if "failure" in does:
            failure = {"exit_code": 70, "reason": "X", "message": does["failure"], "field": None, "remedy": "try less"}
            await blobs.put(
                keys.attempt_file(name.project, "runs", name.id, attempt, "failure.json"), canonical(failure)
            )
        if "words" in does:
            print(does["words"], file=sys.stderr, flush=True)
        if does["how"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return int(does["how"])
    eaten = bytearray(b"x") * (int(does.get("eats", 0)) << 20)
    step = await newest_step(jobs, name.id, attempt)
    if step:
        await append_events(jobs, name.id, attempt, 1, [event("log", message=f"resumed at step {step}")])
    segment = 2 if step else 1
    while step < spec.steps:
        step += 1
        told = event("progress", step=step, steps=spec.steps, loss=1 / step, images_per_second=2.5, eta_seconds=1.0,
                     phase="training", memory_used_bytes=5, memory_peak_bytes=6)  # fmt: skip
        events = [told]
        if step % spec.checkpoint_every == 0:
            await checkpoint(jobs, name.id, attempt, step)
            events.append(event("checkpoint", step=step, bytes=11))
        try:
            await jobs.check_fence(name.id, attempt)
        except Precondition:
            return 74
        await append_events(jobs, name.id, attempt, segment, events)
        if step <= int(does.get("beats", 1 << 30)):
            await heartbeat(jobs, name.id, attempt, {**told, "metrics_port": 12345})
        segment += 1
        end = time.monotonic() + float(does.get("step-s", 0.02))
        while time.monotonic() < end:
            if stopping.is_set():
                await checkpoint(jobs, name.id, attempt, step)
                return 75
            if lost(others):
                return 76
            await asyncio.sleep(0.01)
        # Told to hold, it goes on when the test says so, however fast or slow either of them is.
        while step >= int(does.get("hold", 1 << 30)) and not told_to_go(cache, name.id):
            if stopping.is_set():
                await checkpoint(jobs, name.id, attempt, step)
                return 75
            if lost(others):
                return 76
            await asyncio.sleep(0.01)
    del eaten
    if "no-result" in does:
        return 0
    model = await publish(blobs, spec)
    metrics = {"loss": 1 / spec.steps}
    if "took" in does:
        took = float(does["took"])
        metrics |= {"estimated_peak_bytes": 100.0, "measured_peak_bytes": 100.0 * took}
        metrics |= {"estimated_step_seconds": 1.0, "step_seconds": 2.0 * took}
    result = {"model": model.name, "family": model.family, "device": "cpu", "metrics": metrics}
    await blobs.put(keys.attempt_file(name.project, "runs", name.id, attempt, "result.json"), canonical(result))
    return 0


async def second(blobs: Blobs, name: ResourceName, attempt: int, mine: Path, stopping: asyncio.Event) -> int:
    """Be there until the first rank has done the work, or somebody says to stop."""
    mine.write_text(str(os.getpid()))
    result = keys.attempt_file(name.project, "runs", name.id, attempt, "result.json")
    while not stopping.is_set():
        with contextlib.suppress(Missing):
            await blobs.stat(result)
            return 0
        await asyncio.sleep(0.05)
    return 75


def rank_file(cache: Path, run_id: str, attempt: int, rank: int) -> Path:
    return cache / f"rank-{run_id}-{attempt}-{rank}"


def lost(others: list[Path]) -> bool:
    """Whether one that was there is gone; on its way it is not yet."""
    return any(file.exists() and not alive(file.read_text()) for file in others)


def alive(pid: str) -> bool:
    try:
        return not pid or Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def told_to_go(cache: Path, run_id: str) -> bool:
    return (cache / f"go-{run_id}").exists()


def event(kind: str, **fields: object) -> dict[str, object]:
    return {"kind": kind, "at": format_time(CLOCK.now()), **fields}


async def checkpoint(jobs: JobStore, run_id: str, attempt: int, step: int) -> None:
    mark = Checkpoint(
        attempt=attempt, step=step, spec_digest="s", state_digest="s", state_size=11, cores=1, lanes=1, code_version="0"
    )
    folder = f"{checkpoints(jobs.project, run_id, attempt)}/{step_name(step)}"
    await jobs.blobs.put(f"{folder}/{MARK}", dump(mark))


async def newest_step(jobs: JobStore, run_id: str, attempt: int) -> int:
    best = 0
    for before in range(1, attempt):
        async for entry in jobs.blobs.children(checkpoints(jobs.project, run_id, before)):
            best = max(best, int(entry.name))
    return best


async def publish(blobs: object, spec: RunSpec) -> Model:
    stored = await put_blob(blobs, spec.project, b"weights of " + spec.name.encode())
    model = Model(
        name=format_name("model", spec.project, spec.output_model_id),
        kind="adapter",
        create_time=CLOCK.now(),
        files=(FileRef(path="adapter_model.safetensors", digest=stored.digest, size=stored.size),),
        family="sd1",
        method=spec.method,
        base=spec.base,
        base_digest=spec.base_digest,
        licence=spec.accepted.licence if spec.accepted is not None else "",
        accepted=spec.accepted,
        lineage=Lineage(
            run=spec.name,
            dataset_version=spec.dataset_version,
            dataset_digest=spec.dataset_digest,
            seed=spec.seed,
            regularisation_version=spec.regularisation,
            regularisation_digest=spec.regularisation_digest,
        ),
    )
    try:
        await save_model(blobs, model)
    except Exists:
        there = await load_model(blobs, model.name)
        assert replace(there, create_time=model.create_time) == model
        return there
    return model


if __name__ == "__main__":
    sys.exit(main())
