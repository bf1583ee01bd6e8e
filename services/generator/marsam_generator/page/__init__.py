"""The page for people at `/`: fixed files, no build step, nothing from elsewhere. To `rest` it is a client like any."""

from collections.abc import Awaitable, Callable, Sequence
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

from marsam import pages
from marsam.rpc.server import Page

_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data: blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # Asked for again each time, so that page and service are of one version.
    "cache-control": "no-cache",
}


def files() -> Sequence[Page]:
    """A page for each file, shown to everyone: there is nothing in them, and whoever has a token enters it there."""
    found = []
    for file in resources.files(__name__).iterdir():
        suffix = file.name.rpartition(".")[2]
        if suffix not in _TYPES:
            continue
        text = file.read_text("utf-8")
        if suffix == "css":
            text = pages.style() + text
        path = "/" if suffix == "html" else f"/page/{file.name}"
        found.append(Page(path=path, scope=None, answer=_fixed(text, _TYPES[suffix])))
    return found


def _fixed(text: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return Response(text, media_type=media_type, headers=_HEADERS)

    return answer
