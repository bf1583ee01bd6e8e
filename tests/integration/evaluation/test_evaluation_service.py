"""Evaluations from end to end: the service on a port, its launched program, a judge that reads, a report."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from marsam_generator.evaluation.hosting import Hosting, hosted
from marsam_generator.evaluation.results import Results
from marsam_generator.evaluation.suites import Suite, suite_bytes

from marsam.api.generator.v1 import evaluation_pb2, generator_pb2_grpc
from marsam.catalog.files import FileRef
from marsam.catalog.models import Model
from marsam.catalog.repository import save_model
from marsam.client import AsyncMarsam
from marsam.client.endpoints import Endpoints
from marsam.client.states import state_name
from marsam.core import records
from marsam.core.clock import SystemClock
from marsam.core.errors import Exists, Invalid, Missing, Precondition, Unsupported
from marsam.rpc.server import Lifecycle, Registration, ServerSettings, serve
from marsam.store.content import put_blob, read_blob
from marsam.store.open import open_store
from marsam.telemetry import Meter
from tests.integration.evaluation.drawn_generator import DrawnGenerator
from tests.integration.evaluation.tiny_judge import train
from tests.unit.evaluation.synthetic import suite

pytestmark = pytest.mark.slow

PROJECT = "demo"
NOW = datetime(2026, 11, 25, tzinfo=UTC)


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    record = train(folder)
    assert record.trusts("place") and record.trusts("head_cover")
    return folder


@pytest.fixture(scope="module")
def small_suite() -> Suite:
    """Six prompts of each group, one seed."""
    whole = suite(seeds=(11,))
    kept = [p for g in whole.groups for p in [p for p in whole.prompts if p.group == g.name][::4]]
    return replace(whole, name="small", prompts=tuple(kept))


@dataclass(frozen=True, kw_only=True)
class World:
    """A running service and a client of it."""

    marsam: AsyncMarsam
    generator: DrawnGenerator
    suite: Suite
    root: Path
    meter: Meter

    async def create(self, **more: object) -> evaluation_pb2.Evaluation:
        registered = await self.marsam.evaluations.register_suite(suite_bytes(self.suite))
        asked = {"suite": registered.name, "models": ["base", "tuned"], "judge": "judge", **more}
        return await self.marsam.evaluations.create(**asked)  # type: ignore[arg-type]

    async def end_of(self, evaluation: evaluation_pb2.Evaluation) -> evaluation_pb2.Evaluation:
        async with asyncio.timeout(240):
            async for _ in self.marsam.evaluations.watch(evaluation.name):
                pass
        return await self.marsam.evaluations.get(evaluation.name)

    def processes(self) -> list[int]:
        """The evaluation programs of this world that run."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if b"marsam_generator.evaluation" in words and str(self.root).encode() in b" ".join(words):
                        found.append(int(entry.name))
        return found


async def add_model(root: Path, name: str, kind: str, files: dict[str, bytes | Path], **more: object) -> Model:
    blobs = open_store(str(root / "store"))
    refs = []
    for path, source in files.items():
        stored = await put_blob(blobs, PROJECT, source)
        refs.append(FileRef(path=path, digest=stored.digest, size=stored.size))
    model = Model(name=f"projects/{PROJECT}/models/{name}", kind=kind, create_time=NOW, files=tuple(refs), **more)  # type: ignore[arg-type]
    await save_model(blobs, model)
    return model


@asynccontextmanager
async def service(root: Path, generator: DrawnGenerator, meter: Meter) -> AsyncIterator[AsyncMarsam]:
    lifecycle, ready = Lifecycle(), asyncio.Event()
    drawing = Registration(
        service="marsam.api.generator.v1.GeneratorService",
        add=lambda server: generator_pb2_grpc.add_GeneratorServiceServicer_to_server(generator, server),
    )
    hosting = Hosting(store=str(root / "store"), cache=root / "cache")
    blobs = open_store(str(root / "store"))
    async with hosted(hosting, blobs=blobs, meter=meter, clock=SystemClock(), lifecycle=lifecycle) as evaluating:
        serving = asyncio.create_task(
            serve([drawing, evaluating], ServerSettings(grace_seconds=1.0), meter=meter, lifecycle=lifecycle,
                  announce=lambda _: ready.set())
        )  # fmt: skip
        await asyncio.wait_for(ready.wait(), 30)
        address = lifecycle.address
        try:
            async with AsyncMarsam(
                Endpoints(dataset=address, trainer=address, generator=address), project=PROJECT
            ) as marsam:
                yield marsam
        finally:
            lifecycle.stop()
            await asyncio.wait_for(serving, 30)


