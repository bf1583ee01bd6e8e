"""A run program of several processes: under torchrun, or each started with what torchrun would tell it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.integration.run.store import PROGRAM, Shelf

# `--`, or torchrun takes the program's `--run` for the beginning of an option of its own.
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "0",
            "-m", "--", PROGRAM[1])  # fmt: skip


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(shelf: Shelf, job_id: str, attempt: int, cache: Path, *, size: int = 2) -> list[subprocess.Popen[bytes]]:
    """The ranks of an attempt as processes of their own, nobody above them; logs go beside the cache."""
    cache.mkdir(parents=True, exist_ok=True)
    place = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = []
    for rank in range(size):
        told = {**place, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
        with (cache / f"{job_id}-{attempt}-{rank}.log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, *PROGRAM, *shelf.arguments(job_id, attempt, cache)],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **told, "OMP_NUM_THREADS": "1"},
                )
            )
    return started
