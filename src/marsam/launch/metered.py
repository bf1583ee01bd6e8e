"""Any launcher, measured: how often it is asked to start a program, how long that takes, why it fails."""

import time

from marsam.core.errors import MarsamError
from marsam.launch.launcher import Exit, Handle, Launcher, Program, Waiting
from marsam.telemetry import Meter, metrics


class MeteredLauncher:
    """`Launcher` that passes every call on. The outcome label is `ok`, or the error's reason."""

    def __init__(self, inner: Launcher, meter: Meter, *, kind: str) -> None:
        self._inner = inner
        self._meter = meter
        self._kind = kind
        meter.begin(metrics.LAUNCHES, kind=kind, outcome="ok")
        meter.begin(metrics.LAUNCH_SECONDS, kind=kind)

    async def start(self, program: Program, *, key: str) -> Handle:
        """See `Launcher.start`."""
        began, outcome = time.monotonic(), "ok"
        try:
            return await self._inner.start(program, key=key)
        except MarsamError as error:
            outcome = error.reason
            raise
        except Exception:
            outcome = "INTERNAL"
            raise
        finally:
            self._meter.inc(metrics.LAUNCHES, kind=self._kind, outcome=outcome)
            self._meter.observe(metrics.LAUNCH_SECONDS, time.monotonic() - began, kind=self._kind)

    async def adopt(self, key: str) -> Handle | None:
        """See `Launcher.adopt`."""
        return await self._inner.adopt(key)

    async def waiting(self, handle: Handle) -> Waiting | None:
        """See `Launcher.waiting`."""
        return await self._inner.waiting(handle)

    async def follow(self, handle: Handle) -> Exit:
        """See `Launcher.follow`."""
        return await self._inner.follow(handle)

    async def stop(self, handle: Handle, *, grace_s: float) -> Exit:
        """See `Launcher.stop`."""
        return await self._inner.stop(handle, grace_s=grace_s)

    async def forget(self, key: str) -> None:
        """See `Launcher.forget`."""
        await self._inner.forget(key)
