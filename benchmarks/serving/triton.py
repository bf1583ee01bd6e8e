"""What it costs to have a Triton Inference Server draw: the same picture by both engines in turn, by the clock."""

import asyncio
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from marsam_generator.engines.building import local_engine
from marsam_generator.engines.contract import Commission, DrawingEngine
from marsam_generator.engines.triton import TritonEngine
from marsam_generator.settings import EngineSettings
from marsam_generator.trees import Trees

from benchmarks.rows import Row, median
from benchmarks.serving.base import PIXELS, write_adapter, write_base
from marsam.core.ids import new_ulid
from marsam.diffusion.sampling import Picture
from marsam.store.cache import Cache
from marsam.store.open import open_store
from marsam.telemetry import Meter
from tests.contract.engine.triton_server import MODEL, Triton, serving
from tests.integration.generator.support import publish

SIDE = 8
STEPS = 12
PAIRS = 60
WARMING = 3
"""The first load, measure widths and read the prompt."""
FIXED_MS, SHARE = 5.0, 0.02


@dataclass(kw_only=True)
class Taken:
    """Milliseconds of each picture: by the clock, and of every process's processor time."""

    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)


def measure(folder: Path) -> list[Row]:
    """Milliseconds of a guided picture with an adapter, from the question to the pixels."""
    store = str(folder / "store")
    with serving(folder / "triton", store=store, MARSAM_THREADS="1") as server:
        local, triton = asyncio.run(_both(folder, store, server))
    added = statistics.median(triton.clock) - statistics.median(local.clock)
    work = statistics.fmean(triton.processor) - statistics.fmean(local.processor)
    bar = FIXED_MS + SHARE * statistics.median(local.clock)
    return [
        median(f"{SIDE}², {STEPS} steps: a picture, local", local.clock, "ms"),
        median(f"{SIDE}², {STEPS} steps: a picture, Triton", triton.clock, "ms"),
        Row(name="Triton adds, medians", value=added, unit="ms", at_most=round(bar, 1)),
        Row(name="Triton adds, processor time of all processes, means", value=work, unit="ms"),
    ]


def processor(pids: Sequence[int]) -> float:
    """Milliseconds of processor time that this process and others have taken so far."""
    ticks = sum(sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13])) for pid in pids)
    return 1000 * (time.process_time() + ticks / os.sysconf("SC_CLK_TCK"))


async def _both(folder: Path, store: str, server: Triton) -> tuple[Taken, Taken]:
    blobs = open_store(store)
    base = await publish(blobs, "base", "base", write_base(folder / "base"))
    adapter = await publish(blobs, "a", "adapter", write_adapter(folder / "a", folder / "base", seed=1), base=base)
    settings = EngineSettings(store=store, cache=folder / "cache", threads=1)
    trees = Trees(blobs, Cache(settings.cache, budget=settings.cache_bytes))
    local = local_engine(settings, blobs=blobs, trees=trees, meter=Meter(service="engine", version="0"))
    triton = TritonEngine(address=server.grpc, model=MODEL)
    taken: dict[DrawingEngine, Taken] = {local: Taken(), triton: Taken()}
    pids = (server.process.pid, server.stub())
    for turn in range(PAIRS + WARMING):
        for engine in (local, triton) if turn % 2 else (triton, local):
            side = SIDE * PIXELS
            picture = Picture(prompt="a doctor in a hospital", seed=turn, width=side, height=side, steps=STEPS)
            asked = Commission(id=new_ulid(), model=base, adapters=[(adapter, 0.8)], pictures=[picture])
            began, work = time.perf_counter(), processor(pids)
            async for _ in engine.draw(asked):
                pass
            if turn >= WARMING:
                taken[engine].clock.append(1000 * (time.perf_counter() - began))
                taken[engine].processor.append(processor(pids) - work)
    await triton.close()
    await local.close()
    await trees.close()
    return taken[local], taken[triton]
