"""The end of a process, as an object: who wants to stop, and who must know that we are stopping."""

import asyncio
import signal


class Lifecycle:
    """One per process. Made inside the event loop.

    `draining` is set when the service stops taking work: long streams end themselves with a word to reconnect.
    `address` is where gRPC listens ('host:port'), '' until it does: for what a service starts that calls it back.
    """

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self.address = ""
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    def stop(self) -> None:
        """Asks the process to end; a second call asks it to end without waiting for open calls."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def stopped(self) -> None:
        """Returns when `stop` was called."""
        await self._stop.wait()

    async def hurried(self) -> None:
        """Returns when `stop` was called twice."""
        await self._hurry.wait()

    def on_signals(self) -> None:
        """SIGTERM and SIGINT call `stop`."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
