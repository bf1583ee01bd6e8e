"""The HTTP side of a process: `/metrics`, `/healthz` (alive), `/readyz` (ready), and whatever routes a service adds.

Services run it on their event loop; a run program, which has none, runs it on a thread.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import FrameType

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from marsam.telemetry.meter import Meter

_STOP_SECONDS = 5.0


def application(meter: Meter, *, ready: Callable[[], bool], routes: Sequence[BaseRoute] = ()) -> Starlette:
    """The ASGI application. `ready` is asked on every `/readyz`; `/healthz` only proves that the loop turns."""

    async def exposition(_: Request) -> Response:
        # In a thread: collecting reads /proc and may ask a GPU driver.
        body = await asyncio.to_thread(meter.exposition)
        return Response(body, headers={"content-type": CONTENT_TYPE_LATEST})

    async def alive(_: Request) -> Response:
        return JSONResponse({"service": meter.service, "status": "alive"})

    async def readiness(_: Request) -> Response:
        if ready():
            return JSONResponse({"service": meter.service, "status": "ready"})
        return JSONResponse({"service": meter.service, "status": "not ready"}, status_code=503)

    own = [Route("/metrics", exposition), Route("/healthz", alive), Route("/readyz", readiness)]
    return Starlette(routes=[*own, *routes])


class _Quiet(uvicorn.Server):
    """uvicorn that leaves the process's signal handlers alone: whoever runs the process owns them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A bound, listening TCP socket; port 0 lets the system choose. Raises OSError when the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _server(app: Starlette, tls: ssl.SSLContext | None = None) -> _Quiet:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=int(_STOP_SECONDS),
        ws="none",
    )
    if tls is not None:
        # uvicorn makes contexts of its own from files; ours changes while it serves.
        config.load()
        config.ssl = tls
    return _Quiet(config)


@contextlib.asynccontextmanager
async def serving(app: Starlette, listener: socket.socket, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serves `app` on `listener` (see `listen`) while the block runs, over HTTPS when there is a context; gives its
    port. Closes the listener."""
    server = _server(app, tls)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="telemetry.http")
    try:
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        try:
            async with asyncio.timeout(_STOP_SECONDS + 2.0):
                await task
        finally:
            listener.close()


@contextlib.contextmanager
def serving_in_thread(app: Starlette, listener: socket.socket) -> Iterator[int]:
    """`serving` for a program without an event loop; gives the port. The thread ends with the block."""
    server = _server(app)

    def work() -> None:
        asyncio.run(server.serve(sockets=[listener]))

    thread = threading.Thread(target=work, name="telemetry.http", daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(timeout=_STOP_SECONDS + 2.0)
        listener.close()
