"""Seats: told apart while held, taken again when free, by other processes too."""

import socket
import subprocess
import sys
from pathlib import Path

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


def test_a_program_started_by_the_holder_does_not_hold_it(tmp_path: Path) -> None:
    with only_one(tmp_path / "lock") as free:
        assert free
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    try:
        with only_one(tmp_path / "lock") as free:
            assert free
    finally:
        child.kill()
        child.wait()


def test_a_place_that_cannot_be_is_a_stated_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MarsamError), only_one(tmp_path / "file" / "lock"):
        pass
