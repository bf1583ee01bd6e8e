"""What a service shows over HTTP beside metrics and health: each page names the scope that its reader must hold."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from marsam.core import errors
from marsam.core.errors import MarsamError
from marsam.rpc.server.auth import Auth
from marsam.rpc.wire.metadata import AUTHORIZATION

Answer = Callable[[Request], Awaitable[Response]]

_STATUS: dict[type[MarsamError], int] = {
    errors.Invalid: 400,
    errors.Unauthenticated: 401,
    errors.Denied: 403,
    errors.Missing: 404,
    errors.Unavailable: 503,
}


@dataclass(frozen=True, kw_only=True)
class Page:
    """An address of the HTTP port. Behind tokens it takes the same bearer token as gRPC, with `scope`."""

    path: str
    scope: str
    answer: Answer


def routes(pages: Sequence[Page], auth: Auth) -> list[BaseRoute]:
    """The pages, each behind `auth`. What they raise becomes JSON with reason, message and remedy."""
    return [Route(page.path, _guarded(page, auth)) for page in pages]


def _guarded(page: Page, auth: Auth) -> Answer:
    async def answer(request: Request) -> Response:
        try:
            auth.identify(request.headers.get(AUTHORIZATION, ""), lambda: page.scope)
            return await page.answer(request)
        except MarsamError as error:
            status = _STATUS.get(type(error), 500)
            content = {"reason": error.reason, "message": error.message, "remedy": error.remedy}
            headers = {"www-authenticate": "Bearer"} if status == 401 else None
            return JSONResponse({"error": content}, status_code=status, headers=headers)

    return answer