async def fill(tmp_path: Path, judge_folder: Path) -> None:
    """Put a base, an adapter of it with a loss curve, and a judge into the store."""
    base = await add_model(tmp_path, "base", "base", {"unet/model.safetensors": b"base"}, family="sd1")
    curve = json.dumps({"loss": [[10, 0.4], [20, 0.3], [30, 0.25]]}).encode()
    stored = await put_blob(open_store(str(tmp_path / "store")), PROJECT, curve)
    await add_model(
        tmp_path, "tuned", "adapter", {"adapter.safetensors": b"adapter"}, family="sd1", method="lora",
        base=base.name, base_digest=base.digest, display_name="Balanced LoRA",
        samples=(FileRef(path="samples/loss_curve.json", digest=stored.digest, size=stored.size),),
    )  # fmt: skip
    await add_model(tmp_path, "judge", "judge", {p.name: p for p in judge_folder.iterdir()}, family="judge")


@pytest.fixture
async def world(tmp_path: Path, judge_folder: Path, small_suite: Suite) -> AsyncIterator[World]:
    await fill(tmp_path, judge_folder)
    generator = DrawnGenerator(small_suite)
    meter = Meter(service="generator", version="test")
    async with service(tmp_path, generator, meter) as marsam:
        yield World(marsam=marsam, generator=generator, suite=small_suite, root=tmp_path, meter=meter)


@pytest.fixture(autouse=True)
def no_process_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                assert str(tmp_path).encode() not in (entry / "cmdline").read_bytes(), entry.name


async def test_tells_a_model_that_learned_from_its_base(world: World) -> None:
    world.generator.full_for = 5  # a full queue is waited out
    created = await world.create(display_name="small", seed_offset=1000)
    assert state_name(created.state) in ("PENDING", "STARTING")
    told = []
    async with asyncio.timeout(240):
        async for message in world.marsam.evaluations.watch(created.name):
            told.append(message)
    done = await world.marsam.evaluations.get(created.name)
    assert state_name(done.state) == "SUCCEEDED", (done.reason, done.message)
    pictures = world.suite.pictures * 2
    assert (done.progress.pictures_done, done.progress.pictures) == (pictures, pictures)
    assert done.verdict.startswith("Tuning worked")
    progress = [m.progress for m in told if m.HasField("progress")]
    assert [p.pictures_done for p in progress] == sorted(p.pictures_done for p in progress)
    assert state_name(told[-1].snapshot.state) == "SUCCEEDED"

    # Every picture once, at the shifted seeds, many at a time.
    assert sum(world.generator.calls.values()) == pictures
    assert set(world.generator.calls.values()) == {1}
    assert {seed for _, _, seed in world.generator.calls} == {1011}
    assert world.generator.most_in_flight >= 8

    results = records.load(Results, await world.marsam.evaluations.read_report(done.name, format="json"))
    assert results.trusted == ("place", "head_cover")  # garments: read too badly
    assert results.model_titles == ("base", "Balanced LoRA")
    assert results.fingerprint == "drawn by pen"
    learned = results.change(1, "tuned_roles", "", "as_asked")
    assert learned is not None and learned.interval.low > 0.3
    kept = results.change(1, "asked_keffiyeh", "", "as_asked")
    assert kept is not None and abs(kept.difference) < 0.1
    blobs = open_store(str(world.root / "store"))
    for picture in results.pictures[:3]:
        assert len(await read_blob(blobs, PROJECT, picture.digest)) == picture.size
    page = (await world.marsam.evaluations.read_report(done.name)).decode()
    assert results.verdict.sentence["ar"] in page
    assert page.count("<img ") == pictures + 12
    assert "Balanced LoRA: loss" in page
    assert "garment" in page and "below 95" in page

    exposed = world.meter.exposition().decode()
    assert f'marsam_evaluation_pictures_total{{judge="projects/{PROJECT}/models/judge"}} {pictures}.0' in exposed
    assert 'marsam_jobs{kind="evaluations",state="RUNNING"}' in exposed

    # The same request again is the same evaluation; the list has it once.
    again = await world.create(display_name="small", seed_offset=1000, request_id="a-request")
    twice = await world.create(display_name="small", seed_offset=1000, request_id="a-request")
    assert again.name == twice.name != created.name
    with pytest.raises(Exists, match="a-request"):
        await world.create(display_name="other", request_id="a-request")
    assert state_name((await world.end_of(again)).state) == "SUCCEEDED"
    assert [e.name for e in await world.marsam.evaluations.list()] == [again.name, created.name]
    # Another evaluation that asks for the same pictures gets those that are there.
    assert sum(world.generator.calls.values()) == pictures
    repeated = records.load(Results, await world.marsam.evaluations.read_report(again.name, format="json"))
    assert repeated.pictures == results.pictures
    assert repeated.verdict == results.verdict


