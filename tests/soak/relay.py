"""A wire that can be cut: a TCP relay in front of a service."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Relay:
    """Passes bytes between its clients and `target` (host:port) until it is cut. Use `relayed`."""

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.rpartition(":")
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection."""
        there, onwards = await asyncio.open_connection(self._host, int(self._port))
        self._writers |= {writer, onwards}
        for source, sink in ((reader, onwards), (there, writer)):
            task = asyncio.create_task(self._pump(source, sink))
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    def cut(self) -> None:
        """Every connection breaks at once, with a reset and without a word."""
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        """Cut what is left, and wait for it."""
        self.cut()
        await asyncio.gather(*self._pumps)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
        sink.close()


@contextlib.asynccontextmanager
async def relayed(target: str) -> AsyncIterator[tuple[str, Relay]]:
    """A relay to `target`, with its own address."""
    relay = Relay(target)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}", relay
    finally:
        server.close()
        await relay.close()
