"""What every launcher must do with a program of two ranks: as processes, as a Job of one node, as a Job of two."""

import asyncio
import json
from typing import Any

import pytest

from marsam.launch.launcher import ECHO, Cause, Exit, Program
from marsam.launch.process import read_tail
from tests.contract.launch.places import Place
from tests.contract.launch.test_launcher_behaviour import PATIENCE_S, alive, until

pytestmark = pytest.mark.slow

# The two talk as ranks do: rank 1 calls rank 0 where both were told; who loses the other ends with the code for that.
TALK = f"""
import json, os, signal, socket, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
rank, told = int(os.environ["RANK"]), (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if rank == 0:
    with socket.create_server(("", told[1])) as server:
        line = server.accept()[0]
else:
    for turn in range(200):
        try:
            line = socket.create_connection(told, timeout=5)
            break
        except OSError:
            time.sleep(0.05)
line.settimeout(60)
def say(words):
    os.write(1, (words + chr(10)).encode())
def other():
    if not line.recv(1):
        sys.exit({ECHO})
"""

SAY = (
    TALK
    + """
line.sendall(b"x"); other()
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "OMP_NUM_THREADS")
say(json.dumps({name: int(os.environ[name]) for name in names}))
"""
)

WAIT = (
    TALK
    + """
stops = []
def stop(*_):
    stops.append(1)
signal.signal(signal.SIGTERM, stop)
say(f"ready {rank}")
while not stops:
    time.sleep(0.02)
time.sleep(0.3)
say(f"saved {rank} after {len(stops)}")
sys.exit(75)
"""
)


def lines(program: Program) -> list[str]:
    return read_tail(program.log_path, limit=1 << 16).splitlines()


async def started(spread: Place, program: Program) -> tuple[Any, Any]:
    launcher = await spread.open()
    handle = await launcher.start(program, key="a")
    await until(lambda: all(f"ready {rank}" in spread.said(program) for rank in (0, 1)))
    return launcher, handle


async def ended(spread: Place, program: Program) -> Exit:
    launcher = await spread.open()
    async with asyncio.timeout(PATIENCE_S):
        return await launcher.follow(await launcher.start(program, key="a"))


async def test_each_rank_knows_who_it_is_and_finds_the_other(spread: Place) -> None:
    program = spread.program(SAY, ranks=2)
    end = await ended(spread, program)
    assert (end.cause, end.code, str(end)) == (Cause.DONE, 0, "finished"), lines(program)
    told = sorted((json.loads(line) for line in lines(program) if '"RANK"' in line), key=lambda each: each["RANK"])
    one = told[0]["LOCAL_WORLD_SIZE"] == 2
    assert [each["RANK"] for each in told] == [0, 1]
    assert [each["LOCAL_RANK"] for each in told] == ([0, 1] if one else [0, 0])
    assert [each["GROUP_RANK"] for each in told] == ([0, 0] if one else [0, 1])
    assert {each["WORLD_SIZE"] for each in told} == {2}
    assert all(each["OMP_NUM_THREADS"] >= 1 for each in told)


async def test_the_rank_that_failed_first_gives_its_code_and_is_named(spread: Place) -> None:
    code = TALK + "if rank == 1:\n    say('it was me'); sys.exit(71)\nother()"
    program = spread.program(code, ranks=2)
    end = await ended(spread, program)
    assert (end.cause, end.code, end.signal) == (Cause.FAILED, 71, None)
    assert str(end).startswith("rank 1 of 2")
    assert str(end).endswith("ended with exit code 71")
    assert "it was me" in lines(program)


async def test_a_killed_rank_ends_the_program_and_is_named(spread: Place) -> None:
    code = TALK + "if rank == 1:\n    os.kill(os.getpid(), signal.SIGKILL)\nother()"
    end = await ended(spread, spread.program(code, ranks=2))
    assert (end.cause, end.code, end.signal) == (Cause.SIGNALLED, None, 9)
    assert str(end).startswith("rank 1 of 2")
    assert str(end).endswith("was ended by SIGKILL")


async def test_rank_0_may_be_the_one(spread: Place) -> None:
    code = TALK + "if rank == 0:\n    sys.exit(64)\nother()"
    end = await ended(spread, spread.program(code, ranks=2))
    assert (end.cause, end.code) == (Cause.FAILED, 64)
    assert str(end).startswith("rank 0 of 2")


async def test_stop_reaches_each_rank_once_and_lets_all_finish(spread: Place) -> None:
    program = spread.program(WAIT, ranks=2)
    launcher, handle = await started(spread, program)
    end = await launcher.stop(handle, grace_s=20)
    assert (end.cause, end.code) == (Cause.FAILED, 75)
    assert sorted(line for line in lines(program) if line.startswith("saved")) == ["saved 0 after 1", "saved 1 after 1"]


async def test_ranks_are_found_again_by_the_next_service(spread: Place) -> None:
    program = spread.program(WAIT, ranks=2)
    _, handle = await started(spread, program)
    second = await spread.open()
    found = await second.adopt("a")
    assert found == handle
    follower = asyncio.create_task(second.follow(found))
    await asyncio.sleep(0.3)
    assert not follower.done()
    third = await spread.open()
    end = await third.stop(found, grace_s=20)
    again = await (await spread.open()).follow(found)
    assert [(each.cause, each.code) for each in (end, await follower, again)] == [(Cause.FAILED, 75)] * 3


async def test_stop_ends_deaf_ranks(spread: Place) -> None:
    code = TALK + ("say(f'ready {rank}'); say(f'pid {os.getpid()}')\ntime.sleep(60)")
    program = spread.program(code, ranks=2)
    launcher, handle = await started(spread, program)
    pids = [int(line.split()[1]) for line in spread.said(program).splitlines() if line.startswith("pid")]
    end = await launcher.stop(handle, grace_s=0.5)
    assert (end.cause, end.signal) == (Cause.SIGNALLED, 9)
    if spread.local:
        assert len(pids) == 2
        await until(lambda: not any(alive(pid) for pid in pids))


async def test_no_such_program_of_several(spread: Place) -> None:
    program = spread.program("", ranks=2)
    missing = Program(argv=("no-such-program-here",), log_path=program.log_path, ranks=2)
    end = await ended(spread, missing)
    assert (end.cause, end.reason) == (Cause.NOT_STARTED, "PROGRAM_NOT_FOUND")
    assert "no-such-program-here" in str(end)
