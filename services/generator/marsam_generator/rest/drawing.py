"""`POST /v1/images/generations`: drawn by the same studio as gRPC's Generate, answered whole or as events."""

import base64
import json
import math
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from marsam.api.generator.v1 import generator_pb2
from marsam.core.errors import Internal, Invalid, MarsamError
from marsam.core.ids import check_slug
from marsam.rpc.server.auth import refuse_unseen
from marsam.rpc.server.validation import Validation
from marsam.store.blobs import Blobs
from marsam_generator.bases import Bases
from marsam_generator.requests import drawable
from marsam_generator.rest import saying
from marsam_generator.rest.asking import Asked, read
from marsam_generator.rest.waiting import EventStream, while_there
from marsam_generator.studio import Studio

LARGEST_BODY = 1 << 17
"""Bytes: both prompts at their longest, every character escaped, take 98 KiB. Reading a body stops everybody."""
PROJECT = "openai-project"
"""Header with the project; `default` without."""

Messages = AsyncGenerator[generator_pb2.GenerateResponse, None]


def project_of(request: Request) -> str:
    """The project that a request is for. Raises `Invalid`."""
    return check_slug(request.headers.get(PROJECT, "default"), field="OpenAI-Project")


class Drawing:
    """Draws for callers over HTTP."""

    def __init__(self, *, studio: Studio, blobs: Blobs, bases: Bases) -> None:
        self._studio = studio
        self._blobs = blobs
        self._bases = bases
        self._validation = Validation()

    async def answer(self, request: Request) -> Response:
        """One call. Raises what is wrong with it before anything was sent."""
        asked = read(await _body(request), project=project_of(request))
        self._validation.check(asked.request)
        refuse_unseen(asked.request)
        return await while_there(request, self._answer(asked))

    async def _answer(self, asked: Asked) -> Response:
        await self._fill(asked)
        messages = self._studio.draw(asked.request, deadline=None)
        # Whatever is refused is refused here, before the status is sent.
        first = await anext(messages)
        if asked.stream:
            return EventStream(_events(asked, first.accepted, messages), messages)
        return JSONResponse(await _whole(asked, first.accepted, messages))

    async def _fill(self, asked: Asked) -> None:
        """What is said in terms of the base's own number of steps."""
        request = asked.request
        if request.HasField("steps"):
            steps = request.steps
        elif asked.partial or asked.quality in ("low", "high", "hd"):
            facts = await self._bases.facts(await drawable(self._blobs, request.model))
            steps = facts.default_steps
            if asked.quality == "low":
                steps = math.ceil(steps / 2)
            elif asked.quality in ("high", "hd"):
                steps = steps * 2
            steps = request.steps = min(steps, self._studio.max_steps)
        if asked.partial:
            request.preview.every_steps = min(1000, max(1, math.ceil(steps / (asked.partial + 1))))


async def _whole(asked: Asked, accepted: generator_pb2.Accepted, messages: Messages) -> dict[str, Any]:
    resolved = accepted.resolved
    data: list[dict[str, Any]] = []
    timings: dict[str, Any] = {}
    async with aclosing(messages):
        async for kind, what in _parts(messages):
            if kind == "picture":
                header, picture = what
                data.append({"b64_json": base64.b64encode(picture).decode(), "marsam": _more(accepted, header)})
            elif kind == "done":
                timings = saying.plain(what)
    return {
        "created": int(time.time()),
        "background": "opaque",
        "output_format": asked.output_format,
        "quality": asked.quality,
        "size": f"{resolved.width}x{resolved.height}",
        "data": data,
        "marsam": {
            "name": accepted.name,
            "warnings": list(accepted.warnings),
            "resolved": saying.plain(resolved),
            "timings": timings,
        },
    }


async def _events(asked: Asked, accepted: generator_pb2.Accepted, messages: Messages) -> AsyncGenerator[bytes, None]:
    """OpenAI's events; ours between them for who asked for them. What goes wrong now is an event too."""
    resolved, created = accepted.resolved, int(time.time())
    looks: dict[int, int] = {}
    size = f"{resolved.width}x{resolved.height}"
    if asked.events:
        yield saying.event("marsam.accepted", saying.plain(accepted))
    try:
        async with aclosing(_parts(messages)) as parts:
            async for kind, what in parts:
                if kind == "picture":
                    header, data = what
                    yield saying.picture_event(
                        data,
                        created=created,
                        size=size,
                        quality=asked.quality,
                        output_format=asked.output_format,
                        more=_more(accepted, header),
                    )
                elif kind == "preview":
                    number = looks.get(what.index, 0)
                    if asked.partial and number >= asked.partial:
                        continue
                    looks[what.index] = number + 1
                    more = {"index": what.index, "step": what.step, "steps": what.steps}
                    yield saying.look_event(
                        what.data, number, created=created, size=size, quality=asked.quality, more=more
                    )
                elif asked.events:
                    yield saying.event(f"marsam.{kind}", saying.plain(what))
                elif kind == "progress":
                    # A comment, which clients skip: whoever watches the connection sees it alive.
                    yield b": drawing\n\n"
    except MarsamError as error:
        yield saying.event("error", saying.error_body(error))
    except Exception:  # the studio has logged it
        bug = Internal(f"Marsam failed on this; the service's log has the cause under {accepted.name}")
        yield saying.event("error", saying.error_body(bug))


async def _parts(messages: Messages) -> AsyncGenerator[tuple[str, Any], None]:
    """The messages after the first, each with its kind; of a picture all at once."""
    header, data = generator_pb2.ImageHeader(), bytearray()
    async for message in messages:
        kind = str(message.WhichOneof("event"))
        if kind == "image":
            header, data = message.image, bytearray()
        elif kind == "chunk":
            data += message.chunk
            if len(data) == header.file.size_bytes:
                yield "picture", (header, bytes(data))
        else:
            yield kind, getattr(message, kind)


def _more(accepted: generator_pb2.Accepted, header: generator_pb2.ImageHeader) -> dict[str, Any]:
    return {
        "generation": accepted.name,
        "index": header.index,
        "seed": header.seed,
        "digest": header.file.digest,
        "warnings": list(accepted.warnings),
    }


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Its type has to be said: a page of another origin can send a form or a text
    unasked, but not this."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Invalid("the body must be JSON", reason="BODY_TYPE", remedy="send content-type: application/json")
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > LARGEST_BODY:
            raise Invalid(f"the body has more than {LARGEST_BODY} bytes", reason="BODY_TOO_LARGE",
                          remedy="pictures to start from are uploaded with UploadImage")  # fmt: skip
    try:
        body = json.loads(data)
        # Half of a surrogate pair is JSON, and yet no text: it could be neither drawn nor quoted in an error.
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Invalid("the body has halves of characters (unpaired surrogates)", reason="BODY_MALFORMED") from error
    except RecursionError as error:
        raise Invalid("the body is nested too deeply", reason="BODY_MALFORMED") from error
    except ValueError as error:
        raise Invalid(f"the body is no JSON: {error}", reason="BODY_MALFORMED") from error
    if not isinstance(body, dict):
        raise Invalid("the body must be a JSON object", reason="BODY_MALFORMED")
    return body