async def test_goes_on_after_a_kill_with_the_pictures_it_has(world: World) -> None:
    world.generator.gate.clear()
    world.generator.open_after = 60
    created = await world.create()
    async with asyncio.timeout(120):
        async for message in world.marsam.evaluations.watch(created.name):
            if message.HasField("progress") and message.progress.pictures_done >= 60:
                break
    for process in world.processes():
        os.kill(process, signal.SIGKILL)
    world.generator.gate.set()
    done = await world.end_of(created)
    assert (state_name(done.state), done.attempt) == ("SUCCEEDED", 2), (done.reason, done.message)
    drawn = world.generator.calls
    assert len(drawn) == world.suite.pictures * 2
    assert sum(drawn.values()) <= len(drawn) + 24  # at most what was in flight is drawn again


async def test_a_service_that_comes_back_goes_on(tmp_path: Path, judge_folder: Path, small_suite: Suite) -> None:
    await fill(tmp_path, judge_folder)
    generator, meter = DrawnGenerator(small_suite), Meter(service="generator", version="test")
    generator.gate.clear()
    generator.open_after = 40
    async with service(tmp_path, generator, meter) as marsam:
        first = World(marsam=marsam, generator=generator, suite=small_suite, root=tmp_path, meter=meter)
        created = await first.create()
        async with asyncio.timeout(120):
            async for message in marsam.evaluations.watch(created.name):
                if message.HasField("progress") and message.progress.pictures_done >= 40:
                    break
    assert first.processes() == []  # it needs the service to draw, and goes with it
    generator.gate.set()
    async with service(tmp_path, generator, meter) as marsam:
        second = World(marsam=marsam, generator=generator, suite=small_suite, root=tmp_path, meter=meter)
        done = await second.end_of(created)
        assert (state_name(done.state), done.attempt) == ("SUCCEEDED", 2), (done.reason, done.message)
    assert len(generator.calls) == small_suite.pictures * 2
    assert sum(generator.calls.values()) <= len(generator.calls) + 24


async def test_stops_when_it_is_told_to(world: World) -> None:
    world.generator.gate.clear()
    created = await world.create()
    async with asyncio.timeout(120):
        async for message in world.marsam.evaluations.watch(created.name):
            if message.HasField("progress") and message.progress.phase == "generating":
                break
    assert world.processes()
    await world.marsam.evaluations.cancel(created.name)
    done = await world.end_of(created)
    assert state_name(done.state) == "CANCELLED"
    assert world.processes() == []
    with pytest.raises(Precondition, match="has no report: it is CANCELLED"):
        await world.marsam.evaluations.read_report(created.name)


async def test_a_refusal_of_the_generator_is_the_evaluations_reason(world: World) -> None:
    world.generator.refuse = "unknown scheduler 'ddim'"
    done = await world.end_of(await world.create())
    assert (state_name(done.state), done.attempt, done.reason) == ("FAILED", 1, "SCHEDULER_UNKNOWN")
    assert "unknown scheduler 'ddim'" in done.message


async def test_says_what_is_wrong_before_it_starts(world: World) -> None:
    with pytest.raises(Missing) as missing:
        await world.create(models=["base", "tunde"])
    assert "tuned" in missing.value.remedy
    with pytest.raises(Invalid, match="not a judge"):
        await world.create(judge="base")
    with pytest.raises(Invalid, match="draws nothing"):
        await world.create(models=["base", "judge"])
    with pytest.raises(Invalid, match="unknown language 'fr'"):
        await world.create(languages=["fr"])
    with pytest.raises(Missing, match="no evaluation"):
        await world.marsam.evaluations.get("01kb0000000000000000000000")
    with pytest.raises(Unsupported, match="not built yet"):
        await world.marsam.evaluations.vote(
            "01kb0000000000000000000000", prompt_id="tuned-roles-00", preference="first"
        )
    assert list(await world.marsam.evaluations.list()) == []


async def test_suites_are_registered_once_and_never_change(world: World) -> None:
    evaluations = world.marsam.evaluations
    first = await evaluations.register_suite(suite_bytes(world.suite))
    assert first.name == f"projects/{PROJECT}/suites/small/versions/v1"
    assert (first.prompt_count, list(first.languages)) == (30, ["en", "ar"])
    pretty = json.dumps(json.loads(suite_bytes(world.suite)), indent=2).encode()
    assert await evaluations.register_suite(pretty) == first
    changed = replace(world.suite, prompts=world.suite.prompts[:-1])
    with pytest.raises(Exists, match="already exists"):
        await evaluations.register_suite(suite_bytes(changed))
    with pytest.raises(Invalid, match="unknown key 'promts'") as caught:
        await evaluations.register_suite(b'{"schema": "marsam.suite/1", "promts": []}')
    assert "did you mean 'prompts'" in caught.value.remedy
    assert [s.name for s in await evaluations.suites()] == [first.name]
