"""What comes of a generation, message by message."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from marsam.api.generator.v1 import generator_pb2
from marsam.core.errors import Corrupt
from marsam.core.ids import digest_of


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """The request is in the queue; `request` has every default filled in."""

    name: str
    request: generator_pb2.GenerateRequest
    queue_position: int
    warnings: tuple[str, ...]
    wait_seconds: float = 0.0
    work_seconds: float = 0.0
    """Predicted: until the first step, and until the last picture; 0 where nothing was measured yet."""
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A denoising step is done; `rows` shared its forward. `eta_seconds` is 0 where nothing is predicted."""

    step: int
    steps: int
    rows: int = 0
    eta_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Preview:
    """A look (JPEG) at picture `index` after `step` of its `steps`."""

    index: int
    step: int
    steps: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Image:
    """A finished picture: `data` is the encoded file, its digest checked."""

    index: int
    seed: int
    width: int
    height: int
    media_type: str
    digest: str
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Done:
    """All pictures are out; how long it took, and what drew them."""

    queued_seconds: float
    denoise_seconds: float
    decode_seconds: float
    total_seconds: float
    fingerprint: str
    encode_seconds: float = 0.0


Event = Accepted | Progress | Preview | Image | Done


async def events_of(messages: AsyncIterator[Any]) -> AsyncIterator[Event]:
    """What the messages of Generate or ReadGeneration say; joins the chunks that follow each image header."""
    header: generator_pb2.ImageHeader | None = None
    data = bytearray()
    async for message in messages:
        if message.WhichOneof(message.DESCRIPTOR.oneofs[0].name) == "chunk":
            if header is None:
                raise Corrupt("the service sent a chunk before any image", reason="STREAM_MALFORMED")
            data += message.chunk
            if len(data) >= header.file.size_bytes:
                yield _image(header, bytes(data))
                header, data = None, bytearray()
            continue
        if header is not None:
            raise Corrupt(f"image {header.index} ended after {len(data)} bytes", reason="STREAM_MALFORMED")
        if message.HasField("image"):
            header = message.image
        elif message.HasField("accepted"):
            accepted = message.accepted
            yield Accepted(
                name=accepted.name,
                request=accepted.resolved,
                queue_position=accepted.queue_position,
                warnings=tuple(accepted.warnings),
                wait_seconds=accepted.wait_seconds,
                work_seconds=accepted.work_seconds,
                fingerprint=accepted.fingerprint,
            )
        elif message.HasField("progress"):
            told = message.progress
            yield Progress(step=told.step, steps=told.steps, rows=told.rows, eta_seconds=told.eta_seconds)
        elif message.HasField("preview"):
            look = message.preview
            yield Preview(index=look.index, step=look.step, steps=look.steps, data=look.data)
        elif message.HasField("done"):
            done = message.done
            yield Done(
                queued_seconds=done.queued_seconds,
                denoise_seconds=done.denoise_seconds,
                decode_seconds=done.decode_seconds,
                total_seconds=done.total_seconds,
                fingerprint=done.fingerprint,
                encode_seconds=done.encode_seconds,
            )
    if header is not None:
        raise Corrupt(f"image {header.index} ended after {len(data)} bytes", reason="STREAM_MALFORMED")


def _image(header: generator_pb2.ImageHeader, data: bytes) -> Image:
    digest = digest_of(data)
    if len(data) != header.file.size_bytes or (header.file.digest and digest != header.file.digest):
        raise Corrupt(f"image {header.index} arrived as {digest}, announced as {header.file.digest}")
    return Image(
        index=header.index,
        seed=header.seed,
        width=header.width,
        height=header.height,
        media_type=header.file.media_type,
        digest=digest,
        data=data,
    )
