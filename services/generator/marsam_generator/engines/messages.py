"""What an engine in another process is asked and answers, as messages: both directions of every word of `contract`."""

import dataclasses
import time
from collections.abc import Mapping

import torch

from marsam.api.engine.v1 import engine_pb2
from marsam.catalog.models import Model
from marsam.core.errors import Internal, MarsamError
from marsam.core.records import dump, load
from marsam.diffusion.sampling import Picture
from marsam.rpc.wire import to_status
from marsam_generator.engine.coder import Start
from marsam_generator.engine.engine import Denoising, Drawn, Progress
from marsam_generator.engine.work import Looked, Previews, Terms
from marsam_generator.engines.contract import Admitted, Commission, Description, Residence, Said


def draw_request(commission: Commission) -> engine_pb2.EngineRequest:
    """A commission on its way out; its deadline, a time of this machine's clock, becomes the seconds that are left."""
    terms, previews, start = commission.terms, commission.previews, commission.start
    left = None if terms.deadline is None else terms.deadline - time.monotonic()
    return engine_pb2.EngineRequest(
        draw=engine_pb2.DrawRequest(
            id=commission.id,
            model=dump(commission.model),
            adapters=[engine_pb2.AdapterUse(model=dump(one), weight=weight) for one, weight in commission.adapters],
            pictures=[engine_pb2.Picture(**dataclasses.asdict(picture)) for picture in commission.pictures],
            terms=engine_pb2.Terms(tenant=terms.tenant, priority=terms.priority, exact=terms.exact, seconds_left=left),
            previews=None if previews is None else engine_pb2.Previews(**dataclasses.asdict(previews)),
            start=None if start is None else _start(start),
        )
    )


def commission_of(request: engine_pb2.DrawRequest) -> Commission:
    """The inverse of `draw_request`. Raises `Invalid` and `Corrupt` for what no generator sends."""
    terms = request.terms
    return Commission(
        id=request.id,
        model=model_of(request.model),
        adapters=[(model_of(one.model), one.weight) for one in request.adapters],
        pictures=[_picture_of(picture) for picture in request.pictures],
        terms=Terms(
            tenant=terms.tenant,
            priority=terms.priority,
            exact=terms.exact,
            deadline=time.monotonic() + terms.seconds_left if terms.HasField("seconds_left") else None,
        ),
        previews=_previews_of(request.previews) if request.HasField("previews") else None,
        start=_start_of(request.start) if request.HasField("start") else None,
    )


def _start(start: Start) -> engine_pb2.Start:
    height, width, _ = start.pixels.shape
    mask = b"" if start.mask is None else _bytes(start.mask)
    return engine_pb2.Start(width=width, height=height, rgb=_bytes(start.pixels), mask=mask)


def _start_of(start: engine_pb2.Start) -> Start:
    mask = _bytewise(start.mask, start.height, start.width) if start.mask else None
    return Start(pixels=_bytewise(start.rgb, start.height, start.width, 3), mask=mask)


def _bytes(pixels: torch.Tensor) -> bytes:
    return pixels.contiguous().numpy().tobytes()


def _bytewise(data: bytes, *shape: int) -> torch.Tensor:
    # A copy, because a tensor may be written to and a message's bytes may not.
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(shape)


def _previews_of(previews: engine_pb2.Previews) -> Previews:
    return Previews(every_steps=previews.every_steps, max_side=previews.max_side)


def _picture_of(picture: engine_pb2.Picture) -> Picture:
    given = {one.name: getattr(picture, one.name) for one in dataclasses.fields(Picture)}
    return Picture(**{**given, "embedded": picture.embedded if picture.HasField("embedded") else None})


def model_of(manifest: bytes) -> Model:
    """A model from its manifest. Raises `Corrupt`."""
    return load(Model, manifest, what="a model's manifest")


def event(said: Said) -> engine_pb2.EngineEvent:
    """A word of a drawing."""
    match said:
        case Admitted():
            return engine_pb2.EngineEvent(admitted=engine_pb2.Admitted(**dataclasses.asdict(said)))
        case Progress():
            return engine_pb2.EngineEvent(progress=engine_pb2.Progress(**dataclasses.asdict(said)))
        case Looked():
            return engine_pb2.EngineEvent(looked=engine_pb2.Looked(**dataclasses.asdict(said)))
        case Drawn():
            height, width, _ = said.pixels.shape
            drawn = engine_pb2.Drawn(
                index=said.index,
                width=width,
                height=height,
                rgb=_bytes(said.pixels),
                decode_seconds=said.decode_seconds,
            )
            return engine_pb2.EngineEvent(drawn=drawn)
        case Denoising():
            now = time.monotonic()
            ages = {"first_age": now - said.first, "last_age": now - said.last}
            denoising = engine_pb2.Denoising(**ages, encode_seconds=said.encode_seconds)
            return engine_pb2.EngineEvent(denoising=denoising)


def said_of(event: engine_pb2.EngineEvent) -> Said:
    """The inverse of `event`. Raises `Internal` for a word that is none of a drawing's."""
    match event.WhichOneof("event"):
        case "admitted":
            told = event.admitted
            return Admitted(
                ahead=told.ahead,
                wait_seconds=told.wait_seconds,
                work_seconds=told.work_seconds,
                fingerprint=told.fingerprint,
            )
        case "progress":
            step = event.progress
            return Progress(done=step.done, of=step.of, rows=step.rows, eta=step.eta)
        case "looked":
            look = event.looked
            return Looked(index=look.index, step=look.step, steps=look.steps, data=look.data)
        case "drawn":
            drawn = event.drawn
            pixels = _bytewise(drawn.rgb, drawn.height, drawn.width, 3)
            return Drawn(index=drawn.index, pixels=pixels, decode_seconds=drawn.decode_seconds)
        case "denoising":
            ages, now = event.denoising, time.monotonic()
            return Denoising(first=now - ages.first_age, last=now - ages.last_age, encode_seconds=ages.encode_seconds)
        case other:
            raise Internal(f"an engine that draws said '{other}'")


def residents_event(residents: Mapping[str, Residence]) -> engine_pb2.EngineEvent:
    """What is in memory."""
    held = {
        digest: engine_pb2.Residence(size_bytes=one.size, uses=one.uses, pinned=one.pinned)
        for digest, one in residents.items()
    }
    return engine_pb2.EngineEvent(residents=engine_pb2.Residents(residents=held))


def residents_of(message: engine_pb2.Residents) -> Mapping[str, Residence]:
    """The inverse of `residents_event`."""
    return {
        digest: Residence(size=one.size_bytes, uses=one.uses, pinned=one.pinned)
        for digest, one in message.residents.items()
    }


def description_event(description: Description) -> engine_pb2.EngineEvent:
    """What draws."""
    return engine_pb2.EngineEvent(description=engine_pb2.Description(**dataclasses.asdict(description)))


def description_of(message: engine_pb2.Description) -> Description:
    """The inverse of `description_event`."""
    return Description(
        engine=message.engine,
        device=message.device,
        precision=message.precision,
        fingerprint=message.fingerprint,
        quantisation=message.quantisation,
    )


def failed_event(error: MarsamError) -> engine_pb2.EngineEvent:
    """Why nothing more comes, as a call would end with it."""
    return engine_pb2.EngineEvent(failed=engine_pb2.Failed(status=to_status(error).SerializeToString()))
