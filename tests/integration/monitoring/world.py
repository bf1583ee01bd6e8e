"""A small house that lives for a minute under Prometheus' eyes: an import, a real run, faults, pictures.

`python -m tests.integration.monitoring.world docs/boards` draws the pictures of docs/operations.md from it.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import httpx

from marsam.api.common.v1 import common_pb2
from marsam.api.dataset.v1 import dataset_pb2, dataset_pb2_grpc
from marsam.api.generator.v1 import generator_pb2, generator_pb2_grpc
from marsam.api.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from marsam.rpc.wire import channel
from marsam.store.open import open_store
from scripts import board_picture, dashboards
from tests.contract.families.bases import build_sd1
from tests.integration.dataset.harness import parts
from tests.integration.dataset.pictures import saved, scene
from tests.integration.monitoring import stack
from tests.integration.run.store import Shelf, make
from tests.integration.trainer import harness

PARENT = "projects/hayy"
STEPS = 2500
ENDED = 7
"""Runs that end: the real one, four with faults, two whose program is gone."""
BAD = {"notes.png": b"no picture", "cut.jpg": b"\xff\xd8\xff\xe0 and then nothing", "old.png": b"\x80\x04\x95 pickle"}


@dataclass(frozen=True, kw_only=True)
class World:
    """What is left of it: Prometheus still answers. `expositions` are by program, `run` is the real run's id."""

    prometheus: stack.Prometheus
    told: stack.Told
    began: float
    ended: float
    expositions: dict[str, str]
    run: str
    listed: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Program:
    """A service that runs."""

    http: str
    channel: grpc.aio.Channel


@contextlib.asynccontextmanager
async def program(service: str, folder: Path, **settings: object) -> AsyncIterator[Program]:
    """Start a service over a store; it drains when the block ends."""
    chosen = {"cache": folder / f"{service}-cache", **settings}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MARSAM_")}
    told = {f"MARSAM_{name.upper()}": str(value) for name, value in chosen.items()}
    with (folder / f"{service}.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"marsam_{service}", env={**inherited, **told}, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=log,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 120)
        assert line, (folder / f"{service}.log").read_text()
        ready = json.loads(line)
        async with channel(ready["grpc"]) as opened:
            yield Program(http=ready["http"], channel=opened)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 60)


@contextlib.contextmanager
def lived(folder: Path) -> Iterator[World]:
    """The world, lived through; Prometheus and Alertmanager go on until the block ends."""
    with contextlib.ExitStack() as kept:
        yield asyncio.run(_live(folder, kept))


async def _live(folder: Path, kept: contextlib.ExitStack) -> World:
    shelf = await make(folder / "store", build_sd1(folder / "base", prediction="epsilon"))
    faulty = harness.Service(folder / "faulty", run_command=f"{_python(folder)},{harness.PROGRAM}", max_attempts=2)
    (folder / "faulty").mkdir()
    blobs = open_store(str(faulty.store))
    await harness.place_base(blobs)
    await harness.place_version(blobs)
    store = {"store": shelf.root}
    async with contextlib.AsyncExitStack() as up:
        dataset, trainer, generator, _ = await asyncio.gather(
            up.enter_async_context(program("dataset", folder, decode_workers=1, **store)),
            up.enter_async_context(program("trainer", folder, poll_s=0.2, **store)),
            up.enter_async_context(program("generator", folder, threads=1, device="cpu", **store)),
            up.enter_async_context(faulty),
        )
        services = {
            "dataset": dataset.http, "trainer": trainer.http, "generator": generator.http, "faulty": faulty.http,
        }  # fmt: skip
        told = kept.enter_context(stack.listening())
        manager = await asyncio.to_thread(kept.enter_context, stack.alertmanager(folder, told))
        seen = stack.prometheus(folder, services=services, runs=[trainer.http], alerts_to=manager)
        server = await asyncio.to_thread(kept.enter_context, seen)
        began = time.time()
        # Whatever begins at 0 is seen there; it takes Prometheus some seconds to begin.
        await asyncio.to_thread(server.wait_until, f"count(count_over_time(up[1m]) > 1) == {len(services)}")
        (run, listed, exposition), *_ = await asyncio.gather(
            _train(shelf, trainer, generator), _import(dataset), _fail(folder, faulty), _draw(shelf, generator)
        )
        await asyncio.to_thread(told.wait_for, "MarsamRunLossNotFinite")
        await asyncio.to_thread(server.wait_until, f"sum(marsam_runs_ended_total) == {ENDED}")
        # Prometheus takes changed targets over every five seconds, and calls their series ended two scrapes later.
        await asyncio.to_thread(server.wait_until, 'absent(up{job="marsam-runs"})')
        over = time.time()
        await asyncio.to_thread(server.wait_until, f'min(timestamp(up{{job="marsam"}})) > {over}')
        await asyncio.sleep(1)  # ranges are asked for by the second: the last second must see the last scrape
        expositions = {name: await _metrics(url) for name, url in services.items()} | {"run": exposition}
        return World(
            prometheus=server,
            told=told,
            began=began,
            ended=time.time(),
            expositions=expositions,
            run=run,
            listed=listed,
        )


