"""Several generators over one store behind one name: calls are spread, and what one leaves another takes up."""

import asyncio
import contextlib
import itertools
import json
import re
import signal
import socket
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from marsam_generator.service import SERVICE

from marsam.api.generator.v1 import generator_pb2, generator_pb2_grpc
from marsam.catalog.repository import load_model
from marsam.client import AsyncMarsam, Done, Endpoints, Image, Progress
from marsam.rpc.wire import channel
from marsam.store.open import open_store
from tests.integration.generator.nameserver import Nameserver, nameserver
from tests.integration.generator.support import PROJECT, generate, model, page_of, publish, request, start_process
from tests.unit.generator.tiny import write_adapter, write_base

EXACT = generator_pb2.REPRODUCIBILITY_EXACT


@dataclass(kw_only=True)
class Replica:
    process: Process
    host: str
    http: str

    async def value(self, series: str) -> float:
        """A series of its metrics page; 0 where it is not there."""
        found = re.search(rf"^{re.escape(series)} (\S+)$", await page_of(self.http), re.MULTILINE)
        return float(found[1]) if found else 0.0

    async def pictures(self) -> float:
        return await self.value(f'marsam_generation_images_total{{base="{model("base")}"}}')


@dataclass(kw_only=True)
class House:
    """Replicas on one port of several addresses that `name` stands for."""

    store: str
    base: Path
    folder: Path
    names: Nameserver
    port: int
    replicas: list[Replica] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(2))

    @property
    def name(self) -> str:
        return f"dns://{self.names.where}/generators.marsam.test:{self.port}"

    async def grow(self) -> Replica:
        """One more, ready and not in the name server's answers yet."""
        number = next(self.numbers)
        host = f"127.0.0.{number}"
        with (self.folder / f"log-{number}").open("wb") as log:
            process = await start_process(
                log=log,
                MARSAM_STORE=self.store,
                MARSAM_CACHE=str(self.folder / f"cache-{number}"),
                MARSAM_LISTEN=f"{host}:{self.port}",
                MARSAM_DEVICE="cpu",
                MARSAM_THREADS="1",
                MARSAM_DRAIN_SECONDS="1",
                MARSAM_GRACE_SECONDS="60",
            )
        made = Replica(process=process, host=host, http="")
        self.replicas.append(made)
        assert process.stdout is not None
        made.http = json.loads(await asyncio.wait_for(process.stdout.readline(), 120))["http"]
        return made

    async def who_draws(self) -> Replica:
        """The replica that serves a Generate call."""
        async with asyncio.timeout(60):
            while True:
                for one in self.replicas:
                    if await one.value(f'marsam_rpc_in_flight{{method="/{SERVICE}/Generate"}}'):
                        return one

    async def kill(self, one: Replica) -> None:
        one.process.send_signal(signal.SIGKILL)
        await one.process.wait()
        self.replicas.remove(one)


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """Two replicas over a store of their own."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):  # a name that is not loopback would go there
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        port = probe.getsockname()[1]
    store = str(tmp_path / "store")
    await publish(open_store(store), "base", "base", write_base(tmp_path / "base"))
    async with nameserver() as names:
        made = House(store=store, base=tmp_path / "base", folder=tmp_path, names=names, port=port)
        try:
            await asyncio.gather(made.grow(), made.grow())
            names.addresses = [one.host for one in made.replicas]
            yield made
        finally:
            for one in made.replicas:
                if one.process.returncode is None:
                    one.process.kill()
                await one.process.wait()


@contextlib.asynccontextmanager
async def spoken_to(house: House) -> AsyncIterator[Any]:
    async with channel(house.name) as opened:
        yield generator_pb2_grpc.GeneratorServiceStub(opened)


@pytest.mark.slow
async def test_calls_are_spread_and_each_replica_finds_what_was_published_since(house: House) -> None:
    async with spoken_to(house) as stub:
        async with asyncio.timeout(60):  # until both are connected, one has all calls
            while not all([await one.pictures() for one in house.replicas]):
                await generate(stub, request())
        before = [await one.pictures() for one in house.replicas]
        await asyncio.gather(*(generate(stub, request(seed=seed)) for seed in range(8)))
        assert [await one.pictures() for one in house.replicas] == [one + 4 for one in before]
        blobs = open_store(house.store)
        late = write_adapter(house.folder / "late", house.base, seed=11)
        await publish(blobs, "late", "adapter", late, base=await load_model(blobs, model("base")))
        asked = request(adapters={"late": 1.0}, reproducibility=EXACT)
        first, second = [await generate(stub, asked) for _ in range(2)]
        assert first.images[0][1] == second.images[0][1] != (await generate(stub, request())).images[0][1]
        loaded = f'marsam_adapters_loaded{{base="{model("base")}"}}'
        assert [await one.value(loaded) for one in house.replicas] == [1.0, 1.0]
        # What is kept in memory is a matter of each replica.
        pin = generator_pb2.LoadAdapterRequest(model=model("late"), pin=True)
        await stub.LoadAdapter(pin, timeout=60)
        told = [await stub.ListAdapters(generator_pb2.ListAdaptersRequest(parent=PROJECT), timeout=20) for _ in "ab"]
        assert sorted(one.pinned for answer in told for one in answer.adapters if one.model == model("late")) == [
            False,
            True,
        ]


@pytest.mark.slow
async def test_what_a_killed_replica_drew_comes_from_another_as_it_would_have_been(house: House) -> None:
    asked = request(steps=120, request_id="killed-midway", reproducibility=EXACT)
    async with spoken_to(house) as stub:
        (undisturbed,) = (await generate(stub, request(steps=120, reproducibility=EXACT))).images
        call = stub.Generate(asked, timeout=120)
        while not (await call.read()).progress.step:
            pass
        await house.kill(await house.who_draws())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while await call.read() is not grpc.aio.EOF:
                pass
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        (again,) = (await generate(stub, asked)).images
        assert (again[0].seed, again[1]) == (undisturbed[0].seed, undisturbed[1])
        # Another takes its place at an address of its own.
        new = await house.grow()
        house.names.addresses = [one.host for one in house.replicas]
        async with asyncio.timeout(60):
            while not await new.pictures():
                await generate(stub, request())
                await asyncio.sleep(0.2)


@pytest.mark.slow
async def test_whoever_follows_a_detached_drawing_has_its_pictures_though_a_replica_died(house: House) -> None:
    wanted: dict[str, Any] = {"model": "base", "steps": 100, "count": 4, "seed": 3, "exact": True}
    everywhere = Endpoints(dataset="127.0.0.1:1", trainer="127.0.0.1:1", generator=house.name)
    async with AsyncMarsam(everywhere) as marsam:
        undisturbed = [one async for one in marsam.generation.generate("a chef", **wanted) if isinstance(one, Image)]
        killed, had, end = False, dict[int, bytes](), None
        async for event in marsam.generation.generate("a chef", **wanted, detach=True, request_id="followed"):
            if isinstance(event, Progress) and event.step > 20 and not killed:
                killed = True
                await house.kill(await house.who_draws())
            if isinstance(event, Image):
                had[event.index] = event.data
            end = event
        assert killed and isinstance(end, Done)
        assert had == {one.index: one.data for one in undisturbed}


@pytest.mark.slow
async def test_a_replica_that_ends_under_load_loses_nothing_that_was_asked(house: House) -> None:
    leaving, staying = house.replicas
    answers: list[int] = []

    async def ask(stub: Any, who: int) -> None:
        for number in range(12):
            one = await generate(stub, request(steps=20, seed=100 * who + number, request_id=f"load-{who}-{number}"))
            answers.append(len(one.images))

    async with spoken_to(house) as stub:
        asking = [asyncio.create_task(ask(stub, who)) for who in range(8)]
        while len(answers) < 24:
            await asyncio.sleep(0.02)
        leaving.process.send_signal(signal.SIGTERM)
        house.names.addresses = [staying.host]
        await asyncio.gather(*asking)
        assert answers == [1] * 96
        assert await asyncio.wait_for(leaving.process.wait(), 60) == 0
