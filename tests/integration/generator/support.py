"""A real generator on port 0 over a folder store that holds tiny models."""

import asyncio
import contextlib
import json
import os
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import grpc.aio
import torch
from marsam_generator.assembly import assemble
from marsam_generator.engine.admission import Admission
from marsam_generator.engine.engine import Drawing
from marsam_generator.hardware import choose
from marsam_generator.models import Library
from marsam_generator.settings import GeneratorSettings
from marsam_generator.trees import Trees

from marsam.api.generator.v1 import generator_pb2, generator_pb2_grpc
from marsam.catalog.files import FileRef
from marsam.catalog.models import Lineage, Model, ModelKind
from marsam.catalog.repository import save_model
from marsam.core.ids import new_ulid
from marsam.diffusion.sampling import Picture
from marsam.rpc.server import Lifecycle, serve
from marsam.rpc.wire import channel
from marsam.store.blobs import Blobs
from marsam.store.cache import Cache
from marsam.store.content import put_blob
from marsam.store.open import open_store
from marsam.telemetry import Meter
from tests.contract.families.drawing import drawn
from tests.unit.generator.tiny import write_adapter, write_base

PROJECT = "projects/default"


def model(name: str) -> str:
    return f"{PROJECT}/models/{name}"


async def publish(
    blobs: Blobs,
    name: str,
    kind: ModelKind,
    folder: Path,
    *,
    base: Model | None = None,
    family: str = "sd1",
    **more: Any,
) -> Model:
    """Put a folder into the store as a model."""
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        stored = await put_blob(blobs, "default", path)
        files.append(FileRef(path=str(path.relative_to(folder)), digest=stored.digest, size=stored.size))
    made = Model(
        name=model(name),
        kind=kind,
        create_time=datetime(2026, 11, 25, tzinfo=UTC),
        files=tuple(files),
        family=family if kind != "judge" else "",
        base=base.name if base else None,
        base_digest=base.digest if base else None,
        **more,
    )
    await save_model(blobs, made)
    return made


def library(blobs: Blobs, cache: Path) -> Library:
    """Models of a store, held on this processor."""
    return Library(
        blobs=blobs, trees=Trees(blobs, Cache(cache)), hardware=choose("cpu", "fp32", 1), tick_rows=4,
        budget=1 << 30, admission=Admission(seconds=600, pictures=64), meter=Meter(service="generator", version="0"),
    )  # fmt: skip


async def draw(held: Library, drawn_by: Model, picture: Picture, adapters: Sequence[Model] = ()) -> torch.Tensor:
    """A picture by a model and adapters, each with its whole weight."""
    async with held.lease(drawn_by, adapters) as lease:
        drawing = Drawing(
            id=new_ulid(), pictures=[picture], denoiser=lease.denoiser, adapters=dict.fromkeys(lease.adapters, 1.0)
        )
        (pixels,) = await drawn(lease.engine, drawing)
        return pixels


@contextlib.contextmanager
def tiny_models(root: Path) -> Iterator[str]:
    """A store with: `base`, `other` (a base), `a` and `b` (adapters of base, b by QLoRA), `stretched` (a DoRA
    adapter of base), `alien` (of other), `tuned` (full, of base)."""

    async def fill() -> None:
        blobs = open_store(str(root / "store"))
        folder = write_base(root / "base")
        base = await publish(blobs, "base", "base", folder)
        other = await publish(blobs, "other", "base", write_base(root / "other", seed=5))
        await publish(blobs, "a", "adapter", write_adapter(root / "a", folder, seed=1), base=base)
        recipe = Lineage(quantisation="nf4+dq")
        await publish(
            blobs, "b", "adapter", write_adapter(root / "b", folder, seed=2, rank=8), base=base, lineage=recipe
        )
        stretched = write_adapter(root / "stretched", folder, seed=4, dora=True)
        await publish(blobs, "stretched", "adapter", stretched, base=base, params={"dora": True})
        await publish(blobs, "alien", "adapter", write_adapter(root / "alien", folder, seed=3), base=other)
        tuned = write_base(root / "tuned", seed=9)
        for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
            for file in (folder / part).iterdir():
                (tuned / part / file.name).write_bytes(file.read_bytes())
        await publish(blobs, "tuned", "full", tuned, base=base)

    asyncio.run(fill())
    yield str(root / "store")


