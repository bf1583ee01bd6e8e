"""A proxy on loopback that loses answers: the server has done what was asked, and the caller never hears of it. Or that
is a slow link.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Lossy:
    """Forwards connections to `target`; while `losing` is above 0, answers to PUT are swallowed and counted down.
    With a `rate`, each connection carries so many bytes per second to the target.
    """

    target: tuple[str, int]
    rate: int = 0
    losing: int = 0
    lost: int = 0
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        """Takes connections until the listener is shut down."""
        while True:
            try:
                taken, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(taken,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        with near, socket.create_connection(self.target) as far, contextlib.suppress(OSError):
            asked = threading.Event()

            def forward() -> None:
                with contextlib.suppress(OSError):
                    while data := near.recv(1 << 16):
                        if data.startswith(b"PUT "):
                            asked.set()
                        far.sendall(data)
                        if self.rate:
                            time.sleep(len(data) / self.rate)
                with contextlib.suppress(OSError):
                    far.shutdown(socket.SHUT_RDWR)

            threading.Thread(target=forward, daemon=True).start()
            while data := far.recv(1 << 16):
                if asked.is_set() and self.losing > 0 and not data.startswith(b"HTTP/1.1 100"):
                    self.losing -= 1
                    self.lost += 1
                    near.shutdown(socket.SHUT_RDWR)
                    return
                asked.clear()
                near.sendall(data)


@contextlib.contextmanager
def lossy(endpoint: str, *, rate: int = 0) -> Iterator[Lossy]:
    """A proxy in front of `endpoint` (http://host:port) while the block runs."""
    host, _, port = endpoint.removeprefix("http://").partition(":")
    proxy = Lossy((host, int(port)), rate)
    if rate:  # otherwise megabytes would be on their way
        proxy.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.listener.shutdown(socket.SHUT_RDWR)
        proxy.listener.close()
        thread.join(10)
