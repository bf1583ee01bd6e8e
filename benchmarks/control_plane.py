"""What the trainer's control plane costs: resident memory of the service, and how long GetRun and ListRuns take.

    python -m benchmarks.control_plane [RUNS]

The store holds a thousand runs: most are over, one is alive and reports, some wait. The service is a process of its
own, called over gRPC on loopback, one call at a time and sixteen at a time. Targets: 150 MB, GetRun p95 of 20 ms.
"""

import asyncio
import os
import platform
import random
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.measures import latencies, quantiles
from benchmarks.trainer import PROJECT, run_spec, serving
from marsam.api.trainer.v1 import trainer_pb2
from marsam.core.clock import SystemClock
from marsam.core.ids import new_ulid
from marsam.core.names import format_name
from marsam.core.records import canonical
from marsam.jobs.progress import heartbeat
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.store import keys
from marsam.store.open import open_store

WAITING = 20
RSS_TARGET_MB = 150
P95_TARGET_MS = 20
# The one run that is alive does nothing but live.
_PROGRAM = f"{sys.executable},-c,import time; time.sleep(3600)"


async def _fill(store: Path, count: int) -> list[str]:
    """Record `count` runs as services and runs would have done; returns their ids, oldest first."""
    jobs = JobStore(open_store(str(store)), PROJECT, "runs", SystemClock())
    ended = (State.SUCCEEDED, State.FAILED, State.CANCELLED)

    async def one(number: int) -> str:
        run_id, _ = await jobs.create(request=new_ulid().encode(), request_id="", spec_for=run_spec)
        if number < count - WAITING:
            head = await jobs.append(run_id, await jobs.head(run_id), State.STARTING, reason="LAUNCHED")
            head = await jobs.append(run_id, head, State.RUNNING, reason="ALIVE")
            told = {"step": 1000, "steps": 1000, "loss": 0.1, "phase": "publishing"}
            await jobs.blobs.put(keys.heartbeat(PROJECT, "runs", run_id, 1), canonical(told))
            await jobs.append(run_id, head, ended[number % 3], reason="DONE")
        return run_id

    ids: list[str] = []
    for start in range(0, count, 16):
        ids += await asyncio.gather(*(one(number) for number in range(start, min(start + 16, count))))
    return ids


async def measure(count: int) -> dict[str, float]:
    """Resident megabytes and milliseconds, by name."""
    with tempfile.TemporaryDirectory(prefix="marsam-bench-") as folder:
        store = Path(folder, "store")
        ids = await _fill(store, count)
        settings = {"MARSAM_STORE": str(store), "MARSAM_CACHE": f"{folder}/cache",
                    "MARSAM_RUN_COMMAND": _PROGRAM, "MARSAM_STOP_GRACE_S": "2"}  # fmt: skip
        async with serving(settings) as trainer:
            figures = {"start_ms": trainer.start_s * 1000, "rss_start_mb": trainer.resident_mb()}
            await _call(trainer.stub, store, ids, figures)
            figures["rss_mb"] = trainer.resident_mb()
    return figures


async def _call(stub: Any, store: Path, ids: list[str], figures: dict[str, float]) -> None:
    jobs = JobStore(open_store(str(store)), PROJECT, "runs", SystemClock())
    alive = ids[-WAITING]
    for _ in range(600):
        if (await jobs.head(alive)).attempt:
            break
        await asyncio.sleep(0.1)
    beating = asyncio.create_task(_beat(jobs, alive))

    def get(run_id: str) -> Callable[[], Awaitable[Any]]:
        request = trainer_pb2.GetRunRequest(name=format_name("run", PROJECT, run_id))
        return lambda: stub.GetRun(request, timeout=60)

    async def first_page() -> Any:
        request = trainer_pb2.ListRunsRequest(parent=f"projects/{PROJECT}")
        return await stub.ListRuns(request, timeout=60)

    order = random.Random(0).sample(ids, len(ids))
    for name, run_ids, at_once in (
        ("get_cold", order, 1),
        ("get", order, 1),
        ("get_alive", [alive] * 300, 1),
        ("get_16", order * 2, 16),
    ):
        figures[f"{name}_p50_ms"], figures[f"{name}_p95_ms"] = quantiles(
            await latencies([get(run_id) for run_id in run_ids], at_once=at_once)
        )
    figures["list_p50_ms"], figures["list_p95_ms"] = quantiles(await latencies([first_page] * 40, at_once=1))
    beating.cancel()
    await asyncio.wait({beating})


async def _beat(jobs: JobStore, run_id: str) -> None:
    step = 0
    while True:
        step += 1
        await heartbeat(jobs, run_id, 1, {"step": step, "steps": 1000, "loss": 0.5, "phase": "training"})
        await asyncio.sleep(1)


def main(count: int = 1000) -> dict[str, float]:
    """Measure and print."""
    figures = asyncio.run(measure(count))
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors"
    print(f"trainer service with {count} runs ({machine})")
    print(
        f"  resident memory {figures['rss_mb']:.0f} MB (target {RSS_TARGET_MB}), {figures['rss_start_mb']:.0f} at start"
    )
    for name, words in (
        ("get_cold", "GetRun, first time"),
        ("get", f"GetRun (target p95 {P95_TARGET_MS} ms)"),
        ("get_alive", "GetRun of the run that is alive"),
        ("get_16", "GetRun, 16 at once"),
        ("list", "ListRuns, newest 50"),
    ):
        print(f"  {words}: p50 {figures[f'{name}_p50_ms']:.1f} ms, p95 {figures[f'{name}_p95_ms']:.1f} ms")
    return figures


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
