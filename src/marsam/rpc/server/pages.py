"""What a service shows over HTTP beside metrics and health: each page names the scope that its reader must hold."""

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import grpc
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from marsam.core.errors import Denied, MarsamError
from marsam.rpc.server.auth import Auth
from marsam.rpc.server.layers import bug
from marsam.rpc.server.pipeline import Call, Layer
from marsam.rpc.server.settings import Address
from marsam.rpc.wire.metadata import AUTHORIZATION, REQUEST_ID
from marsam.rpc.wire.status import status_code

Answer = Callable[[Request], Awaitable[Response]]

# As google.rpc.Code says, save the callers' own: what was cancelled is answered to nobody.
_STATUS: Mapping[str, int] = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


def refusal(error: MarsamError) -> Mapping[str, object]:
    """An error as JSON."""
    return {"error": {"reason": error.reason, "message": error.message, "remedy": error.remedy}}


@dataclass(frozen=True, kw_only=True)
class Page:
    """An address of the HTTP port. Behind tokens it takes the same bearer token as gRPC, with `scope`; None shows it to
    everyone. `refusal` says how its errors read."""

    path: str
    scope: str | None
    answer: Answer
    method: str = "GET"
    refusal: Callable[[MarsamError], Mapping[str, object]] = refusal


def routes(pages: Sequence[Page], auth: Auth, *, layers: Sequence[Layer] = ()) -> list[BaseRoute]:
    """The pages, each behind `auth` and, where it asks for a scope, inside `layers`. What they raise becomes JSON."""
    return [Route(page.path, _Guarded(page, auth, layers), methods=[page.method]) for page in pages]


class _Peer:
    """What the layers ask of a call's context."""

    def __init__(self, request: Request) -> None:
        self._client = request.client

    def peer(self) -> str:
        return f"http:{self._client.host}:{self._client.port}" if self._client else "http"


class _Guarded:
    """A page as an ASGI application: the layers stand around all of it, until the last byte was sent."""

    def __init__(self, page: Page, auth: Auth, layers: Sequence[Layer]) -> None:
        self._page = page
        self._auth = auth
        self._layers = tuple(layers) if page.scope is not None else ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        call = Call(method=f"{self._page.method} {self._page.path}", context=_Peer(request))
        call.metadata = {name: value for name, value in request.headers.items() if name == REQUEST_ID}

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start" and call.request_id:
                message["headers"] = [*message["headers"], (REQUEST_ID.encode(), call.request_id.encode())]
            await send(message)

        async with contextlib.AsyncExitStack() as stack:
            for layer in self._layers:
                await stack.enter_async_context(layer(call))
            response = await self._answer(request, call)
            await response(scope, receive, named)

    async def _answer(self, request: Request, call: Call) -> Response:
        try:
            self._admit(request)
            return await self._page.answer(request)
        except MarsamError as error:
            call.code = status_code(error)
            return refused(error, self._page.refusal)
        except Exception:
            call.code = grpc.StatusCode.INTERNAL
            return refused(bug(call), self._page.refusal)

    def _admit(self, request: Request) -> None:
        if self._auth.open:
            _refuse_foreign_host(request)
        scope = self._page.scope
        if scope is not None:
            self._auth.identify(request.headers.get(AUTHORIZATION, ""), lambda: scope)


def refused(error: MarsamError, words: Callable[[MarsamError], Mapping[str, object]]) -> Response:
    """An error as an answer: status, and when to come again where that is known."""
    status = _STATUS.get(error.code, 500)
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    return JSONResponse(words(error), status_code=status, headers=headers)


def _refuse_foreign_host(request: Request) -> None:
    """Without tokens the service is for this machine alone. A browser on it may be led here under another's name, and
    would then read to that page what we answer (DNS rebinding)."""
    host = request.headers.get("host", "localhost")
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if not Address(host=name.strip("[]"), port=0).loopback:
        raise Denied(
            f"this service has no tokens and answers to names of its own machine only, not to '{host[:100]}'",
            reason="HOST_NOT_LOCAL",
            remedy="call it as 127.0.0.1 or localhost, or give it a token file",
        )
