"""Decoding in processes that may die: a bad file costs its own verdict and one worker, never the import.

Workers are separate programs (exec, not fork: no lock or socket of the service is inherited), started when first
needed, and replaced after a crash, a timeout or memory trouble.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from marsam.core.errors import Internal, Precondition
from marsam.imaging import wire
from marsam.imaging.limits import MIB, Limits
from marsam.imaging.measures import Measures
from marsam.imaging.provenance import Provenance

_START_S = 60.0
_STARTS = 3
"""A process that is killed while it comes up says nothing about its file: another is started, this many in all."""
_CRASHES_TO_CONVICT = 2
"""A worker may be killed by someone else (the kernel's OOM killer, an operator). A file that takes two down is the
cause.
"""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A picture in normal form. `png` holds it; `phash` and `dhash` are 64-bit; `notes` name what was done to it."""

    png: bytes
    width: int
    height: int
    format: str
    notes: tuple[str, ...]
    provenance: Provenance
    pixel_digest: str
    phash: int
    dhash: int
    measures: Measures


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """The verdict on a file that is not accepted."""

    reason: str
    message: str


class DecodePool:
    """`size` decoding workers under `limits`. Use as an async context manager; `decode` may be called concurrently."""

    def __init__(self, *, size: int, limits: Limits | None = None) -> None:
        if size < 1:
            raise ValueError(f"a pool needs at least one worker, got {size}")
        self.limits = limits or Limits()
        self._slots: asyncio.Queue[_Worker | None] = asyncio.Queue()
        for _ in range(size):
            self._slots.put_nowait(None)
        self._live: set[_Worker] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers that run now."""
        return tuple(sorted(worker.pid for worker in self._live if worker.alive))

    async def decode(self, data: bytes, *, alpha: bool = False) -> Decoded | Rejected:
        """Return the verdict on one file. With `alpha` its picture is how opaque it is. Raises Internal only when no
        worker can be started at all."""
        if len(data) > self.limits.max_bytes:
            message = f"The file has {len(data):,} bytes; at most {self.limits.max_bytes:,} are read."
            return Rejected(reason="FILE_TOO_LARGE", message=message)
        crashes = 0
        while True:
            worker = await self._take()
            fresh = worker.served == 0
            try:
                verdict = await worker.decode(data, self.limits, alpha=alpha)
            except _Crashed as crash:
                crashes += 1
                if crash.over_cpu or crashes == _CRASHES_TO_CONVICT:
                    return Rejected(reason=crash.reason, message=crash.message)
                continue
            finally:
                await self._give_back(worker)
            if isinstance(verdict, Rejected) and verdict.reason == "OUT_OF_MEMORY" and not fresh:
                continue  # what earlier files left behind may have been the reason: ask a new worker
            return verdict

    async def close(self) -> None:
        """End every worker. Safe to call twice."""
        self._closed = True
        await asyncio.gather(*(worker.end() for worker in tuple(self._live)))
        self._live.clear()

    async def _take(self) -> "_Worker":
        worker = await self._slots.get()
        try:
            if self._closed:
                raise Precondition("the decoder pool is closed", reason="SHUTTING_DOWN")
            if worker is None or not worker.alive:
                worker = await _Worker.start(self.limits)
                self._live.add(worker)
            return worker
        except BaseException:
            self._slots.put_nowait(None)
            raise

    async def _give_back(self, worker: "_Worker") -> None:
        if worker.idle and worker.alive and not self._closed:
            self._slots.put_nowait(worker)
            return
        self._live.discard(worker)
        self._slots.put_nowait(None)
        await worker.end()


class _Crashed(Exception):
    def __init__(self, code: int | None) -> None:
        self.over_cpu = code == -signal.SIGXCPU
        if self.over_cpu:
            self.reason, self.message = "DECODE_TOO_SLOW", "Decoding used more processor time than a file may."
        else:
            cause = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
            self.reason, self.message = "DECODER_CRASHED", f"The decoder process ended ({cause}) on this file."
        super().__init__(self.message)


class _Worker:
    """One process and the exchange with it. `idle` is False while an exchange is under way or was abandoned."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.idle = True
        self.served = 0

    @classmethod
    async def start(cls, limits: Limits) -> Self:
        """A worker that has greeted. Raises Internal when none comes up."""
        for _ in range(_STARTS - 1):
            with contextlib.suppress(Internal):
                return await cls._start_once(limits)
        return await cls._start_once(limits)

    @classmethod
    async def _start_once(cls, limits: Limits) -> Self:
        argv = [sys.executable, "-m", "marsam.imaging.worker", json.dumps(limits.as_dict())]
        kept = {k: os.environ[k] for k in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "HOME") if k in os.environ}
        # One thread each: the pool is the parallelism, and every thread's stack counts against the address space.
        env = {**kept, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=pipe, stdout=pipe, stderr=null, env=env, limit=4 * MIB
            )
        except OSError as error:
            raise Internal(f"cannot start a decoder process: {error}", reason="DECODER_UNAVAILABLE") from error
        worker = cls(process)
        try:
            async with asyncio.timeout(_START_S):
                await worker._receive(MIB)  # the worker's greeting: its limits are in force
        except (_Crashed, TimeoutError, ValueError) as error:
            await worker.end()
            raise Internal(
                f"a decoder process did not come up: {error or 'no answer'}",
                reason="DECODER_UNAVAILABLE",
                remedy="run `python -m marsam.imaging.worker '{}'` to see why",
            ) from error
        except BaseException:
            await worker.end()
            raise
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def decode(self, data: bytes, limits: Limits, *, alpha: bool) -> Decoded | Rejected:
        """One exchange. Raises `_Crashed`; after that, or a timeout, or a cancellation, the worker is not idle any
        more.
        """
        self.idle = False
        try:
            async with asyncio.timeout(limits.deadline_s):
                await self._send(data, {"alpha": True} if alpha else {})
                head, png = await self._receive(4 * limits.max_pixels + MIB)
        except TimeoutError:
            return Rejected(reason="DECODE_TOO_SLOW", message=f"Decoding took longer than {limits.deadline_s:g} s.")
        except ValueError as error:
            return Rejected(reason="DECODER_CRASHED", message=f"The decoder process answered nonsense: {error}")
        self.served += 1
        self.idle = not head.get("retire", False)
        return _verdict(head, png)

    async def _send(self, data: bytes, head: dict[str, Any]) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        stdin.writelines((wire.pack(head, data), data))
        try:
            await stdin.drain()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _Crashed(await self._process.wait()) from error

    async def _receive(self, max_payload: int) -> tuple[dict[str, Any], bytes]:
        stdout = self._process.stdout
        assert stdout is not None
        try:
            head_size, payload_size = wire.lengths(await stdout.readexactly(wire.PREFIX), max_payload=max_payload)
            head = wire.parse_head(await stdout.readexactly(head_size))
            return head, await stdout.readexactly(payload_size)
        except (asyncio.IncompleteReadError, ConnectionResetError) as error:
            raise _Crashed(await self._process.wait()) from error

    async def end(self) -> None:
        """Kill the process if it runs, and reap it."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()


def _verdict(head: dict[str, Any], png: bytes) -> Decoded | Rejected:
    if not head["ok"]:
        return Rejected(reason=head["reason"], message=head["message"])
    return Decoded(
        png=png,
        width=head["width"],
        height=head["height"],
        format=head["format"],
        notes=tuple(head["notes"]),
        provenance=Provenance(**head["provenance"]),
        pixel_digest=head["pixel_digest"],
        phash=int(head["phash"], 16),
        dhash=int(head["dhash"], 16),
        measures=Measures(**head["measures"]),
    )
