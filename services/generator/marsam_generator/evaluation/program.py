"""One attempt of an evaluation: draw, judge, compute, report; the pictures of earlier attempts are taken over."""

import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from marsam.api.generator.v1 import generator_pb2
from marsam.catalog.evaluations import EvaluationSpec
from marsam.catalog.models import Model
from marsam.client.generation import Generation
from marsam.core import records
from marsam.core.clock import Clock
from marsam.core.errors import Unavailable
from marsam.core.names import parse
from marsam.core.records import canonical
from marsam.jobs.store import JobStore
from marsam.rpc.wire import Credentials, channel, explain
from marsam.store import keys
from marsam.store.blobs import Blobs
from marsam.store.cache import Cache
from marsam.store.content import Digested, put_blob, read_blob
from marsam_generator.evaluation.conclusion import JudgeInUse, Subject, conclude
from marsam_generator.evaluation.drawing import IN_FLIGHT, Drawer, Shot, patiently, shots
from marsam_generator.evaluation.journal import Journal, Kept, recall
from marsam_generator.evaluation.judges import Judge
from marsam_generator.evaluation.reading import Print, ReadingDesk
from marsam_generator.evaluation.report import Sources, render
from marsam_generator.evaluation.results import Results
from marsam_generator.evaluation.sources import (
    Assignment,
    dataset_versions,
    fetch_judge,
    load_assignment,
    loss_curve,
)

RESULT = "result.json"
FAILURE = "failure.json"


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which attempt of which evaluation to work on, and with what. `generator`: a gRPC address, '' for the spec's."""

    blobs: Blobs
    clock: Clock
    evaluation: str
    attempt: int
    cache: Path
    cache_bytes: int | None = None
    generator: str = ""
    credentials: Credentials = field(default_factory=Credentials)

    @property
    def project(self) -> str:
        """The project's id."""
        return parse(self.evaluation, "evaluation").project

    @property
    def id(self) -> str:
        """The evaluation's ULID."""
        return parse(self.evaluation, "evaluation").id

    @property
    def jobs(self) -> JobStore:
        """The project's evaluations."""
        return JobStore(self.blobs, self.project, "evaluations", self.clock)

    def file(self, name: str) -> str:
        """The key of one of this attempt's files."""
        return keys.attempt_file(self.project, "evaluations", self.id, self.attempt, name)


