"""What the generator says on the wire: records and requests as messages, pictures as a header and chunks."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from google.protobuf.json_format import MessageToDict, MessageToJson, ParseDict

from marsam.api.generator.v1 import generator_pb2
from marsam.catalog.generations import DrawnPicture, GenerationRecord
from marsam.imaging.inscription import Inscription
from marsam.rpc.wire.messages import file_message
from marsam_generator.engine.work import Looked
from marsam_generator.engines.contract import Admitted
from marsam_generator.requests import Wanted

_STATES = {
    "succeeded": generator_pb2.GENERATION_STATE_SUCCEEDED,
    "failed": generator_pb2.GENERATION_STATE_FAILED,
    "cancelled": generator_pb2.GENERATION_STATE_CANCELLED,
}

CHUNK = 256 * 1024
"""Bytes of one message of a picture."""


def without_id(request: generator_pb2.GenerateRequest) -> generator_pb2.GenerateRequest:
    """What is asked, whoever asks: the request without its request_id."""
    bare = generator_pb2.GenerateRequest()
    bare.CopyFrom(request)
    bare.ClearField("request_id")
    return bare


def request_json(resolved: generator_pb2.GenerateRequest) -> str:
    """What makes the pictures of a resolved request, as the JSON that goes into them; how they are waited for has no
    part in it, so that it changes no byte of them."""
    bare = without_id(resolved)
    for field in ("preview", "priority", "tenant", "detach"):
        bare.ClearField(field)
    return MessageToJson(bare, indent=None, preserving_proto_field_name=True, sort_keys=True, ensure_ascii=False)


def inscription(wanted: Wanted, index: int) -> Inscription:
    """What the picture at `index` says about itself."""
    return Inscription(request=request_json(wanted.resolved), seed=wanted.pictures[index].seed, models=wanted.digests)


def request_fields(resolved: generator_pb2.GenerateRequest) -> dict[str, Any]:
    """A resolved request as plain data, for its record."""
    return MessageToDict(resolved, preserving_proto_field_name=True)


def request_of(fields: Mapping[str, Any]) -> generator_pb2.GenerateRequest:
    """The way back from `request_fields`."""
    return ParseDict(dict(fields), generator_pb2.GenerateRequest())


def accepted(name: str, wanted: Wanted, admitted: Admitted) -> generator_pb2.Accepted:
    """A place in the queue on the wire."""
    return generator_pb2.Accepted(
        name=name,
        resolved=wanted.resolved,
        queue_position=admitted.ahead,
        warnings=wanted.warnings,
        wait_seconds=admitted.wait_seconds,
        work_seconds=admitted.work_seconds,
        fingerprint=admitted.fingerprint,
    )


def preview(look: Looked) -> generator_pb2.Preview:
    """A look on the wire."""
    return generator_pb2.Preview(index=look.index, step=look.step, steps=look.steps, data=look.data)


def unfinished(
    name: str,
    request: generator_pb2.GenerateRequest,
    create_time: datetime,
    progress: generator_pb2.StepProgress,
) -> generator_pb2.Generation:
    """A generation that is being made on the wire."""
    state = generator_pb2.GENERATION_STATE_RUNNING
    message = generator_pb2.Generation(name=name, request=request, state=state, progress=progress)
    message.create_time.FromDatetime(create_time)
    return message


def generation(record: GenerationRecord) -> generator_pb2.Generation:
    """A record on the wire."""
    message = generator_pb2.Generation(
        name=record.name,
        request=request_of(record.request),
        images=[image_header(picture) for picture in record.pictures],
        model_digests=dict(record.models),
        timings=done(record),
        state=_STATES[record.state],
        error_reason=record.reason,
        error_message=record.message,
    )
    message.create_time.FromDatetime(record.create_time)
    return message


def image_messages(picture: DrawnPicture, data: bytes) -> Iterator[generator_pb2.GenerateResponse]:
    """A picture's header, then its bytes in chunks."""
    yield generator_pb2.GenerateResponse(image=image_header(picture))
    for start in range(0, len(data), CHUNK):
        yield generator_pb2.GenerateResponse(chunk=data[start : start + CHUNK])


def image_header(picture: DrawnPicture) -> generator_pb2.ImageHeader:
    """A picture's header on the wire."""
    return generator_pb2.ImageHeader(
        index=picture.index,
        seed=picture.seed,
        width=picture.width,
        height=picture.height,
        file=file_message(picture.file),
    )


def done(record: GenerationRecord) -> generator_pb2.Done:
    """A record's timings on the wire."""
    return generator_pb2.Done(
        queued_seconds=record.timings.queued,
        denoise_seconds=record.timings.denoise,
        decode_seconds=record.timings.decode,
        total_seconds=record.timings.total,
        fingerprint=record.fingerprint,
        encode_seconds=record.timings.encode,
    )
