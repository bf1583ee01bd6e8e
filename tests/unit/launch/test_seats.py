"""Seats: told apart while held, taken again when free, by other processes too."""

import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from marsam.core.errors import MarsamError
from marsam.launch.seat import seated
from marsam.store.lock import only_one

_SITTING = """
import asyncio, sys
from pathlib import Path
from marsam.launch.seat import seated
async def sit():
    async with seated(Path(sys.argv[1])) as seat:
        print(seat.owner, flush=True)
        await asyncio.sleep(60)
asyncio.run(sit())
"""

_STARTING = """
import subprocess, sys
from pathlib import Path
from marsam.store.lock import only_one
with only_one(Path(sys.argv[1])):
    child = [sys.executable, "-c", "print('started', flush=True); input()"]
    subprocess.run(child, close_fds=False)
"""


def _is(descriptor: str, path: Path) -> bool:
    """Whether it is a descriptor of the file `path`; those that were closed meanwhile are of none."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}") == str(path)
    except FileNotFoundError:
        return False


def _is_open(pipe: IO[str]) -> bool:
    """Whether anybody still holds the writing end of a pipe that nothing more was written to."""
    return select.select([pipe], [], [], 0)[0] == []


async def test_each_running_instance_has_a_seat_of_its_own(tmp_path: Path) -> None:
    async with seated(tmp_path) as first, seated(tmp_path) as second:
        assert first.owner == f"{socket.gethostname()}:{tmp_path}/1"
        assert second.owner == f"{socket.gethostname()}:{tmp_path}/2"
        assert first.folder != second.folder
    async with seated(tmp_path) as again:
        assert again == first


async def test_a_killed_process_leaves_its_seat_to_its_successor(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", _SITTING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        theirs = process.stdout.readline().strip()
        async with seated(tmp_path) as ours:
            assert theirs.endswith("/1")
            assert ours.owner.endswith("/2")
        process.kill()
    async with seated(tmp_path) as successor:
        assert successor.owner == theirs


def test_a_program_started_by_a_killed_holder_does_not_hold_it(tmp_path: Path) -> None:
    words = [sys.executable, "-c", _STARTING, str(tmp_path / "lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == "started\n"  # the child's word: it is loaded, and reads what we do not write
        with only_one(tmp_path / "lock") as free:
            assert not free
        holder.kill()
        holder.wait()
        with only_one(tmp_path / "lock") as free:
            assert free
        assert _is_open(holder.stdout)  # the child lives on


def test_it_is_free_at_once_though_a_copy_of_it_is_open(tmp_path: Path) -> None:
    with only_one(tmp_path / "lock") as free:
        assert free
        (held,) = [int(name) for name in os.listdir("/proc/self/fd") if _is(name, tmp_path / "lock")]
        copy = os.dup(held)
    try:
        with only_one(tmp_path / "lock") as free:
            assert free
    finally:
        os.close(copy)


def test_a_place_that_cannot_be_is_a_stated_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MarsamError), only_one(tmp_path / "file" / "lock"):
        pass
