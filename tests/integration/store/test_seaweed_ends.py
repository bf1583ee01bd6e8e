"""A SeaweedFS that the demo or a test started ends with it, however that ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

_STARTER = """
import sys, time
from pathlib import Path
from hayy.demo.seaweed import running
with running(Path(sys.argv[1])):
    print("up", flush=True)
    time.sleep(600)
"""


def about(folder: Path) -> list[str]:
    """Processes other than the starter that name the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in command and b"time.sleep(600)" not in command:
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


@pytest.mark.slow
def test_it_does_not_outlive_a_killed_starter(tmp_path: Path) -> None:
    starter = subprocess.Popen([sys.executable, "-c", _STARTER, str(tmp_path)], stdout=subprocess.PIPE)
    assert starter.stdout is not None
    assert starter.stdout.readline() == b"up\n"
    assert about(tmp_path)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    deadline = time.monotonic() + 30
    while about(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert about(tmp_path) == []
