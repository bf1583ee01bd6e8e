"""What every launcher must do. A new launcher joins by one more place in `places`."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from marsam.core.errors import Exists, Invalid, Precondition
from marsam.launch.launcher import Cause, Exit, Program
from marsam.launch.process import read_tail
from tests.contract.launch.places import REAL, Place

PATIENCE_S = 120 if REAL else 20

# Until it is told to end; a program alone in its container has no default action for SIGTERM.
WAIT = (
    "import signal,sys,time\n"
    "def end(*_):\n    print('saved', flush=True); sys.exit(75)\n"
    "signal.signal(signal.SIGTERM, end); print('ready', flush=True)\n"
    "time.sleep(600)"
)


async def until(condition: Callable[[], bool], *, deadline_s: float = PATIENCE_S) -> None:
    async with asyncio.timeout(deadline_s):
        while not await asyncio.to_thread(condition):  # what is waited for happens in other processes
            await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def test_a_program_runs_with_its_words_variables_and_log(place: Place) -> None:
    launcher = await place.open()
    code = "import os,sys; print(os.environ['COLOUR']); print('bad', file=sys.stderr)"
    program = place.program(code, COLOUR="blue")
    ended = await launcher.follow(await launcher.start(program, key="a"))
    assert (ended.cause, ended.code, ended.signal, str(ended)) == (Cause.DONE, 0, None, "finished")
    assert ended.peak_rss == 0 or 1 << 20 < ended.peak_rss < 1 << 30
    assert sorted(read_tail(program.log_path).split()) == ["bad", "blue"]


async def test_an_exit_code_is_stated(place: Place) -> None:
    launcher = await place.open()
    ended = await launcher.follow(await launcher.start(place.program("raise SystemExit(71)"), key="a"))
    assert (ended.cause, ended.code, ended.signal) == (Cause.FAILED, 71, None)
    assert str(ended) == "ended with exit code 71"


async def test_a_signal_is_stated(place: Place) -> None:
    launcher = await place.open()
    # A fault of its own: signals from within its container do not kill the first program there.
    handle = await launcher.start(place.program("import ctypes; ctypes.string_at(0)"), key="a")
    ended = await launcher.follow(handle)
    assert (ended.cause, ended.code, ended.signal, str(ended)) == (Cause.SIGNALLED, None, 11, "ended by SIGSEGV")


async def test_a_key_starts_one_program_for_ever(place: Place) -> None:
    launcher = await place.open()
    handle = await launcher.start(place.program(""), key="a")
    await launcher.follow(handle)
    with pytest.raises(Exists) as caught:
        await (await place.open()).start(place.program(""), key="a")
    assert caught.value.reason == "PROGRAM_KEY_USED"


async def test_of_two_starts_at_once_one_wins(place: Place) -> None:
    program = place.program("print('x')")
    launchers = [await place.open() for _ in range(6)]
    results = await asyncio.gather(*(each.start(program, key="a") for each in launchers), return_exceptions=True)
    assert sum(not isinstance(r, BaseException) for r in results) == 1
    assert all(isinstance(r, Exists) for r in results if isinstance(r, BaseException))
    last = await place.open()
    handle = await last.adopt("a")
    assert handle is not None
    await last.follow(handle)
    assert read_tail(program.log_path) == "x\n"


async def test_no_such_program(place: Place, tmp_path: Path) -> None:
    launcher = await place.open()
    program = Program(argv=("no-such-program-here",), log_path=tmp_path / "log")
    try:
        ended = await launcher.follow(await launcher.start(program, key="a"))
    except Invalid as error:
        assert error.reason == "PROGRAM_NOT_FOUND"
        assert "no-such-program-here" in error.message
    else:
        assert (ended.cause, ended.reason) == (Cause.NOT_STARTED, "PROGRAM_NOT_FOUND")
        assert "no-such-program-here" in str(ended)


@pytest.mark.parametrize("key", ["", "..", "a/b", "/etc", "A", ".hidden", "a\n"])
async def test_a_key_names_no_path(place: Place, key: str) -> None:
    launcher = await place.open()
    with pytest.raises(Invalid):
        await launcher.start(place.program(""), key=key)


async def test_stop_lets_a_program_finish_what_it_does(place: Place) -> None:
    launcher, program = await place.open(), place.program(WAIT)
    handle = await launcher.start(program, key="a")
    await until(lambda: "ready" in place.said(program))
    ended = await launcher.stop(handle, grace_s=20)
    assert (ended.cause, ended.code) == (Cause.FAILED, 75)
    assert "saved" in read_tail(program.log_path)


@pytest.mark.slow
async def test_stop_ends_a_deaf_program_and_its_children(place: Place) -> None:
    code = (
        "import signal,subprocess,sys,time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)"
    )
    launcher, program = await place.open(), place.program(code)
    handle = await launcher.start(program, key="a")
    await until(lambda: place.said(program).strip().isdigit())
    grandchild = int(place.said(program))
    began = time.monotonic()
    ended = await launcher.stop(handle, grace_s=0.5)
    assert (ended.cause, ended.signal) == (Cause.SIGNALLED, 9)
    assert time.monotonic() - began >= 0.5
    if place.local:
        await until(lambda: not alive(grandchild))


async def test_what_a_program_leaves_behind_ends_with_it(place: Place) -> None:
    code = "import subprocess,sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    launcher, program = await place.open(), place.program(code)
    ended = await launcher.follow(await launcher.start(program, key="a"))
    assert ended.cause is Cause.DONE
    if place.local:
        await until(lambda: not alive(int(read_tail(program.log_path))))


async def test_a_running_program_is_found_again(place: Place) -> None:
    program = place.program(WAIT)
    first = await (await place.open()).start(program, key="a")
    second = await place.open()
    found = await second.adopt("a")
    assert found is not None
    assert found == first
    await until(lambda: "ready" in place.said(program))
    followers = [asyncio.create_task(second.follow(found)) for _ in range(3)]
    await asyncio.sleep(0.3)
    assert not any(f.done() for f in followers)
    third = await place.open()
    assert (await third.stop(found, grace_s=20)).code == 75
    assert {(e.cause, e.code) for e in await asyncio.gather(*followers)} == {(Cause.FAILED, 75)}


async def test_a_program_that_runs_waits_for_nothing(place: Place) -> None:
    launcher, program = await place.open(), place.program(WAIT)
    handle = await launcher.start(program, key="a")
    await until(lambda: "ready" in place.said(program))
    async with asyncio.timeout(PATIENCE_S):
        while await launcher.waiting(handle) is not None:
            await asyncio.sleep(0.02)
    await launcher.stop(handle, grace_s=20)
    assert await launcher.waiting(handle) is None


async def test_an_ended_program_still_tells_how(place: Place) -> None:
    launcher = await place.open()
    ended = await launcher.follow(await launcher.start(place.program("raise SystemExit(5)"), key="a"))
    second = await place.open()
    found = await second.adopt("a")
    assert found is not None
    assert await second.follow(found) == ended == await second.stop(found, grace_s=1)


async def test_a_stopped_program_still_tells_how(place: Place) -> None:
    launcher, program = await place.open(), place.program(WAIT)
    handle = await launcher.start(program, key="a")
    await until(lambda: "ready" in place.said(program))
    ended = await launcher.stop(handle, grace_s=20)
    second = await place.open()
    found = await second.adopt("a")
    assert found is not None
    assert await second.follow(found) == ended


async def test_nobody_knows_an_unused_key(place: Place) -> None:
    assert await (await place.open()).adopt("never") is None


async def test_forget(place: Place) -> None:
    launcher, program = await place.open(), place.program(WAIT)
    handle = await launcher.start(program, key="a")
    await until(lambda: "ready" in place.said(program))
    with pytest.raises(Precondition) as caught:
        await launcher.forget("a")
    assert caught.value.reason == "PROGRAM_RUNNING"
    await launcher.stop(handle, grace_s=20)
    await launcher.forget("a")
    assert await (await place.open()).adopt("a") is None


async def test_waiting_does_not_block_the_loop(place: Place) -> None:
    launcher = await place.open()
    handle = await launcher.start(place.program("import time; time.sleep(1)"), key="a")
    follower = asyncio.create_task(launcher.follow(handle))
    begin = last = time.monotonic()
    longest = 0.0
    while not follower.done():
        await asyncio.sleep(0.005)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert isinstance(await follower, Exit)
    assert longest < max(0.5, (last - begin) / 2)
