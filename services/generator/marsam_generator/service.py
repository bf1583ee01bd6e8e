"""The gRPC edge of GeneratorService: messages in, messages out, nothing decided here."""

import contextlib
import time
from collections.abc import AsyncIterator, Mapping

import grpc.aio

from marsam.api.generator.v1 import generator_pb2, generator_pb2_grpc
from marsam.catalog.aliases import resolve as resolve_model
from marsam.catalog.models import Model
from marsam.catalog.repository import list_models, load_generation, load_model
from marsam.core.errors import Invalid, Missing
from marsam.core.names import parse
from marsam.diffusion import registry
from marsam.diffusion.schedulers import SCHEDULERS
from marsam.rpc.server.paging import page
from marsam.store.blobs import Blobs
from marsam_generator import wire
from marsam_generator.engines.contract import Residence
from marsam_generator.records import list_names
from marsam_generator.requests import MAX_COUNT
from marsam_generator.studio import Studio

SERVICE = "marsam.api.generator.v1.GeneratorService"


class GeneratorServicer(generator_pb2_grpc.GeneratorServiceServicer):
    """See the .proto for what each method promises."""

    def __init__(self, *, studio: Studio, blobs: Blobs) -> None:
        self._studio = studio
        self._blobs = blobs

    async def Generate(
        self, request: generator_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[generator_pb2.GenerateResponse]:
        remaining = context.time_remaining()
        deadline = None if remaining is None else time.monotonic() + remaining
        async with contextlib.aclosing(self._studio.draw(request, deadline=deadline)) as messages:
            async for message in messages:
                yield message

    async def GetGeneration(
        self, request: generator_pb2.GetGenerationRequest, context: grpc.aio.ServicerContext
    ) -> generator_pb2.GetGenerationResponse:
        return generator_pb2.GetGenerationResponse(generation=await self._studio.find(request.name))

    async def ListGenerations(
        self, request: generator_pb2.ListGenerationsRequest, context: grpc.aio.ServicerContext
    ) -> generator_pb2.ListGenerationsResponse:
        project = parse(request.parent, "project", field="parent").project
        asked = page(size=request.page_size, token=request.page_token, question=("ListGenerations", request.parent))
        names, token = asked.cut(await list_names(self._blobs, project), descending=True)
        found = {}
        for name in names:
            with contextlib.suppress(Missing):  # taken down meanwhile
                found[name] = wire.generation(await load_generation(self._blobs, name))
        fitting, token = asked.fit(list(found.values()), list(found), token)
        return generator_pb2.ListGenerationsResponse(generations=fitting, next_page_token=token)

    async def CancelGeneration(
        self, request: generator_pb2.CancelGenerationRequest, context: grpc.aio.ServicerContext
    ) -> generator_pb2.CancelGenerationResponse:
        await self._studio.cancel(request.name)
        return generator_pb2.CancelGenerationResponse()

    async def ReadGeneration(
        self, request: generator_pb2.ReadGenerationRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[generator_pb2.ReadGenerationResponse]:
        async for part in self._studio.read(await load_generation(self._blobs, request.name)):
            if isinstance(part, bytes):
                yield generator_pb2.ReadGenerationResponse(chunk=part)
            else:
                yield generator_pb2.ReadGenerationResponse(image=part)

    async def ListAdapters(
        self, request: generator_pb2.ListAdaptersRequest, context: grpc.aio.ServicerContext
    ) -> generator_pb2.ListAdaptersResponse:
        project = parse(request.parent, "project", field="parent").project
        models = [model for model in await list_models(self._blobs, project) if model.kind in ("adapter", "full")]
        asked = page(size=request.page_size, token=request.page_token, question=("ListAdapters", request.parent))
        residents = await self._studio.engine.residents()
        states, token = asked.of(models, lambda model: _state(model, residents), ids=[model.name for model in models])
        return generator_pb2.ListAdaptersResponse(adapters=states, next_page_token=token)

    async def LoadAdapter(
        self, request: generator_pb2.LoadAdapterRequest, context: grpc.aio.ServicerContext
    ) -> generator_pb2.LoadAdapterResponse:
        model = await resolve_model(self._blobs, request.model)
        if model.kind == "judge":
            raise Invalid(f"{model.name} is a judge, which draws nothing", field="model", reason="MODEL_KIND")
        adapter = model.kind == "adapter" and model.base is not None
        base = await load_model(self._blobs, str(model.base)) if adapter else None
        await self._studio.engine.load(model, base, pin=request.pin)
        return generator_pb2.LoadAdapterResponse(adapter=_state(model, await self._studio.engine.residents()))

    async def EvictAdapter(
        self, request: generator_pb2.EvictAdapterRequest, context: grpc.aio.ServicerContext
    ) -> generator_pb2.EvictAdapterResponse:
        await self._studio.engine.evict(await resolve_model(self._blobs, request.model))
        return generator_pb2.EvictAdapterResponse()

    async def ListCapabilities(
        self, request: generator_pb2.ListCapabilitiesRequest, context: grpc.aio.ServicerContext
    ) -> generator_pb2.ListCapabilitiesResponse:
        found = await self._studio.engine.describe()
        return generator_pb2.ListCapabilitiesResponse(
            schedulers=SCHEDULERS,
            families=registry.families(),
            max_steps=self._studio.max_steps,
            max_count=MAX_COUNT,
            device=found.device,
            fingerprint=found.fingerprint,
            engine=found.engine,
            precision=found.precision,
        )

    async def UploadImage(
        self, request_iterator: AsyncIterator[generator_pb2.UploadImageRequest], context: grpc.aio.ServicerContext
    ) -> generator_pb2.UploadImageResponse:
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("part") != "header":
            raise Invalid("an upload begins with its header", field="header", reason="STREAM_ORDER")
        name = await self._studio.images.keep(first.header.parent, first.header.size_bytes, _chunks(request_iterator))
        return generator_pb2.UploadImageResponse(image=name)


async def _chunks(requests: AsyncIterator[generator_pb2.UploadImageRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise Invalid("an upload has one header", field="header", reason="STREAM_ORDER")
        yield request.chunk


def _state(model: Model, residents: Mapping[str, Residence]) -> generator_pb2.AdapterState:
    found = residents.get(model.digest)
    return generator_pb2.AdapterState(
        model=model.name,
        base=model.base or "",
        resident=found is not None,
        size_bytes=found.size if found else model.size,
        uses=found.uses if found else 0,
        pinned=found is not None and found.pinned,
    )
