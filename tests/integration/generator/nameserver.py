"""A name server that answers one question: the addresses of a name, as they are now."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

_A, _IN = 1, 1
_ANSWER, _RECURSION = 0x8000, 0x0180


class Nameserver(asyncio.DatagramProtocol):
    """Answers A of any name with `addresses`, and everything else with nothing."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.where = ""
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.where = f"127.0.0.1:{transport.get_extra_info('sockname')[1]}"

    def datagram_received(self, data: bytes, addr: Any) -> None:
        assert self._transport is not None
        # RFC 1035, 4.1: twelve bytes of header, then the question: labels ended by a zero, type and class.
        end = data.index(0, 12) + 5
        (kind,) = struct.unpack("!H", data[end - 4 : end - 2])
        found = self.addresses if kind == _A else []
        header = data[:2] + struct.pack("!5H", _ANSWER | _RECURSION, 1, len(found), 0, 0)
        # The name is that of the question (a pointer to byte 12), and is true for a second.
        answers = (struct.pack("!HHHIH", 0xC00C, _A, _IN, 1, 4) + socket.inet_aton(one) for one in found)
        self._transport.sendto(header + data[12:end] + b"".join(answers), addr)


@contextlib.asynccontextmanager
async def nameserver() -> AsyncIterator[Nameserver]:
    """One on a free port while the block runs."""
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        Nameserver, local_addr=("127.0.0.1", 0)
    )
    try:
        yield server
    finally:
        transport.close()
