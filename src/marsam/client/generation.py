"""Generation: pictures from a base and adapters, as they come."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc.aio

from marsam.api.generator.v1 import generator_pb2, generator_pb2_grpc
from marsam.client.connection import SLOW_SECONDS, stream, unary
from marsam.client.naming import qualify
from marsam.client.paging import PAGE, every
from marsam.core.errors import Corrupt
from marsam.core.ids import digest_of, new_ulid

# Loading a base is part of the first call.
_IDLE_SECONDS = 180.0


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """The request is in the queue; `request` has every default filled in."""

    name: str
    request: generator_pb2.GenerateRequest
    queue_position: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A denoising step is done."""

    step: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class Image:
    """A finished picture: `data` is the encoded file (PNG), its digest checked."""

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


Event = Accepted | Progress | Image | Done


class Generation:
    """Model names may be short, aliases (`@prod`) or full; adapters are `{name: weight}`."""

    def __init__(self, channel: grpc.aio.Channel, *, project: str) -> None:
        self._stub = generator_pb2_grpc.GeneratorServiceStub(channel)
        self._project = project

    async def generate(
        self,
        prompt: str,
        *,
        model: str,
        adapters: Mapping[str, float] | None = None,
        negative_prompt: str = "",
        seed: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        scheduler: str = "",
        width: int | None = None,
        height: int | None = None,
        count: int = 1,
        request_id: str | None = None,
        seconds: float | None = 3600.0,
    ) -> AsyncIterator[Event]:
        """Accepted, then progress and images as they are done, then Done. Leaving the loop cancels the work.

        None and "" mean the model's own default; image i of `count` is drawn with `seed + i`.
        """
        request = generator_pb2.GenerateRequest(
            parent=f"projects/{self._project}",
            model=self._name(model),
            adapters=[
                generator_pb2.AdapterUse(model=self._name(name), weight=weight)
                for name, weight in (adapters or {}).items()
            ],
            prompt=prompt,
            negative_prompt=negative_prompt,
            seed=seed,
            steps=steps,
            guidance=guidance,
            scheduler=scheduler,
            width=width,
            height=height,
            count=count,
            request_id=request_id or new_ulid(),
        )
        messages = stream(self._stub.Generate, request, seconds=seconds, idle=_IDLE_SECONDS)
        async for event in _events(messages):
            yield event

    async def images(self, generation: str) -> Sequence[Image]:
        """The pictures of a finished generation, again."""
        name = qualify("generation", generation, project=self._project, field="generation")
        messages = stream(self._stub.ReadGeneration, generator_pb2.ReadGenerationRequest(name=name))
        return [event async for event in _events(messages) if isinstance(event, Image)]

    async def get(self, generation: str) -> generator_pb2.Generation:
        """What a generation was asked for and made. Raises Missing."""
        name = qualify("generation", generation, project=self._project, field="generation")
        return (await unary(self._stub.GetGeneration, generator_pb2.GetGenerationRequest(name=name))).generation

    async def list(self) -> Sequence[generator_pb2.Generation]:
        """The project's generations."""
        request = generator_pb2.ListGenerationsRequest(parent=f"projects/{self._project}", page_size=PAGE)
        return await every(self._stub.ListGenerations, request, lambda answer: answer.generations)

    async def cancel(self, generation: str) -> None:
        """Stops a generation that another call started."""
        name = qualify("generation", generation, project=self._project, field="generation")
        await unary(self._stub.CancelGeneration, generator_pb2.CancelGenerationRequest(name=name))

    async def capabilities(self) -> generator_pb2.ListCapabilitiesResponse:
        """Schedulers, families, limits and the device of this generator."""
        return await unary(self._stub.ListCapabilities, generator_pb2.ListCapabilitiesRequest())

    async def adapters(self) -> Sequence[generator_pb2.AdapterState]:
        """The adapters this generator has met."""
        request = generator_pb2.ListAdaptersRequest(parent=f"projects/{self._project}", page_size=PAGE)
        return await every(self._stub.ListAdapters, request, lambda answer: answer.adapters)

    async def load(self, model: str) -> generator_pb2.AdapterState:
        """Brings a model into memory before it is asked for."""
        request = generator_pb2.LoadAdapterRequest(model=self._name(model))
        return (await unary(self._stub.LoadAdapter, request, seconds=SLOW_SECONDS)).adapter

    async def evict(self, model: str) -> None:
        """Frees a model's memory."""
        await unary(self._stub.EvictAdapter, generator_pb2.EvictAdapterRequest(model=self._name(model)))

    def _name(self, model: str) -> str:
        return qualify("model", model, project=self._project, field="model")


async def _events(messages: AsyncIterator[Any]) -> AsyncIterator[Event]:
    """Joins the chunks that follow each image header."""
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
            )
        elif message.HasField("progress"):
            yield Progress(step=message.progress.step, steps=message.progress.steps)
        elif message.HasField("done"):
            done = message.done
            yield Done(
                queued_seconds=done.queued_seconds,
                denoise_seconds=done.denoise_seconds,
                decode_seconds=done.decode_seconds,
                total_seconds=done.total_seconds,
                fingerprint=done.fingerprint,
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
