"""`marsam` as a real process, and what it left running."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image

MARSAM = [sys.executable, "-m", "marsam.cli"]
READY_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> Any:
        """The error of a `--json` command."""
        return self.lines[-1]["error"]


def ok(said: Said) -> Said:
    assert said.code == 0, said.err + said.out
    return said


def write_walls(folder: Path) -> None:
    """Six pictures with captions in the folder `pictures`, and a base of 0.2 million parameters in `base`."""
    from tests.unit.generator.tiny import write_base  # loads torch

    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(6):
        picture = PIL.Image.linear_gradient("L").rotate(60 * number).convert("RGB").resize((96 + number, 96))
        picture.save(pictures / f"p{number}.png")
        (pictures / f"p{number}.txt").write_text(f"a wall drawn in {number} shades of grey")
    write_base(folder / "base")


def environment() -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if not name.startswith("MARSAM_")}
    return {**found, "OMP_NUM_THREADS": "1", "COLUMNS": "80", "NO_COLOR": "1"}


def marsam(*words: str, folder: Path, timeout: float = 120.0) -> Said:
    """Runs a command to its end; no command may ever show a traceback."""
    done = subprocess.run(
        [*MARSAM, *words], cwd=folder, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Said(code=done.returncode, out=done.stdout, err=done.stderr)


def begin(*words: str, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*MARSAM, *words],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: "subprocess.Popen[str]", *, timeout: float = 90.0) -> Said:
    out, err = process.communicate(timeout=timeout)
    assert "Traceback" not in err, err
    return Said(code=process.returncode, out=out, err=err)


def living(home: Path) -> dict[int, str]:
    """Every process that serves or trains over `home`, by its environment or its arguments."""
    mark = str(home).encode()
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if b" Z " in (entry / "stat").read_bytes():
                continue
            words = (entry / "cmdline").read_bytes()
            if b"MARSAM_STORE=" + mark in (entry / "environ").read_bytes() or mark in words:
                found[int(entry.name)] = words.replace(b"\0", b" ").decode(errors="replace")
    return found


def gone(home: Path, *, within: float) -> None:
    """Waits until nothing is left; fails with what is."""
    deadline = time.monotonic() + within
    while left := living(home):
        assert time.monotonic() < deadline, f"still there after {within} s: {left}"
        time.sleep(0.1)


@contextlib.contextmanager
def up(folder: Path, *words: str) -> Iterator[tuple["subprocess.Popen[str]", Any]]:
    """`marsam up --json` in `folder`, ready. Stopped afterwards if it still runs; then nothing may be left."""
    process = begin("up", "--json", *words, folder=folder)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate(timeout=60)
        yield process, json.loads(line)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=90)
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=10)
    gone(folder / ".marsam", within=30)
