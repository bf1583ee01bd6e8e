"""A generator whose clients come with all kinds of requests, three in ten of whom vanish: nothing gets stuck, nothing
piles up, and a picture is the same after as before."""

import asyncio
import json
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from marsam.api.generator.v1 import generator_pb2_grpc
from marsam.rpc.wire import channel
from marsam.store import keys
from marsam.store.blobs import walk
from marsam.store.open import open_store
from tests.integration.generator.support import Answer, generate, page_of, request, start_process, tiny_models
from tests.soak.crowd import PATIENCE_S, VANISHED, Crowd, pictures_to_start_from
from tests.soak.span import LIMIT_S, SECONDS, Span, drawn

pytestmark = [pytest.mark.soak, pytest.mark.timeout(LIMIT_S)]

PLACES = 16
"""Pictures that may be in flight, set so low that one place that is never given back is one too few at the end."""
WARM = 1 / 3
"""Share of the time in which caches fill (prompts, widths by shape, adapters, arenas of the allocator)."""
GROWTH_BYTES = 24 << 20
"""What the resident set may grow after that. One picture in flight holds some 100 KiB here (latents, walk, PNG,
messages), and a client that vanishes leaves everything of it behind if anything is: at the slowest rate seen, of 5
requests a second, that is 50 MiB within the two thirds of two minutes that are measured, and 1 GiB in those of an
hour. Less than this is what glibc's arenas and Python's own give and take."""


async def watched(pid: int, span: Span) -> list[tuple[float, int]]:
    """(seconds, resident bytes) of a process, some hundred times."""
    seen = []
    while not span.over:
        words = (Path("/proc") / str(pid) / "statm").read_text().split()
        seen.append((span.gone_s, int(words[1]) * 4096))
        await asyncio.sleep(SECONDS / 200)
    return seen


def grown(seen: list[tuple[float, int]]) -> int:
    """By how much the resident set of the last sixth is above that of the sixth after the warm-up, by medians."""
    after_warm_up = [size for at, size in seen if WARM <= at / SECONDS < WARM + 1 / 6]
    last = [size for at, size in seen if at / SECONDS >= 5 / 6]
    return int(statistics.median(last) - statistics.median(after_warm_up))


def tenths(seen: list[tuple[float, int]]) -> list[float]:
    """The median resident MiB in every tenth of the time."""
    parts = [[size for at, size in seen if part <= 10 * at / SECONDS < part + 1] for part in range(10)]
    return [round(statistics.median(part) / 2**20, 1) for part in parts]


def pictures(answer: Answer) -> list[bytes]:
    """The PNG files, in order: pixels and all that they say of themselves."""
    return [data for header, data in sorted(answer.images, key=lambda image: image[0].index)]


async def quiet(http: str) -> None:
    """Wait until nothing is in flight any more, on the page that an operator looks at."""
    wanted = (
        'marsam_queue_depth{queue="pictures"} 0.0',
        'marsam_rpc_in_flight{method="/marsam.api.generator.v1.GeneratorService/Generate"} 0.0',
    )
    async with asyncio.timeout(60):
        while not set(wanted) <= set((await page_of(http)).splitlines()):
            await asyncio.sleep(0.2)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    with tiny_models(tmp_path) as url:
        yield url


async def test_clients_that_vanish_leave_nothing_behind(store: str, tmp_path: Path) -> None:
    chance = drawn()
    settings = {"STORE": store, "CACHE": str(tmp_path / "cache"), "QUEUE_PICTURES": str(PLACES)}
    with (tmp_path / "generator.log").open("wb") as log:
        process = await start_process(log=log, **{f"MARSAM_{name}": value for name, value in settings.items()})
    try:
        assert process.stdout is not None
        ready = json.loads(await asyncio.wait_for(process.stdout.readline(), 120))
        async with channel(ready["grpc"]) as opened:
            stub = generator_pb2_grpc.GeneratorServiceStub(opened)
            probes = [request(steps=20), request(steps=20, adapters={"a": 0.7}), request(steps=8, scheduler="euler")]
            before = [pictures(await generate(stub, probe)) for probe in probes]
            span = Span()
            crowd = Crowd(ready["grpc"], chance, over=lambda: span.over, images=await pictures_to_start_from(stub))
            async with asyncio.TaskGroup() as group:
                sizes = group.create_task(watched(process.pid, span))
                group.create_task(crowd.work())
            await quiet(ready["http"])
            print(f"{dict(crowd.told)}, MiB by tenths of the time: {tenths(sizes.result())}", flush=True)
            # Every place that may be had is free, and every probe draws what it drew.
            full = await generate(stub, request(count=PLACES), timeout_s=PATIENCE_S)
            assert len(full.images) == PLACES
            assert [pictures(await generate(stub, probe)) for probe in probes] == before
        assert process.returncode is None
        assert all(crowd.told[way] > 0 for way in ("done", "detached", *VANISHED)), crowd.told
        assert [key async for key in walk(open_store(store), keys.drawings("default"))] == []
        assert grown(sizes.result()) <= GROWTH_BYTES
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert "Traceback" not in (tmp_path / "generator.log").read_text()
