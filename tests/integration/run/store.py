"""A small real store: a tiny base, a dataset version of drawn pictures, and runs in the state in which a trainer
starts them."""

import io
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from marsam.catalog.datasets import Caption, DatasetVersion, Item, Mask
from marsam.catalog.files import FileRef
from marsam.catalog.models import Model
from marsam.catalog.repository import load_model, save_model, save_version
from marsam.catalog.runs import RunSpec
from marsam.core.clock import SystemClock
from marsam.core.ids import digest_of, new_ulid
from marsam.core.records import dump
from marsam.jobs.progress import read_events
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.store.blobs import Blobs
from marsam.store.content import put_blob
from marsam.store.open import open_store

PROJECT = "hayy"
PROGRAM = ("-m", "marsam_trainer.run")


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """A store with a base and a dataset version in it."""

    url: str
    blobs: Blobs
    base: Model
    version: DatasetVersion

    @property
    def root(self) -> Path:
        """The folder of a folder store."""
        return Path(self.url)

    @property
    def jobs(self) -> JobStore:
        return JobStore(self.blobs, PROJECT, "runs", SystemClock())

    async def order(self, **changes: Any) -> str:
        """A new run in its first attempt; returns its ULID."""
        jobs = self.jobs
        job_id, _ = await jobs.create(
            request=new_ulid().encode(), request_id="", spec_for=lambda job_id: dump(self.spec(job_id, **changes))
        )
        await self.begin(job_id)
        return job_id

    def spec(self, job_id: str, **changes: Any) -> RunSpec:
        """The run's spec: small, with `changes`."""
        fields: dict[str, Any] = {
            "name": f"projects/{PROJECT}/runs/{job_id}",
            "base": self.base.name,
            "base_digest": self.base.digest,
            "dataset_version": self.version.name,
            "dataset_digest": self.version.digest,
            "method": "lora",
            "output_model_id": f"tuned-{job_id}",
            "steps": 6,
            "batch_size": 2,
            "learning_rate": 1e-3,
            "resolution": 32,
            "seed": 5,
            "checkpoint_every": 4,
            "method_params": {} if changes.get("method") == "full" else {"rank": 2, "alpha": 2.0},
        }
        return RunSpec(**{**fields, **changes})

    async def of_items(self, name: str, items: Sequence[Item]) -> "Shelf":
        """The same store with another version of the dataset, of these items."""
        full = f"{self.version.name}-{name}"
        version = DatasetVersion(name=full, create_time=self.version.create_time, items=tuple(items))
        await save_version(self.blobs, version)
        return replace(self, version=version)

    async def holding_out(self, count: int) -> "Shelf":
        """The same store with a version whose last `count` items are for validation."""
        learnt, apart = self.version.items[:-count], self.version.items[-count:]
        return await self.of_items(f"{count}", [*learnt, *(replace(item, split="validation") for item in apart)])

    async def apart(self, count: int, *captions: Caption) -> dict[str, Any]:
        """A version of `count` pictures more, all with `captions` if any are given; returns what an order says to
        regularise with it."""
        shown = [replace(plain(row), **({"captions": captions} if captions else {})) for row in range(100, 100 + count)]
        items = [await item(self.blobs, row, picture) for row, picture in enumerate(shown)]
        version = (await self.of_items(f"apart-{new_ulid()}", items)).version
        return {
            "regularisation": version.name,
            "regularisation_digest": version.digest,
            "regularisation_share": 0.25,
        }

    async def begin(self, job_id: str) -> None:
        """Open the next attempt, as the trainer does before it starts the program."""
        jobs = self.jobs
        head = await jobs.head(job_id)
        if head.state is State.STARTING:
            head = await jobs.append(job_id, head, State.PENDING, reason="RETRY")
        await jobs.append(job_id, head, State.STARTING)

    async def model(self, job_id: str) -> Model:
        """What the run published."""
        return await load_model(self.blobs, f"projects/{PROJECT}/models/tuned-{job_id}")

    async def events(self, job_id: str, attempt: int) -> list[dict[str, Any]]:
        """What an attempt told."""
        return (await read_events(self.jobs, job_id, attempt))[0]

    def attempt_folder(self, job_id: str, attempt: int) -> Path:
        """Where an attempt's files are in the folder store."""
        return self.root / "p" / PROJECT / "runs" / job_id / "attempts" / str(attempt)

    def arguments(self, job_id: str, attempt: int, cache: Path) -> list[str]:
        """The run program's command line."""
        return [
            "train",
            "--store",
            self.url,
            "--run",
            f"projects/{PROJECT}/runs/{job_id}",
            "--attempt",
            str(attempt),
            "--cache",
            str(cache),
            "--device",
            "cpu",
            "--cores",
            "1",
        ]

    def start(
        self, job_id: str, attempt: int, cache: Path, *more: str, program: Sequence[str] = PROGRAM
    ) -> subprocess.Popen[bytes]:
        """The run program as a process of its own; its log goes beside the cache."""
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / f"{job_id}-{attempt}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, *program, *self.arguments(job_id, attempt, cache), *more],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )


