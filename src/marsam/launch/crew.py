"""The crew of one node: starts the ranks of a program there, passes signals on, and ends as the first that failed.

    python -m marsam.launch.crew --ranks N [--nodes M --meet HOST:PORT] [--word FILE] -- PROGRAM ARGUMENT…

Each rank finds what torchrun would tell it: RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, GROUP_RANK, MASTER_ADDR and
MASTER_PORT, and its share of the cores in OMP_NUM_THREADS. Why it is not torchrun: docs/adr/0004-crew.md.
"""

import argparse
import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from marsam.core.cores import computing_cores
from marsam.launch import meeting
from marsam.launch.launcher import ECHO
from marsam.launch.meeting import Place

PATIENCE_S = 30.0
"""How long the other ranks of a node may go on once one has failed, or rank 0 has done its work."""

_ECHO_S = 3.0
"""How long a node whose ranks only miss another one waits with its end: the one where it happened is to end first."""

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line, parsed."""
    parser = argparse.ArgumentParser(prog="python -m marsam.launch.crew", description=__doc__)
    parser.add_argument("--ranks", type=int, required=True, help="how many on this node")
    parser.add_argument("--nodes", type=int, default=1, help="how many nodes there are")
    parser.add_argument(
        "--node", type=int, default=int(os.environ.get("JOB_COMPLETION_INDEX", 0)), help="which, from 0"
    )
    parser.add_argument("--meet", type=_place, default=None, help="HOST:PORT of the first node, where all meet")
    parser.add_argument(
        "--address", default=os.environ.get("POD_IP", ""), help="the node's own; all it has if left out"
    )
    parser.add_argument("--word", type=Path, default=None, help="file for what there is to say of a rank that failed")
    parser.add_argument("--beat", type=Path, default=None, help="file that is touched while the nodes meet")
    parser.add_argument("--patience", type=float, default=PATIENCE_S, help="seconds for the others after a failure")
    parser.add_argument("program", nargs="+", help="what each rank runs")
    return parser.parse_args(argv)


def _place(text: str) -> Place:
    host, _, port = text.rpartition(":")
    return Place(host=host, port=int(port))


class _Left(Exception):
    """A signal, its argument, came while the nodes still met."""


class Crew:
    """The ranks of this node, from their start to the end of the last."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._ranks: dict[int, tuple[int, subprocess.Popen[bytes]]] = {}
        self._heard: list[int] = []
        self._meets = self._started = False
        self._waits_for = ""
        self._hung: list[int] | None = None
        self._failed: dict[str, Any] | None = None

    def run(self) -> int:
        """See all ranks to their end; return an exit code, or minus the signal that ended the first that failed."""
        for number in _FORWARDED:
            signal.signal(number, self._hear)
        try:
            address, port = self._meet()
        except _Left as left:
            sys.stderr.write(f"stopped before it began: {self._waits_for}\n")
            return -int(left.args[0])
        try:
            self._start(address, port)
        except OSError as error:
            self._kill()
            self._say({"missing": f"{self._options.program[0]}: {error.strerror}"})
            return 127
        while self._ranks:
            # Not reaped yet, its number cannot be anybody else's: nobody else is sent a signal that was meant for it.
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            assert ended is not None  # it waits
            if ended.si_pid in self._ranks:
                self._end(ended.si_pid)
            else:  # an orphan of a container, whose first program this is
                os.waitpid(ended.si_pid, 0)
        for number in _FORWARDED:  # it has ended: being told to comes too late to change how
            signal.signal(number, signal.SIG_IGN)
        if self._failed is None:
            return 0
        if self._failed.get("code") == ECHO and self._options.nodes > 1:
            time.sleep(_ECHO_S)
        self._say(self._failed)
        return int(self._failed["code"]) if "code" in self._failed else -int(self._failed["signal"])

    def _meet(self) -> tuple[str, int]:
        """Return (address, port) of rank 0, once all nodes are there."""
        options = self._options
        if options.nodes == 1:
            return "127.0.0.1", meeting.free_port()

        def turn(waits_for: str) -> None:
            self._waits_for = waits_for
            if options.beat is not None:
                with contextlib.suppress(OSError):
                    options.beat.touch()

        self._meets = True
        if options.node:
            found = meeting.join(options.meet, options.node, turn=turn)
        else:
            found = meeting.host(options.meet, options.nodes, address=options.address, turn=turn)
        self._meets = False
        return found

    def _start(self, address: str, port: int) -> None:
        options = self._options
        common = {
            "WORLD_SIZE": options.ranks * options.nodes,
            "LOCAL_WORLD_SIZE": options.ranks,
            "GROUP_RANK": options.node,
            "GROUP_WORLD_SIZE": options.nodes,
            "MASTER_ADDR": address,
            "MASTER_PORT": port,
            "OMP_NUM_THREADS": max(1, computing_cores() // options.ranks),
        }
        for local in range(options.ranks):
            rank = options.node * options.ranks + local
            own = {"RANK": rank, "LOCAL_RANK": local, **common}
            process = subprocess.Popen(
                options.program,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **{name: str(value) for name, value in own.items()}},
                preexec_fn=_die_with_parent,
            )
            self._ranks[process.pid] = (rank, process)
        self._started = True  # from here on each signal is passed on as it comes, and no more are put aside
        for number in self._heard:
            self._tell(number)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._started:
            self._tell(number)
        elif self._meets:
            raise _Left(number)
        else:
            self._heard.append(number)

    def _tell(self, number: int) -> None:
        for _, process in list(self._ranks.values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)

    def _end(self, pid: int) -> None:
        """Take the end of one rank in."""
        rank, process = self._ranks.pop(pid)
        status = process.wait()
        if status == 0:
            if rank == 0:
                self._hurry()
        elif self._hung is None:
            how = {"signal": -status} if status < 0 else {"code": status}
            if self._failed is None or (self._failed.get("code") == ECHO and status != ECHO):
                self._failed = {"rank": rank, "ranks": self._options.ranks * self._options.nodes, **how}
            self._hurry()

    def _hurry(self) -> None:
        """From now on the others have so long to end by themselves."""
        if self._ranks:
            timer = threading.Timer(self._options.patience, self._kill)
            timer.daemon = True
            timer.start()

    def _kill(self) -> None:
        """End those that are left. Where the first that failed only missed another one, it is one of them."""
        if self._hung is None:
            self._hung = sorted(rank for rank, _ in list(self._ranks.values()))
            if self._failed is not None and self._failed.get("code") == ECHO:
                self._failed["hung"] = self._hung
        self._tell(signal.SIGKILL)

    def _say(self, word: Mapping[str, Any]) -> None:
        """Leave a word of what failed: as the last line of the output, which outlives a pod, and in a file."""
        line = json.dumps({"event": "crew.failed", **word})
        sys.stderr.write(f"{line}\n")
        if self._options.word is not None:
            self._options.word.write_text(line)


def _die_with_parent() -> None:
    """Ask the kernel, where it knows how, to end this process when the one that started it has been killed."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(argv: Sequence[str]) -> int:
    """Run the ranks to their end. A signal that ended the first that failed ends this process too."""
    status = Crew(arguments(argv)).run()
    if status >= 0:
        return status
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it is not this process that crashed
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
    return 128 - status  # the first program of a container is deaf to its own signals


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
