"""What may be drawn with, and what was drawn: models, adapters, generations and their pictures, over HTTP."""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from marsam.api.generator.v1 import generator_pb2
from marsam.catalog.models import Model
from marsam.catalog.repository import list_models, load_generation
from marsam.client.naming import qualify, short
from marsam.core.errors import Invalid, Missing
from marsam.core.names import parse
from marsam.diffusion.schedulers import schedulers
from marsam.rpc.server.auth import refuse_unseen
from marsam.rpc.server.lifecycle import Lifecycle
from marsam.store.blobs import Blobs
from marsam.store.content import read_blob
from marsam_generator import sizes
from marsam_generator.bases import Bases
from marsam_generator.requests import drawable, draws
from marsam_generator.rest import saying
from marsam_generator.rest.drawing import project_of
from marsam_generator.service import GeneratorServicer

_NO_CONTEXT: Any = None
"""Of these calls none asks its context anything."""


class Looking:
    """Answers GETs, through the servicer where gRPC has the same question."""

    def __init__(self, *, servicer: GeneratorServicer, blobs: Blobs, bases: Bases, lifecycle: Lifecycle) -> None:
        self._servicer = servicer
        self._blobs = blobs
        self._bases = bases
        self._lifecycle = lifecycle

    async def models(self, request: Request) -> Response:
        """What draws by itself, as OpenAI lists models: bases and fully tuned ones."""
        project = _seen(f"projects/{project_of(request)}")
        found = [model for model in await list_models(self._blobs, project) if draws(model)]
        return JSONResponse({"object": "list", "data": [_model(model) for model in found]})

    async def model(self, request: Request) -> Response:
        """One of them, with what it draws when nothing else is said."""
        name = qualify("model", request.path_params["id"], project=project_of(request))
        _seen(name)
        model = await drawable(self._blobs, name)
        facts = await self._bases.facts(model)
        low, high = sizes.bounds(facts)
        defaults = {
            "steps": facts.default_steps,
            "guidance": facts.default_guidance,
            "side": facts.default_side,
            "multiple": facts.side_multiple,
            "smallest": low,
            "largest": high,
            "schedulers": list(schedulers(facts)),
        }
        return JSONResponse(_model(model) | {"defaults": defaults})

    async def adapters(self, request: Request) -> Response:
        """Adapters and fully tuned models: what base they are of, and which are in memory."""
        listed = generator_pb2.ListAdaptersRequest(
            parent=f"projects/{project_of(request)}", page_size=_limit(request), page_token=_after(request)
        )
        refuse_unseen(listed)
        answer = await self._servicer.ListAdapters(listed, _NO_CONTEXT)
        kinds = {model.name: model for model in await list_models(self._blobs, parse(listed.parent, "project").project)}
        data = []
        for state in answer.adapters:
            fields = saying.plain(state)
            model = kinds.get(state.model)
            fields |= {"id": short(state.model), "object": "adapter", "base_id": short(state.base)}
            fields |= {"kind": model.kind if model else "", "display_name": model.display_name if model else ""}
            data.append(fields)
        return _page(data, answer.next_page_token)

    async def generations(self, request: Request) -> Response:
        """What was drawn, newest first."""
        listed = generator_pb2.ListGenerationsRequest(
            parent=f"projects/{project_of(request)}", page_size=_limit(request), page_token=_after(request)
        )
        refuse_unseen(listed)
        answer = await self._servicer.ListGenerations(listed, _NO_CONTEXT)
        return _page([_generation(one) for one in answer.generations], answer.next_page_token)

    async def generation(self, request: Request) -> Response:
        """One of them, whoever makes or made it."""
        asked = generator_pb2.GetGenerationRequest(name=_name(request))
        answer = await self._servicer.GetGeneration(asked, _NO_CONTEXT)
        return JSONResponse(_generation(answer.generation))

    async def cancel(self, request: Request) -> Response:
        """End one; it stays what it is where it ended already."""
        await self._servicer.CancelGeneration(generator_pb2.CancelGenerationRequest(name=_name(request)), _NO_CONTEXT)
        return JSONResponse({})

    async def picture(self, request: Request) -> Response:
        """The bytes of a picture, as they were drawn."""
        name, index = _name(request), request.path_params["index"]
        record = await load_generation(self._blobs, name)
        for picture in record.pictures:
            if picture.index == index:
                project = parse(name, "generation").project
                data = await read_blob(self._blobs, project, picture.file.digest)
                headers = {
                    "cache-control": "private, max-age=31536000, immutable",
                    "x-content-type-options": "nosniff",
                    "content-security-policy": "default-src 'none'",
                }
                return Response(data, media_type=picture.file.media_type, headers=headers)
        raise Missing(f"{name} has no picture {index}", reason="PICTURE_NOT_FOUND", resource=name)

    async def capabilities(self, request: Request) -> Response:
        """What this generator can do, and the port of its gRPC side."""
        answer = await self._servicer.ListCapabilities(generator_pb2.ListCapabilitiesRequest(), _NO_CONTEXT)
        address = self._lifecycle.address
        grpc_side = {"port": int(address.rpartition(":")[2]), "tls": address.startswith("https://")}
        return JSONResponse(saying.plain(answer) | {"grpc": grpc_side})


def _seen(name: str) -> str:
    """The project of a name that the caller may see. Raises `Missing` as gRPC does."""
    refuse_unseen(generator_pb2.GetGenerationRequest(name=name))
    return name.split("/")[1]


def _name(request: Request) -> str:
    name = qualify("generation", request.path_params["id"], project=project_of(request))
    _seen(name)
    return name


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", "0")
    if not text.isdecimal() or len(text) > 6:
        raise Invalid(f"limit must be a number, got '{text[:20]}'", field="limit", reason="PARAMETER_TYPE")
    return int(text)


def _after(request: Request) -> str:
    return request.query_params.get("after", "")


def _page(data: Sequence[dict[str, Any]], token: str) -> Response:
    return JSONResponse({"object": "list", "data": list(data), "has_more": bool(token), "after": token})


def _model(model: Model) -> dict[str, Any]:
    return {
        "id": short(model.name),
        "object": "model",
        "created": int(model.create_time.timestamp()),
        "owned_by": parse(model.name, "model").project,
        "name": model.name,
        "kind": model.kind,
        "family": model.family,
        "base": model.base or "",
        "base_id": short(model.base) if model.base else "",
        "digest": model.digest,
        "display_name": model.display_name,
    }


def _generation(generation: generator_pb2.Generation) -> dict[str, Any]:
    """The message, and where its pictures are. A picture's place is its index."""
    fields = saying.plain(generation)
    id_ = short(generation.name)
    for image in fields["images"]:
        image["url"] = f"/v1/generations/{id_}/images/{image['index']}"
    return {"id": id_, "object": "generation", **fields}