def drawing(row: int, side: int = 48) -> bytes:
    """A PNG of a few shapes, the same for the same `row`."""
    chance = random.Random(row)
    picture = Image.new("RGB", (side, side + 8), tuple(chance.randrange(256) for _ in range(3)))
    pen = ImageDraw.Draw(picture)
    for _ in range(4):
        x, y = chance.randrange(side), chance.randrange(side)
        pen.ellipse((x, y, x + 16, y + 16), fill=tuple(chance.randrange(256) for _ in range(3)))
    out = io.BytesIO()
    picture.save(out, format="PNG")
    return out.getvalue()


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The bytes of a picture and what is said of it."""

    data: bytes
    width: int
    height: int
    captions: tuple[Caption, ...]
    mask: bytes | None = None


def plain(row: int) -> Picture:
    """A few shapes, with a number for a caption."""
    captions = (Caption(language="en", text=f"picture {row}"), Caption(language="ar", text=f"صورة {row}"))
    return Picture(data=drawing(row), width=48, height=56, captions=captions)


async def item(blobs: Blobs, row: int, picture: Picture) -> Item:
    """A dataset item around a picture."""
    data = picture.data
    stored = await put_blob(blobs, PROJECT, data)
    return Item(
        id=new_ulid(),
        file_name=f"picture-{row}.png",
        image=FileRef(path=f"picture-{row}.png", digest=stored.digest, size=stored.size, media_type="image/png"),
        original_digest=stored.digest,
        pixel_digest=digest_of(data),
        width=picture.width,
        height=picture.height,
        phash=row,
        dhash=row,
        captions=picture.captions,
        mask=await _mask(blobs, picture.mask) if picture.mask is not None else None,
    )


async def _mask(blobs: Blobs, data: bytes) -> Mask:
    stored = await put_blob(blobs, PROJECT, data)
    image = FileRef(path="mask.png", digest=stored.digest, size=stored.size, media_type="image/png")
    return Mask(image=image, original_digest=stored.digest)


async def make(
    root: Path | str,
    base_folder: Path,
    *,
    family: str = "sd1",
    pictures: Sequence[Picture] = (),
    spoilt: bool = False,
) -> Shelf:
    """Fill a new store: five plain pictures unless others are given; `spoilt` adds bytes that are none."""
    blobs = open_store(str(root))
    files = []
    for path in sorted(file for file in base_folder.rglob("*") if file.is_file()):
        stored = await put_blob(blobs, PROJECT, path)
        files.append(FileRef(path=path.relative_to(base_folder).as_posix(), digest=stored.digest, size=stored.size))
    now = datetime.now(UTC)
    base = Model(
        name=f"projects/{PROJECT}/models/base",
        kind="base",
        create_time=now,
        files=tuple(files),
        family=family,
        licence="Apache-2.0",
    )
    await save_model(blobs, base)
    shown = [*(pictures or map(plain, range(5)))]
    if spoilt:
        shown.append(replace(plain(5), data=b"\x89PNG\r\n\x1a\n and then nothing that is a picture"))
    items = [await item(blobs, row, picture) for row, picture in enumerate(shown)]
    version = DatasetVersion(name=f"projects/{PROJECT}/datasets/set/versions/v1", create_time=now, items=tuple(items))
    await save_version(blobs, version)
    return Shelf(url=str(root), blobs=blobs, base=base, version=version)