@dataclass(kw_only=True)
class Served:
    """A running generator: its stub, its store, its metrics, and the addresses of both ports."""

    stub: Any
    blobs: Blobs
    meter: Meter
    channel: grpc.aio.Channel
    target: str
    http: str


@contextlib.asynccontextmanager
async def serving(store: str, cache: Path, **settings: Any) -> AsyncIterator[Served]:
    """Start a generator in this loop and stop it after the block."""
    chosen = GeneratorSettings(store=store, cache=cache, threads=1, **{"grace_seconds": 0.5, **settings})
    lifecycle = Lifecycle()
    meter = Meter(service="generator", version="0")
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with assemble(chosen, meter, lifecycle) as assembly:
        task = asyncio.create_task(
            serve(
                assembly.registrations,
                chosen,
                meter=meter,
                lifecycle=lifecycle,
                web=assembly.pages,
                fitness=assembly.fitness,
                announce=lambda line: ready.set_result(line),
            )
        )
        where = json.loads(await asyncio.wait_for(ready, 20))
        async with channel(where["grpc"]) as opened:
            stub = generator_pb2_grpc.GeneratorServiceStub(opened)
            yield Served(
                stub=stub,
                blobs=open_store(store),
                meter=meter,
                channel=opened,
                target=where["grpc"],
                http=where["http"],
            )
        lifecycle.stop()
        await asyncio.wait_for(task, 20 + chosen.grace_seconds)


async def start_process(
    *, log: int | IO[bytes] = asyncio.subprocess.PIPE, **variables: str
) -> asyncio.subprocess.Process:
    """A generator as a process of its own; its first line on stdout says where it is, its log goes to `log`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MARSAM_")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "marsam_generator",
        stdout=asyncio.subprocess.PIPE,
        stderr=log,
        env={**environment, "OMP_NUM_THREADS": "1", **variables},
    )


async def page_of(http: str) -> str:
    """The metrics page of the service at `http`."""

    def read() -> str:
        with urllib.request.urlopen(f"{http}/metrics", timeout=20) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(read)


def request(**fields: Any) -> generator_pb2.GenerateRequest:
    """A small request; fields overwrite."""
    values: dict[str, Any] = {
        "parent": PROJECT,
        "model": model("base"),
        "prompt": "a chef in a kitchen",
        "seed": 7,
        "steps": 3,
        "guidance": 3.0,
        **fields,
    }
    values["adapters"] = [
        generator_pb2.AdapterUse(model=model(name), weight=weight)
        for name, weight in values.get("adapters", {}).items()
    ]
    return generator_pb2.GenerateRequest(**values)


@dataclass(kw_only=True)
class Answer:
    """The messages of one Generate call, joined."""

    accepted: generator_pb2.Accepted
    progress: Sequence[tuple[int, int]]
    images: Sequence[tuple[generator_pb2.ImageHeader, bytes]]
    previews: Sequence[generator_pb2.Preview]
    done: generator_pb2.Done | None


async def generate(stub: Any, asked: generator_pb2.GenerateRequest, *, timeout_s: float = 60.0) -> Answer:
    """Call Generate and read it to its end."""
    accepted, progress, images, previews, done = generator_pb2.Accepted(), [], [], [], None
    async for message in stub.Generate(asked, timeout=timeout_s):
        match message.WhichOneof("event"):
            case "accepted":
                accepted = message.accepted
            case "progress":
                progress.append((message.progress.step, message.progress.steps))
            case "image":
                images.append((message.image, b""))
            case "chunk":
                images[-1] = (images[-1][0], images[-1][1] + message.chunk)
            case "preview":
                previews.append(message.preview)
            case "done":
                done = message.done
    return Answer(accepted=accepted, progress=progress, images=images, previews=previews, done=done)
