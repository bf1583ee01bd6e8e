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
from marsam_generator.engine.admission import Admission, Place
from marsam_generator.engine.engine import Denoising, Drawing, Drawn, Progress
from marsam_generator.models import Library
from marsam_generator.records import load_record, save
from marsam_generator.requests import Wanted, check

_QUEUE = "pictures"
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
        self, *, blobs: Blobs, library: Library, admission: Admission, meter: Meter, clock: Clock, max_steps: int
    ) -> None:
        self.library = library
        self.max_steps = max_steps
        self._blobs = blobs
        self._admission = admission
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
        wanted = await check(request, blobs=self._blobs, library=self.library, max_steps=self.max_steps)
        name = await self._name(request, wanted)
        wanted = wanted if request.HasField("seed") else wanted.with_seed_of(name)
        outcome = "failed"
        try:
            with (
                self._admission.enter(pictures=len(wanted.pictures), row_steps=wanted.row_steps) as place,
                self._registered(name, wanted) as live,
            ):
                self._report_depth()
                # Closed here and now when the caller leaves, so that the place is free only when the device is.
                drawing = self._draw(live, place, began=began, deadline=deadline)
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
            self._report_depth()
            base = wanted.model.base or wanted.model.name
            self._meter.observe(metrics.GENERATION_SECONDS, time.monotonic() - began, base=base, outcome=outcome)

    async def _draw(
        self, live: Live, place: Place, *, began: float, deadline: float | None
    ) -> AsyncGenerator[generator_pb2.GenerateResponse, None]:
        wanted = live.wanted
        steps = sum(picture.steps for picture in wanted.pictures)
        progress = generator_pb2.StepProgress(step=0, steps=steps)
        request_json = wire.request_json(wanted.resolved)
        yield generator_pb2.GenerateResponse(
            accepted=generator_pb2.Accepted(
                name=live.name, resolved=wanted.resolved, queue_position=place.ahead, warnings=wanted.warnings
            )
        )
        yield generator_pb2.GenerateResponse(progress=progress)
        drawn: list[DrawnPicture] = []
        decode_seconds, denoising = 0.0, Denoising(first=began, last=began)
        source = self._events(live, deadline)
        async with contextlib.aclosing(attended(source, live.cancelled, begin_by=deadline)) as events:
            async for event in events:
                match event:
                    case Progress():
                        self._began(place, began)
                        place.row_steps = wanted.row_steps * (1 - event.done / event.of)
                        progress = generator_pb2.StepProgress(step=event.done, steps=event.of)
                        yield generator_pb2.GenerateResponse(progress=progress)
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
            ),
            fingerprint=self.library.hardware.fingerprint,
            create_time=live.create_time,
        )
        await save(self._blobs, record)
        yield generator_pb2.GenerateResponse(done=wire.done(record))

    async def _events(self, live: Live, deadline: float | None) -> AsyncGenerator[Progress | Drawn | Denoising, None]:
        """What comes of a drawing, once its models are in memory; they stay there until this generator is closed."""
        wanted = live.wanted
        async with self.library.lease(wanted.model, [adapter for adapter, _ in wanted.adapters]) as lease:
            drawing = Drawing(
                id=live.name,
                pictures=wanted.pictures,
                denoiser=lease.denoiser,
                adapters=dict(zip(lease.adapters, (weight for _, weight in wanted.adapters), strict=True)),
                deadline=deadline,
            )
            async with contextlib.aclosing(lease.engine.draw(drawing)) as events:
                async for event in events:
                    yield event

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

    def _began(self, place: Place, began: float) -> None:
        if not place.begun:
            place.begun = True
            self._meter.observe(metrics.QUEUE_WAIT, time.monotonic() - began, queue=_QUEUE)
            self._report_depth()

    def _report_depth(self) -> None:
        self._meter.set(metrics.QUEUE_DEPTH, self._admission.waiting, queue=_QUEUE)

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