def _python(folder: Path) -> Path:
    """This Python under a name of its own, so that it can be taken away."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return path


async def _metrics(url: str) -> str:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"{url}/metrics", timeout=30)).text


async def _train(shelf: Shelf, trainer: Program, generator: Program) -> tuple[str, list[dict[str, Any]], str]:
    """A run with checkpoints and previews, then pictures with what came out; what it was listed and scraped as."""
    stub = trainer_pb2_grpc.TrainerServiceStub(trainer.channel)
    spec = trainer_pb2.RunSpec(
        base=shelf.base.name, dataset_version=shelf.version.name, method="lora", steps=STEPS, batch_size=2,
        resolution=32, checkpoint_every=500, learning_rate=1e-3, output_model_id="tuned",
    )  # fmt: skip
    spec.method_params.update({"rank": 2, "alpha": 4})
    spec.preview.prompts.append("picture 1")
    spec.preview.every = 1000
    run = (await stub.CreateRun(trainer_pb2.CreateRunRequest(parent=PARENT, spec=spec, request_id="one"))).run
    listed: list[dict[str, Any]] = []
    exposition = ""
    async with asyncio.timeout(200):
        while True:
            now = (await stub.GetRun(trainer_pb2.GetRunRequest(name=run.name))).run
            if now.progress.step > 600 and not exposition:
                async with httpx.AsyncClient() as client:
                    listed = (await client.get(f"{trainer.http}/sd/runs", timeout=30)).json()
                exposition = await _metrics(f"http://{listed[0]['targets'][0]}")
            if now.state == common_pb2.JOB_STATE_SUCCEEDED:
                break
            assert now.state not in (common_pb2.JOB_STATE_FAILED, common_pb2.JOB_STATE_CANCELLED), now
            await asyncio.sleep(0.3)
    for _ in range(4):
        await _picture(generator, shelf, adapter=now.model)
        await asyncio.sleep(0.7)
    stub_of_pictures = generator_pb2_grpc.GeneratorServiceStub(generator.channel)
    await stub_of_pictures.EvictAdapter(generator_pb2.EvictAdapterRequest(model=now.model))
    return run.name.rsplit("/", 1)[1], listed, exposition


async def _import(dataset: Program) -> None:
    """Twenty pictures and three files that are none; a question about a set that is not there."""
    stub = dataset_pb2_grpc.DatasetServiceStub(dataset.channel)
    await stub.CreateDataset(dataset_pb2.CreateDatasetRequest(parent=PARENT, dataset_id="new"))
    files = {f"{number}.png": saved(scene(number)) for number in range(20)} | BAD
    header = dataset_pb2.ImportHeader(parent=f"{PARENT}/datasets/new")
    await stub.ImportItems(_slowly(parts(files, header)), timeout=120)
    for _ in range(3):
        with contextlib.suppress(grpc.aio.AioRpcError):
            await stub.GetDataset(dataset_pb2.GetDatasetRequest(name=f"{PARENT}/datasets/none"))
        await asyncio.sleep(1)


async def _slowly(messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for message in messages:
        yield message
        await asyncio.sleep(0.05)


async def _fail(folder: Path, faulty: harness.Service) -> None:
    """One run of every kind that ends badly, and one whose program is gone."""
    for labels, end in (
        ({"fail-until": "9", "how": "78"}, "FAILED"),
        ({"fail-until": "1", "how": "kill"}, "SUCCEEDED"),
        ({"fail-until": "9", "how": "71"}, "FAILED"),
        ({"fail-until": "9", "how": "70"}, "FAILED"),
    ):
        run = await faulty.create(labels=labels)
        await faulty.until(run.name, end)
    for _ in range(2):
        (folder / "python").unlink(missing_ok=True)
        run = await faulty.create()
        await faulty.until(run.name, "FAILED")
        await asyncio.sleep(1.5)


async def _draw(shelf: Shelf, generator: Program) -> None:
    """Pictures of the base, one call after the other, and one that is asked wrongly."""
    for _ in range(8):
        await _picture(generator, shelf)
        await asyncio.sleep(0.7)
    with contextlib.suppress(grpc.aio.AioRpcError):
        await _picture(generator, shelf, adapter=f"{PARENT}/models/none")


async def _picture(generator: Program, shelf: Shelf, *, adapter: str = "") -> None:
    request = generator_pb2.GenerateRequest(
        parent=PARENT, model=shelf.base.name, prompt="picture 1", steps=12, guidance=2.0, count=2, width=32, height=32
    )
    if adapter:
        request.adapters.add(model=adapter, weight=1.0)
    async for _ in generator_pb2_grpc.GeneratorServiceStub(generator.channel).Generate(request, timeout=60):
        pass


def main(into: Path) -> None:
    """Draw every board from such a world."""
    with tempfile.TemporaryDirectory() as folder, lived(Path(folder)) as seen:
        ask = board_picture.asking(seen.prometheus.url, began=seen.began, ended=seen.ended)
        note = "drawn by scripts/board_picture.py from a Prometheus that watched a small real run on a CPU"
        into.mkdir(parents=True, exist_ok=True)
        for path in sorted(dashboards.FOLDER.glob("*.json")):
            board = json.loads(path.read_text(encoding="utf-8"))
            text = board_picture.draw(board, ask, began=seen.began, ended=seen.ended, note=note)
            (into / f"{path.stem}.svg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
