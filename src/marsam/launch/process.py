"""Programs as processes of this machine, each under a keeper, remembered in a folder."""

import asyncio
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from marsam.core.errors import Exists, Invalid, Precondition, Unavailable
from marsam.launch import keeper
from marsam.launch.launcher import Cause, Exit, Handle, Program, Waiting, check_program_key
from marsam.launch.word import named
from marsam.store.staging import failure
from marsam.store.threads import offload

_POLL_S = 0.1
_START_S = 20.0
_CHILD = "child.json"
_EXIT = "exit.json"
_WORD = "word.json"
_CREW = (sys.executable, "-P", "-m", "marsam.launch.crew")


class ProcessLauncher:
    """Runs each program as a child of its own keeper, in sessions apart from this process: both outlive it.

    `state` remembers one folder per key: `child.json` (process number and start time, so that a reused number is not
    taken for the program), `exit.json`, and `word.json` of a crew, which stands between the keeper and several ranks.
    """

    def __init__(self, state: Path, *, base_env: Mapping[str, str] | None = None) -> None:
        self._state = state.absolute()
        self._base_env = dict(os.environ if base_env is None else base_env)
        self._keepers: dict[str, subprocess.Popen[bytes]] = {}
        try:
            self._state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise failure(error, f"the launcher's folder {self._state}") from error

    async def start(self, program: Program, *, key: str) -> Handle:
        """See `Launcher.start`."""
        return await offload(self._start, program, check_program_key(key))

    async def adopt(self, key: str) -> Handle | None:
        """See `Launcher.adopt`."""
        return await offload(self._adopt, check_program_key(key))

    async def waiting(self, handle: Handle) -> Waiting | None:
        """See `Launcher.waiting`; a process runs as soon as it is there."""
        return None

    async def follow(self, handle: Handle) -> Exit:
        """See `Launcher.follow`."""
        while True:
            ended = await offload(self._ended, handle.key)
            if ended is not None:
                return ended
            await asyncio.sleep(_POLL_S)

    async def stop(self, handle: Handle, *, grace_s: float) -> Exit:
        """See `Launcher.stop`."""
        await offload(self._signal, handle.key, signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                return await self.follow(handle)
        except TimeoutError:
            await offload(self._signal, handle.key, signal.SIGKILL)
            return await self.follow(handle)

    async def forget(self, key: str) -> None:
        """See `Launcher.forget`."""
        folder = self._state / check_program_key(key)
        if await offload(folder.is_dir):
            if await offload(self._ended, key) is None:
                raise Precondition(f"the program '{key}' still runs", reason="PROGRAM_RUNNING")
            await offload(shutil.rmtree, folder, ignore_errors=True)

    def _start(self, program: Program, key: str) -> Handle:
        if program.cwd is not None and not program.cwd.is_dir():
            raise Invalid(f"no folder {program.cwd} to run in", reason="PROGRAM_NOT_FOUND")
        log = _open_log(program.log_path)
        folder = self._state / key
        try:
            folder.mkdir()
        except FileExistsError as error:
            log.close()
            raise Exists(f"a program was started as '{key}' before", reason="PROGRAM_KEY_USED") from error
        except OSError as error:
            log.close()
            raise failure(error, f"the launcher's folder {folder}") from error
        argv = program.argv
        if program.ranks > 1:
            argv = (*_CREW, "--ranks", str(program.ranks), "--word", str(folder / _WORD), "--", *argv)
        command = [sys.executable, "-I", "-S", keeper.__file__, str(folder), str(program.log_path), "--", *argv]
        with log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=program.cwd,
                env={**self._base_env, **program.env},
                start_new_session=True,
            )
        self._keepers[key] = process
        line = _first_line(process)
        if line.startswith("error "):
            raise Invalid(f"cannot run '{program.argv[0]}': {line.removeprefix('error ')}", reason="PROGRAM_NOT_FOUND")
        if not line.startswith("started "):
            self._signal(key, signal.SIGKILL)
            process.kill()
            raise Unavailable(f"the keeper of '{key}' did not start", reason="PROGRAM_NOT_STARTED",
                              remedy=f"see {program.log_path}")  # fmt: skip
        return self._handle(key)

    def _adopt(self, key: str) -> Handle | None:
        return self._handle(key) if (self._state / key).is_dir() else None

    def _handle(self, key: str) -> Handle:
        known = self._read(key, _CHILD)
        return Handle(key=key, place=f"process {known['child']['pid']}" if known else "no process")

    def _ended(self, key: str) -> Exit | None:
        """Return how the program ended, None while it or its keeper runs."""
        process = self._keepers.get(key)
        if process is not None and process.poll() is None and self._read(key, _EXIT) is None:
            return None
        if (record := self._read(key, _EXIT)) is None:
            if self._alive(key, "keeper") is not None or self._alive(key, "child") is not None or self._young(key):
                return None
            # Both are gone; the keeper may have written its last word between the two looks.
            record = self._read(key, _EXIT)
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
            self._keepers.pop(key, None)
        return named(_exit(record), self._word(key)) if record is not None else Exit(cause=Cause.LOST)

    def _alive(self, key: str, who: str) -> int | None:
        """Return the process number of the 'child' or its 'keeper' if that very process still runs."""
        known = self._read(key, _CHILD)
        if known is None or not known[who]["start"] or keeper.start_time(known[who]["pid"]) != known[who]["start"]:
            return None
        return int(known[who]["pid"])

    def _young(self, key: str) -> bool:
        """Say whether the program may still be on its way: begun a moment ago, perhaps by a service that has died."""
        if self._read(key, _CHILD) is not None:
            return False
        return time.time() - (self._state / key).stat().st_mtime < _START_S

    def _signal(self, key: str, number: signal.Signals) -> None:
        """Kill the program with all that it started; any other signal is the program's own to pass on."""
        pid = self._alive(key, "child")
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if number == signal.SIGKILL else os.kill)(pid, number)

    def _word(self, key: str) -> str:
        try:
            return (self._state / key / _WORD).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def _read(self, key: str, name: str) -> dict[str, Any] | None:
        try:
            record = json.loads((self._state / key / name).read_bytes())
        except FileNotFoundError:
            return None
        return dict(record)


def _exit(record: Mapping[str, Any]) -> Exit:
    peak = int(record.get("peak_rss", 0))
    number = record.get("signal")
    if number is not None:
        cause = Cause.OUT_OF_MEMORY if record.get("oom") else Cause.SIGNALLED
        return Exit(cause=cause, signal=int(number), peak_rss=peak)
    code = int(record["code"])
    return Exit(cause=Cause.DONE if code == 0 else Cause.FAILED, code=code, peak_rss=peak)


def _open_log(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "ab")
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise Precondition(f"{path} cannot be a log: {error.strerror}", reason="LOG_UNWRITABLE") from error
    except OSError as error:
        raise failure(error, f"the log {path}") from error


def _first_line(process: subprocess.Popen[bytes]) -> str:
    """Return the one line that a keeper prints, '' when it prints none in time."""
    assert process.stdout is not None  # it was started with a pipe
    with process.stdout as out:
        ready, _, _ = select.select([out], [], [], _START_S)
        return out.readline().decode(errors="replace").strip() if ready else ""


def read_tail(log: Path, *, limit: int = 4096) -> str:
    """Return the last whole lines of a log, at most `limit` bytes of them; '' when there is no log. Blocking."""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit))
            tail = file.read()
    except FileNotFoundError:
        return ""
    if size > limit:
        tail = tail.partition(b"\n")[2] or tail
    return tail.decode("utf-8", errors="replace")
