"""Generation: pictures from a base and adapters, as they come."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import grpc.aio

from marsam.api.generator.v1 import generator_pb2, generator_pb2_grpc
from marsam.client.connection import SLOW_SECONDS, stream, unary, upload
from marsam.client.drawing import Accepted, Event, Image, events_of
from marsam.client.files import CHUNK_BYTES, read_whole
from marsam.client.naming import qualify
from marsam.client.paging import PAGE, every
from marsam.core.errors import Invalid, Unavailable, did_you_mean
from marsam.core.ids import new_ulid

# Loading a base is part of the first call.
_IDLE_SECONDS = 180.0

_PATIENCE_SECONDS = 60.0
"""How long a detached drawing is looked for when the service does not answer."""

FORMATS = ("png", "jpeg", "webp")


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
        init_image: str = "",
        mask_image: str = "",
        strength: float | None = None,
        format: str = "",
        quality: int | None = None,
        preview_every: int | None = None,
        preview_side: int | None = None,
        exact: bool = False,
        priority: int = 0,
        tenant: str = "",
        detach: bool = False,
        request_id: str | None = None,
        seconds: float | None = 3600.0,
    ) -> AsyncIterator[Event]:
        """Accepted, then progress, previews and images as they are done, then Done. Leaving the loop cancels the work,
        unless it is `detach`ed: then it goes on, a lost call is taken up again here, and `images` has the pictures.

        None and "" mean the model's own default; image i of `count` is drawn with `seed + i`. `init_image` and
        `mask_image` are names that `upload` gave; `format` is one of `FORMATS`; `preview_every` asks for a look at each
        picture after every so many steps; `exact` for the same bits under any load.
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
            init_image=init_image,
            mask_image=mask_image,
            strength=strength,
            format=_format(format),
            quality=quality,
            preview=_preview(preview_every, preview_side),
            reproducibility="REPRODUCIBILITY_EXACT" if exact else None,
            priority=priority,
            tenant=tenant,
            detach=detach,
            request_id=request_id or new_ulid(),
        )
        following = self._followed(request) if detach else self._events(request, seconds=seconds)
        async for event in following:
            yield event

    def _events(self, request: generator_pb2.GenerateRequest, *, seconds: float | None) -> AsyncIterator[Event]:
        return events_of(stream(self._stub.Generate, request, seconds=seconds, idle=_IDLE_SECONDS))

    async def _followed(self, request: generator_pb2.GenerateRequest) -> AsyncIterator[Event]:
        """A detached drawing to its end, through lost calls; what was told already is not told again."""
        accepted, had = False, set[int]()
        contact = time.monotonic()
        while True:
            try:
                async for event in self._events(request, seconds=None):
                    contact = time.monotonic()
                    if isinstance(event, Accepted):
                        told, accepted = accepted, True
                    elif isinstance(event, Image):
                        told = event.index in had
                        had.add(event.index)
                    else:
                        told = False
                    if not told:
                        yield event
                return
            except Unavailable as error:
                if error.reason == "GENERATION_IN_PROGRESS":  # by another replica, which is well
                    contact = time.monotonic()
                if time.monotonic() - contact > _PATIENCE_SECONDS:
                    raise
                await asyncio.sleep(error.retry_after_s or 1.0)

    async def upload(self, picture: Path) -> str:
        """Sends a picture to start from, or a mask; gives its name. The same bytes have the same name."""
        data = await asyncio.to_thread(read_whole, picture, field="picture")

        async def parts() -> AsyncIterator[generator_pb2.UploadImageRequest]:
            header = generator_pb2.UploadImageHeader(parent=f"projects/{self._project}", size_bytes=len(data))
            yield generator_pb2.UploadImageRequest(header=header)
            for start in range(0, len(data), CHUNK_BYTES):
                yield generator_pb2.UploadImageRequest(chunk=data[start : start + CHUNK_BYTES])

        return (await upload(self._stub.UploadImage, parts(), seconds=SLOW_SECONDS)).image

    async def images(self, generation: str) -> Sequence[Image]:
        """The pictures of a generation that is done, again. Raises Precondition for one that ended without."""
        name = qualify("generation", generation, project=self._project, field="generation")
        messages = stream(self._stub.ReadGeneration, generator_pb2.ReadGenerationRequest(name=name))
        return [event async for event in events_of(messages) if isinstance(event, Image)]

    async def get(self, generation: str) -> generator_pb2.Generation:
        """What a generation was asked for and made, or how far it is. Raises Missing."""
        name = qualify("generation", generation, project=self._project, field="generation")
        return (await unary(self._stub.GetGeneration, generator_pb2.GetGenerationRequest(name=name))).generation

    async def list(self) -> Sequence[generator_pb2.Generation]:
        """The project's generations that ended, newest first."""
        request = generator_pb2.ListGenerationsRequest(parent=f"projects/{self._project}", page_size=PAGE)
        return await every(self._stub.ListGenerations, request, lambda answer: answer.generations)

    async def with_picture(self, digest: str, *, most: int) -> generator_pb2.Generation | None:
        """The generation that made the file with this digest, among the newest `most` of the project."""
        request = generator_pb2.ListGenerationsRequest(parent=f"projects/{self._project}", page_size=PAGE)
        seen = 0
        while seen < most:
            answer = await unary(self._stub.ListGenerations, request)
            for one in answer.generations:
                if any(image.file.digest == digest for image in one.images):
                    return one
            seen += PAGE
            request.page_token = answer.next_page_token
            if not request.page_token:
                break
        return None

    async def cancel(self, generation: str) -> None:
        """Stops a generation that another call started, whichever replica draws it."""
        name = qualify("generation", generation, project=self._project, field="generation")
        await unary(self._stub.CancelGeneration, generator_pb2.CancelGenerationRequest(name=name))

    async def capabilities(self) -> generator_pb2.ListCapabilitiesResponse:
        """Schedulers, families, limits and the device of this generator."""
        return await unary(self._stub.ListCapabilities, generator_pb2.ListCapabilitiesRequest())

    async def adapters(self) -> Sequence[generator_pb2.AdapterState]:
        """The adapters this generator has met."""
        request = generator_pb2.ListAdaptersRequest(parent=f"projects/{self._project}", page_size=PAGE)
        return await every(self._stub.ListAdapters, request, lambda answer: answer.adapters)

    async def load(self, model: str, *, pin: bool = False) -> generator_pb2.AdapterState:
        """Brings a model into memory before it is asked for; `pin` keeps it there until it is evicted."""
        request = generator_pb2.LoadAdapterRequest(model=self._name(model), pin=pin)
        return (await unary(self._stub.LoadAdapter, request, seconds=SLOW_SECONDS)).adapter

    async def evict(self, model: str) -> None:
        """Frees a model's memory."""
        await unary(self._stub.EvictAdapter, generator_pb2.EvictAdapterRequest(model=self._name(model)))

    def _name(self, model: str) -> str:
        return qualify("model", model, project=self._project, field="model")


def _format(name: str) -> str | None:
    if name and name not in FORMATS:
        raise Invalid(
            f"pictures come as {', '.join(FORMATS)}, not as '{name}'",
            field="format",
            reason="FORMAT_UNKNOWN",
            remedy=did_you_mean(name, FORMATS),
        )
    return f"FORMAT_{name.upper()}" if name else None


def _preview(every: int | None, side: int | None) -> generator_pb2.PreviewSpec | None:
    return None if every is None else generator_pb2.PreviewSpec(every_steps=every, max_side=side)