class Program:
    """Runs one attempt to its result; `run` once."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._fingerprints: dict[str, None] = {}
        self._seconds: dict[str, float] = {}

    async def run(self) -> Results:
        """Return the results, which are then in the store with the report. Raises what stopped it."""
        order = self._order
        spec = records.load(EvaluationSpec, await order.jobs.spec(order.id), what=order.evaluation)
        assignment = await load_assignment(order.blobs, spec)
        wanted = list(shots(assignment.suite, len(assignment.models)))
        known = await recall(order.jobs, order.id, before=order.attempt)
        journal = Journal(order.jobs, order.id, order.attempt, pictures=len(wanted))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(journal.write(), name="journal")
            results = await self._work(spec, assignment, wanted, known, journal)
            journal.close()
        return results

    async def _work(
        self,
        spec: EvaluationSpec,
        assignment: Assignment,
        wanted: list[Shot],
        known: Mapping[Shot, Kept],
        journal: Journal,
    ) -> Results:
        order = self._order
        cache = Cache(order.cache, budget=order.cache_bytes)
        with tempfile.TemporaryDirectory(prefix="judge-", dir=order.cache) as folder:
            judge = await fetch_judge(order.blobs, cache, assignment.judge, Path(folder) / "judge")
        await cache.trim()
        desk = ReadingDesk(judge)
        journal.phase("generating")
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(desk.work(), name="judge")
            await self._draw_all(spec, assignment, wanted, known, journal, desk)
            self._seconds["generating"] = round(time.monotonic() - began, 2)
            journal.phase("judging")
            await desk.queue.put(None)
        self._seconds["judging"] = round(desk.seconds, 2)
        journal.phase("reporting")
        return await self._conclude(spec, assignment, judge, desk)

    async def _draw_all(
        self,
        spec: EvaluationSpec,
        assignment: Assignment,
        wanted: list[Shot],
        known: Mapping[Shot, Kept],
        journal: Journal,
        desk: ReadingDesk,
    ) -> None:
        order = self._order
        names = [model.name for model in assignment.models]
        target, tls = order.generator or spec.generator_target, order.credentials.tls
        async with channel(target, token=order.credentials.token, tls=tls) as link:
            generation = Generation(link, project=order.project)

            async def capabilities() -> generator_pb2.ListCapabilitiesResponse:
                try:
                    return await generation.capabilities()
                except Unavailable as error:
                    raise await explain(error, target, tls) from error

            drawer = Drawer(
                generation,
                assignment.suite,
                assignment.models,
                seed_offset=spec.seed_offset,
                build=(await patiently(capabilities)).fingerprint,
            )

            async def work(mine: Iterator[Shot]) -> None:
                for shot in mine:
                    kept = known.get(shot)
                    if kept is not None:
                        data = await read_blob(order.blobs, order.project, kept.digest)
                        journal.reused()
                    else:
                        drawn = await drawer.draw(shot)
                        data = drawn.data
                        stored = await put_blob(order.blobs, order.project, data, expected=drawn.digest)
                        kept = Kept(digest=stored.digest, size=stored.size, fingerprint=drawn.fingerprint)
                        journal.drew(shot, kept, model=names[shot.model])
                    self._fingerprints[kept.fingerprint] = None
                    await desk.queue.put(Print(shot=shot, digest=kept.digest, data=data))

            # One iterator for all workers: each takes the next shot when it is free.
            remaining = iter(wanted)
            async with asyncio.TaskGroup() as tasks:
                for number in range(min(IN_FLIGHT, len(wanted))):
                    tasks.create_task(work(remaining), name=f"draw {number}")

    async def _conclude(self, spec: EvaluationSpec, assignment: Assignment, judge: Judge, desk: ReadingDesk) -> Results:
        order = self._order
        results = await asyncio.to_thread(
            conclude,
            assignment.suite,
            desk.pictures,
            evaluation=spec.name,
            create_time=order.clock.now(),
            suite_name=spec.suite,
            models=[Subject(name=m.name, digest=m.digest, title=title_of(m)) for m in assignment.models],
            judge=JudgeInUse(
                name=assignment.judge.name,
                digest=assignment.judge.digest,
                record=judge.record,
                vocabulary=judge.vocabulary,
            ),
            seed_offset=spec.seed_offset,
            notes=spec.notes,
            fingerprint=" + ".join(name for name in self._fingerprints if name),
            seconds=self._seconds,
        )
        sources = Sources(
            models=assignment.models,
            pictures=desk.thumbnails,
            curves={m.name: await loss_curve(order.blobs, m) for m in assignment.models},
            datasets=await dataset_versions(order.blobs, assignment.models),
        )
        report = (await asyncio.to_thread(render, results, sources)).encode("utf-8")
        await self._publish(results, report)
        return results

    async def _publish(self, results: Results, report: bytes) -> None:
        """Store numbers and report; `result.json` comes last and marks the attempt as done."""
        order = self._order
        numbers = await put_blob(order.blobs, order.project, records.dump(results))
        page = await put_blob(order.blobs, order.project, report)
        content = {
            "results": _reference(numbers),
            "report": _reference(page),
            "verdict": results.verdict.sentence["en"],
            "status": results.verdict.status,
            "pictures": len(results.pictures),
            "judge": results.judge,
        }
        await order.blobs.put(order.file(RESULT), canonical(content))


def title_of(model: Model) -> str:
    """What a report calls a model."""
    return model.display_name or ("base" if model.kind == "base" else model.id)


def _reference(blob: Digested) -> dict[str, object]:
    return {"digest": blob.digest, "size": blob.size}
