"""A Generate call from its request to its record: checked, admitted, drawn, streamed, kept."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from marsam.api.generator.v1 import generator_pb2
from marsam.catalog.files import FileRef
from marsam.catalog.generations import DrawnPicture, GenerationRecord, Timings
from marsam.core.clock import Clock
from marsam.core.errors import Cancelled, Deadline, MarsamError, Missing, Unavailable
from marsam.core.ids import new_ulid
from marsam.core.names import format_name, parse
from marsam.jobs.requests import recall, remember
from marsam.store.blobs import Blobs
from marsam.store.content import put_blob, stream_blob
from marsam.telemetry import Meter, Span, metrics
from marsam_generator import pictures, wire
from marsam_generator.attended import attended
from marsam_generator.bases import Bases
from marsam_generator.engine.engine import Denoising, Drawn, Progress
from marsam_generator.engine.work import Looked, Terms
from marsam_generator.engines.contract import Admitted, Commission, DrawingEngine
from marsam_generator.records import load_record, save
from marsam_generator.requests import Wanted, check

_SCOPE = "Generate"


@dataclass(eq=False, kw_only=True)
class Live:
    """A generation that is being made."""

    name: str
    wanted: Wanted
    create_time: datetime
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)


class Studio:
    """Draws for callers and keeps what it drew. Belongs to one event loop."""

    def __init__(
        self, *, blobs: Blobs, engine: DrawingEngine, bases: Bases, meter: Meter, clock: Clock, max_steps: int
    ) -> None:
        self.engine = engine
        self.max_steps = max_steps
        self._blobs = blobs
        self._bases = bases
        self._meter = meter
        self._clock = clock
        self._live: dict[str, Live] = {}

    def live(self, name: str) -> Live | None:
        """The generation called `name` while it is being made."""
        return self._live.get(name)

    async def draw(
        self, request: generator_pb2.GenerateRequest, *, deadline: float | None
    ) -> AsyncGenerator[generator_pb2.GenerateResponse, None]:
        """Answer a Generate call; `deadline` is a monotonic time. Closing this generator frees the device within a
        tick.

        The same request_id again repeats the pictures of the first call, or draws them when it did not finish: the
        same name, hence the same seed. Raises what is wrong with the request, `Exhausted`, `Deadline`, `Cancelled`.
        """
        began = time.monotonic()
        if (made := await self._made(request)) is not None:
            async for message in self._repeat(made):
                yield message
            return
        precision = (await self.engine.describe()).precision
        wanted = await check(
            request, blobs=self._blobs, bases=self._bases, precision=precision, max_steps=self.max_steps
        )
        name = await self._name(request, wanted)
        wanted = wanted if request.HasField("seed") else wanted.with_seed_of(name)
        outcome = "failed"
        try:
            with self._registered(name, wanted) as live:
                # Closed here and now when the caller leaves, so that the place is free only when the device is.
                drawing = self._draw(live, began=began, deadline=deadline)
                async with contextlib.aclosing(drawing) as messages:
                    async for message in messages:
                        yield message
            outcome = "done"
        except Deadline:
            outcome = "deadline"
            raise
        except MarsamError as error:
            outcome = "cancelled" if isinstance(error, Cancelled) else "failed"
            raise
        except (GeneratorExit, asyncio.CancelledError):
            outcome = "cancelled"
            raise
        finally:
            base = wanted.model.base or wanted.model.name
            self._meter.observe(metrics.GENERATION_SECONDS, time.monotonic() - began, base=base, outcome=outcome)

    async def _draw(
        self, live: Live, *, began: float, deadline: float | None
    ) -> AsyncGenerator[generator_pb2.GenerateResponse, None]:
        wanted = live.wanted
        steps = sum(picture.taken for picture in wanted.pictures)
        progress = generator_pb2.StepProgress(step=0, steps=steps)
        request_json = wire.request_json(wanted.resolved)
        fingerprint = ""
        drawn: list[DrawnPicture] = []
        decode_seconds, denoising = 0.0, Denoising(first=began, last=began)
        source = self.engine.draw(
            Commission(
                id=live.name,
                model=wanted.model,
                adapters=wanted.adapters,
                pictures=wanted.pictures,
                terms=Terms(
                    tenant=wanted.resolved.tenant or wanted.project,
                    priority=wanted.resolved.priority,
                    deadline=deadline,
                ),
                previews=wanted.previews,
            )
        )
        minded = attended(
            source, live.cancelled, begin_by=deadline, begins=lambda event: not isinstance(event, Admitted)
        )
        async with contextlib.aclosing(minded) as events:
            async for event in events:
                match event:
                    case Admitted():
                        fingerprint = event.fingerprint
                        yield generator_pb2.GenerateResponse(
                            accepted=generator_pb2.Accepted(
                                name=live.name,
                                resolved=wanted.resolved,
                                queue_position=event.ahead,
                                warnings=wanted.warnings,
                                wait_seconds=event.wait_seconds,
                                work_seconds=event.work_seconds,
                                fingerprint=fingerprint,
                            )
                        )
                        yield generator_pb2.GenerateResponse(progress=progress)
                    case Progress():
                        progress = generator_pb2.StepProgress(step=event.done, steps=event.of, rows=event.rows)
                        yield generator_pb2.GenerateResponse(progress=progress)
                    case Looked():
                        yield generator_pb2.GenerateResponse(
                            preview=generator_pb2.Preview(
                                index=event.index, step=event.step, steps=event.steps, data=event.data
                            )
                        )
                    case Drawn():
                        decode_seconds += event.decode_seconds
                        picture, data = await self._keep(wanted, event, request_json)
                        if not drawn:
                            base = wanted.model.base or wanted.model.name
                            waited = time.monotonic() - began
                            self._meter.observe(metrics.GENERATION_FIRST_IMAGE_SECONDS, waited, base=base)
                        drawn.append(picture)
                        for message in wire.image_messages(picture, data):
                            yield message
                    case Denoising():
                        denoising = event
                    case None:
                        yield generator_pb2.GenerateResponse(progress=progress)
        record = GenerationRecord(
            name=live.name,
            request=wire.request_fields(wanted.resolved),
            models={one.name: one.digest for one in (wanted.model, *(adapter for adapter, _ in wanted.adapters))},
            pictures=tuple(sorted(drawn, key=lambda picture: picture.index)),
            timings=Timings(
                queued=denoising.first - began,
                denoise=denoising.last - denoising.first,
                decode=decode_seconds,
                total=time.monotonic() - began,
                encode=denoising.encode_seconds,
            ),
            fingerprint=fingerprint,
            create_time=live.create_time,
        )
        await save(self._blobs, record)
        yield generator_pb2.GenerateResponse(done=wire.done(record))

    async def _made(self, request: generator_pb2.GenerateRequest) -> GenerationRecord | None:
        """What the request's id stands for, if that was finished. Asked first: its models may be gone by now."""
        project = parse(request.parent, "project", field="parent").project
        ulid = await recall(
            self._blobs, project, scope=_SCOPE, request_id=request.request_id, content=_content(request)
        )
        if ulid is None:
            return None
        try:
            return await load_record(self._blobs, format_name("generation", project, ulid))
        except Missing:
            return None

    async def _name(self, request: generator_pb2.GenerateRequest, wanted: Wanted) -> str:
        """The generation's name: a request id stands for the first call's name for ever."""
        ulid = new_ulid(self._clock)
        if request.request_id:
            ulid, _ = await remember(
                self._blobs,
                wanted.project,
                scope=_SCOPE,
                request_id=request.request_id,
                content=_content(request),
                result=ulid,
                clock=self._clock,
            )
        return format_name("generation", wanted.project, ulid)

    @contextlib.contextmanager
    def _registered(self, name: str, wanted: Wanted) -> Iterator[Live]:
        if name in self._live:
            raise Unavailable(
                f"{name} is being drawn for another call with this request_id",
                reason="GENERATION_IN_PROGRESS",
                resource=name,
                remedy="try again when it is done",
                retry_after_s=1.0,
            )
        self._live[name] = Live(name=name, wanted=wanted, create_time=self._clock.now())
        try:
            yield self._live[name]
        finally:
            del self._live[name]

    async def _keep(self, wanted: Wanted, event: Drawn, request_json: str) -> tuple[DrawnPicture, bytes]:
        picture = wanted.pictures[event.index]
        self._meter.observe(metrics.SPAN_SECONDS, event.decode_seconds, span=Span.GENERATE_DECODE.value)
        data = await asyncio.to_thread(pictures.encode, event.pixels, request_json, picture.seed)
        stored = await put_blob(self._blobs, wanted.project, data)
        file = FileRef(path=f"{event.index:03d}.png", digest=stored.digest, size=stored.size, media_type="image/png")
        kept = DrawnPicture(index=event.index, seed=picture.seed, width=picture.width, height=picture.height, file=file)
        return kept, data

    async def _repeat(self, record: GenerationRecord) -> AsyncIterator[generator_pb2.GenerateResponse]:
        yield generator_pb2.GenerateResponse(
            accepted=generator_pb2.Accepted(name=record.name, resolved=wire.generation(record).request)
        )
        async for part in self.read(record):
            yield (
                generator_pb2.GenerateResponse(image=part)
                if isinstance(part, generator_pb2.ImageHeader)
                else generator_pb2.GenerateResponse(chunk=part)
            )
        yield generator_pb2.GenerateResponse(done=wire.done(record))

    async def read(self, record: GenerationRecord) -> AsyncIterator[generator_pb2.ImageHeader | bytes]:
        """The pictures of a finished generation: each as a header, then its chunks."""
        project = parse(record.name, "generation").project
        for picture in record.pictures:
            yield wire.image_header(picture)
            async for chunk in stream_blob(self._blobs, project, picture.file.digest, chunk=wire.CHUNK):
                yield chunk


def _content(request: generator_pb2.GenerateRequest) -> bytes:
    """What is asked, as a request id is compared by."""
    return wire.without_id(request).SerializeToString(deterministic=True)
