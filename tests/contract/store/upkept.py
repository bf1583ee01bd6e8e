"""A small store as the services leave it, and one whose objects grow old at once."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from marsam.catalog.aliases import set_alias
from marsam.catalog.datasets import Dataset, DatasetVersion, Item
from marsam.catalog.evaluations import EvaluationSpec, SuiteVersion
from marsam.catalog.files import FileRef
from marsam.catalog.generations import DrawnPicture, GenerationRecord, Timings
from marsam.catalog.imports import ImportSpec, Listing, Received, VocabularyRecord
from marsam.catalog.models import Lineage, Model
from marsam.catalog.repository import save_dataset, save_item, save_model, save_suite, save_version
from marsam.catalog.runs import RunSpec
from marsam.core.clock import SystemClock
from marsam.core.ids import digest_of, new_ulid
from marsam.core.records import canonical, dump, to_plain
from marsam.jobs.progress import append_events, heartbeat
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.store import keys
from marsam.store.blobs import Blobs, Entry, Stat, walk
from marsam.store.content import put_blob
from marsam.store.keys import JobKind
from marsam.store.numbered import NumberedLog

CLOCK = SystemClock()
AT = datetime(2026, 11, 25, tzinfo=UTC)
P = "projects/p"


class Aged:
    """A store whose clock is `ahead` of what it held when it was wrapped: that is old, what is written now is young.

    Everything else is the real store's doing. `before` is awaited before a call of that name, with its key.
    """

    def __init__(self, blobs: Blobs, ahead: timedelta = timedelta(hours=48)) -> None:
        self.inner = blobs
        self.ahead = ahead
        self.young: set[str] = set()
        self.deleted: list[str] = []
        self.before: dict[str, Callable[[str], object]] = {}

    async def _call(self, name: str, key: str) -> None:
        act = self.before.get(name)
        if act is not None:
            await act(key)  # type: ignore[misc]

    def describe(self) -> str:
        return self.inner.describe()

    async def create(self, key: str, data: bytes) -> None:
        await self._call("create", key)
        await self.inner.create(key, data)
        self.young.add(key)

    async def put(self, key: str, source: bytes | Path | AsyncIterable[bytes], *, sha256: str | None = None) -> Stat:
        await self._call("put", key)
        stat = await self.inner.put(key, source, sha256=sha256)
        self.young.add(key)
        return stat

    async def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        return await self.inner.get(key, start=start, length=length)

    async def stat(self, key: str) -> Stat:
        stat = await self.inner.stat(key)
        return self._shown(key, stat)

    def _shown(self, key: str, stat: Stat) -> Stat:
        written = stat.modified + (self.ahead if key in self.young else timedelta())
        return replace(stat, modified=written, now=stat.now + self.ahead)

    async def fetch(self, key: str, into: Path, *, sha256: str, size: int) -> Path:
        return await self.inner.fetch(key, into, sha256=sha256, size=size)

    async def children(self, prefix: str) -> AsyncIterator[Entry]:
        async for entry in self.inner.children(prefix):
            key = f"{prefix}/{entry.name}" if prefix else entry.name
            if entry.modified is not None and key in self.young:
                entry = replace(entry, modified=entry.modified + self.ahead)
            yield entry

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self._call("delete", key)
        await self.inner.delete(keys)
        self.deleted += keys

    async def link(self, key: str, *, method: Literal["GET", "PUT"], ttl: timedelta) -> str | None:
        return await self.inner.link(key, method=method, ttl=ttl)


@dataclass(frozen=True, kw_only=True)
class House:
    """What `furnish` put into project 'p'."""

    image: str
    kept: str
    weights: str
    preview: str
    listing: str
    orphans: tuple[str, str]
    version: str
    base: str
    tuned: str
    evaluation: str
    generation: str
    done: str
    failed: str
    live: str


async def file(blobs: Blobs, path: str, data: bytes) -> FileRef:
    stored = await put_blob(blobs, "p", data)
    return FileRef(path=path, digest=stored.digest, size=stored.size)


async def job(blobs: Blobs, kind: JobKind, spec: Callable[[str], object], *states: State) -> str:
    store = JobStore(blobs, "p", kind, CLOCK)
    job_id, _ = await store.create(request=new_ulid().encode(), request_id="", spec_for=lambda id_: dump(spec(id_)))
    for state in states:
        await store.append(job_id, await store.head(job_id), state)
    return job_id


async def checkpoint(blobs: Blobs, run: str, attempt: int, step: int, *, whole: bool = True) -> None:
    """What the run program writes: a state, then its mark."""
    place = f"checkpoints/{step:08d}"
    await blobs.put(keys.attempt_file("p", "runs", run, attempt, f"{place}/state.safetensors"), bytes(1000))
    if whole:
        await blobs.create(keys.attempt_file("p", "runs", run, attempt, f"{place}/manifest.json"), b"{}")


async def furnish(blobs: Blobs) -> House:
    """A dataset with an import and a version, a base, three runs, a tuned model with an alias, an evaluation, a
    generation; and two blobs that nothing refers to."""
    dataset = f"{P}/datasets/hayy"
    await save_dataset(blobs, Dataset(name=dataset, create_time=AT))
    pictures = [await file(blobs, "image.png", f"picture {n}".encode()) for n in range(3)]
    sent = await put_blob(blobs, "p", b"as it was sent")
    listing = await put_blob(
        blobs, "p", dump(Listing(files=(Received(path="a.png", size=sent.size, digest=sent.digest),)))
    )
    ended = (State.STARTING, State.RUNNING, State.SUCCEEDED)
    await job(blobs, "imports", lambda _: ImportSpec(dataset=dataset, listing=listing.digest, files=1), *ended)
    items = tuple(
        Item(
            id=new_ulid(), file_name="a.png", image=image, original_digest=sent.digest, pixel_digest=sent.digest,
            width=8, height=8, phash=n, dhash=n,
        )
        for n, image in enumerate(pictures)
    )  # fmt: skip
    for item in items:
        await save_item(blobs, dataset, item)
    words = await put_blob(blobs, "p", b"{}")
    log = NumberedLog(blobs, keys.vocabularies("p", "hayy"))
    await log.append(0, dump(VocabularyRecord(import_id=new_ulid(), digest=words.digest)))
    version = DatasetVersion(name=f"{dataset}/versions/v1", create_time=AT, items=items)
    await save_version(blobs, version)
    kept = await file(blobs, "image.png", b"not to be forgotten")
    apart = replace(version, name=f"{dataset}/versions/v2", items=(replace(items[0], image=kept),), digest="")
    await save_version(blobs, apart)
    base = Model(
        name=f"{P}/models/base", kind="base", family="sd1", create_time=AT,
        files=(await file(blobs, "unet/w.safetensors", b"base weights" * 1000),),
    )  # fmt: skip
    await save_model(blobs, base)

    def spec(run: str) -> RunSpec:
        return RunSpec(
            name=f"{P}/runs/{run}", base=base.name, base_digest=base.digest, dataset_version=version.name,
            dataset_digest=version.digest, method="lora", output_model_id="tuned", steps=9, batch_size=1,
            learning_rate=1e-3, resolution=32, seed=1, regularisation=apart.name, regularisation_digest=apart.digest,
            regularisation_share=0.2,
        )  # fmt: skip

    done = await job(blobs, "runs", spec, *ended)
    failed = await job(blobs, "runs", spec, State.STARTING, State.RUNNING, State.FAILED)
    live = await job(blobs, "runs", spec, State.STARTING, State.RUNNING)
    for run in (done, failed, live):
        for step in (2, 4, 6):
            await checkpoint(blobs, run, 1, step)
    await checkpoint(blobs, failed, 1, 8, whole=False)
    runs = JobStore(blobs, "p", "runs", CLOCK)
    shown = await file(blobs, "previews/0.png", b"a preview")
    await append_events(runs, live, 1, 1, [{"kind": "progress"}, {"kind": "preview", "files": [to_plain(shown)]}])
    await heartbeat(runs, live, 1, {"step": 6})
    tuned = Model(
        name=f"{P}/models/tuned", kind="adapter", family="sd1", method="lora", create_time=AT, base=base.name,
        base_digest=base.digest, files=(await file(blobs, "adapter.safetensors", b"adapter weights"),),
        lineage=Lineage(
            dataset_version=version.name, run=f"{P}/runs/{done}", regularisation_version=apart.name,
            regularisation_digest=apart.digest,
        ),
        samples=(await file(blobs, "samples/0.png", b"a sample"),),
    )  # fmt: skip
    await save_model(blobs, tuned)
    await set_alias(blobs, f"{P}/aliases/prod", tuned.name, clock=CLOCK)
    suite = SuiteVersion(name=f"{P}/suites/s/versions/v1", create_time=AT, content={})
    await save_suite(blobs, suite)
    evaluation = await job(
        blobs, "evaluations",
        lambda id_: EvaluationSpec(
            name=f"{P}/evaluations/{id_}", suite=suite.name, models=(tuned.name,), judge=base.name, generator_target="x"
        ),
        State.STARTING, State.RUNNING,
    )  # fmt: skip
    drawn, numbers, page = [await put_blob(blobs, "p", data) for data in (b"drawn", b"numbers", b"page")]
    evaluations = JobStore(blobs, "p", "evaluations", CLOCK)
    await append_events(evaluations, evaluation, 1, 1, [{"kind": "picture", "digest": drawn.digest, "size": 5}])
    result = {part: {"digest": at.digest, "size": at.size} for part, at in (("results", numbers), ("report", page))}
    await blobs.put(keys.attempt_file("p", "evaluations", evaluation, 1, "result.json"), canonical(result))
    await evaluations.append(evaluation, await evaluations.head(evaluation), State.SUCCEEDED, detail=result)
    generation = f"{P}/generations/{new_ulid()}"
    record = GenerationRecord(
        name=generation, request={}, models={tuned.name: tuned.digest}, fingerprint="", create_time=AT,
        pictures=(
            DrawnPicture(index=0, seed=1, width=8, height=8, file=await file(blobs, "000.png", b"generated")),
        ),
        timings=Timings(queued=0, denoise=0, decode=0, total=0),
    )  # fmt: skip
    await blobs.create(keys.generation("p", generation.rpartition("/")[2]), dump(record))
    orphans = [(await put_blob(blobs, "p", data)).digest for data in (b"orphan one", b"orphan two")]
    return House(
        image=pictures[0].digest, kept=kept.digest, weights=base.files[0].digest, preview=shown.digest,
        listing=listing.digest, orphans=(orphans[0], orphans[1]), version=version.name, base=base.name,
        tuned=tuned.name, evaluation=f"{P}/evaluations/{evaluation}", generation=generation, done=done, failed=failed,
        live=live,
    )  # fmt: skip


async def everything(blobs: Blobs) -> dict[str, str]:
    """Every key with the digest of its bytes."""
    return {key: digest_of(await blobs.get(key)) async for key in walk(blobs, "")}
