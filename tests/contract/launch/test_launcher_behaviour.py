"""What every launcher must do. A new launcher joins by one more entry in `LAUNCHERS`."""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from marsam.core.errors import Exists, Invalid, Precondition
from marsam.launch.launcher import Cause, Exit, Launcher, Program
from marsam.launch.process import ProcessLauncher, read_tail

LAUNCHERS: dict[str, Callable[[Path], Launcher]] = {"process": lambda folder: ProcessLauncher(folder / "state")}


@pytest.fixture(params=sorted(LAUNCHERS))
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Launcher]:
    """A launcher over the same memory each time: what a restarted service sees."""
    return lambda: LAUNCHERS[request.param](tmp_path)


def python(tmp_path: Path, code: str, **env: str) -> Program:
    return Program(argv=(sys.executable, "-c", code), log_path=tmp_path / "logs" / "run.log", env=env)


async def until(condition: Callable[[], bool], *, deadline_s: float = 20) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():  # what is waited for happens in other processes
            await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def test_a_program_runs_with_its_words_variables_and_log(make: Callable[[], Launcher], tmp_path: Path) -> None:
    launcher = make()
    program = python(
        tmp_path, "import os,sys; print(os.environ['COLOUR']); print('bad', file=sys.stderr)", COLOUR="blue"
    )
    ended = await launcher.follow(await launcher.start(program, key="a"))
    assert (ended.cause, ended.code, ended.signal, str(ended)) == (Cause.DONE, 0, None, "finished")
    assert 1 << 20 < ended.peak_rss < 1 << 30
    assert sorted(read_tail(program.log_path).split()) == ["bad", "blue"]


async def test_an_exit_code_is_stated(make: Callable[[], Launcher], tmp_path: Path) -> None:
    launcher = make()
    ended = await launcher.follow(await launcher.start(python(tmp_path, "raise SystemExit(71)"), key="a"))
    assert (ended.cause, ended.code, ended.signal) == (Cause.FAILED, 71, None)
    assert str(ended) == "ended with exit code 71"


async def test_a_signal_is_stated(make: Callable[[], Launcher], tmp_path: Path) -> None:
    launcher = make()
    handle = await launcher.start(python(tmp_path, "import os; os.kill(os.getpid(), 9)"), key="a")
    ended = await launcher.follow(handle)
    assert (ended.cause, ended.code, ended.signal, str(ended)) == (Cause.SIGNALLED, None, 9, "ended by SIGKILL")


async def test_a_key_starts_one_program_for_ever(make: Callable[[], Launcher], tmp_path: Path) -> None:
    launcher = make()
    handle = await launcher.start(python(tmp_path, ""), key="a")
    await launcher.follow(handle)
    with pytest.raises(Exists) as caught:
        await make().start(python(tmp_path, ""), key="a")
    assert caught.value.reason == "PROGRAM_KEY_USED"


async def test_of_two_starts_at_once_one_wins(make: Callable[[], Launcher], tmp_path: Path) -> None:
    code = "open('count', 'a').write('x')"
    programs = [python(tmp_path, code) for _ in range(6)]
    programs = [Program(argv=p.argv, log_path=p.log_path, cwd=tmp_path) for p in programs]
    results = await asyncio.gather(*(make().start(p, key="a") for p in programs), return_exceptions=True)
    assert sum(not isinstance(r, BaseException) for r in results) == 1
    handle = await make().adopt("a")
    assert handle is not None
    await make().follow(handle)
    assert (tmp_path / "count").read_text() == "x"


async def test_no_such_program(make: Callable[[], Launcher], tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        await make().start(Program(argv=("no-such-program-here",), log_path=tmp_path / "log"), key="a")
    assert caught.value.reason == "PROGRAM_NOT_FOUND"
    assert "no-such-program-here" in caught.value.message


@pytest.mark.parametrize("key", ["", "..", "a/b", "/etc", "A", ".hidden", "a\n"])
async def test_a_key_names_no_path(make: Callable[[], Launcher], tmp_path: Path, key: str) -> None:
    with pytest.raises(Invalid):
        await make().start(python(tmp_path, ""), key=key)


async def test_stop_lets_a_program_finish_what_it_does(make: Callable[[], Launcher], tmp_path: Path) -> None:
    code = (
        "import signal,sys,time\n"
        "def end(*_):\n    print('saved'); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, end); print('ready', flush=True)\n"
        "time.sleep(60)"
    )
    launcher, program = make(), python(tmp_path, code)
    handle = await launcher.start(program, key="a")
    await until(lambda: "ready" in read_tail(program.log_path))
    ended = await launcher.stop(handle, grace_s=20)
    assert (ended.cause, ended.code) == (Cause.FAILED, 75)
    assert "saved" in read_tail(program.log_path)


async def test_stop_ends_a_deaf_program_and_its_children(make: Callable[[], Launcher], tmp_path: Path) -> None:
    code = (
        "import signal,subprocess,sys,time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)"
    )
    launcher, program = make(), python(tmp_path, code)
    handle = await launcher.start(program, key="a")
    await until(lambda: read_tail(program.log_path).strip().isdigit())
    grandchild = int(read_tail(program.log_path))
    began = time.monotonic()
    ended = await launcher.stop(handle, grace_s=0.5)
    assert (ended.cause, ended.signal) == (Cause.SIGNALLED, 9)
    assert 0.5 <= time.monotonic() - began < 15
    await until(lambda: not alive(grandchild))


async def test_what_a_program_leaves_behind_ends_with_it(make: Callable[[], Launcher], tmp_path: Path) -> None:
    code = "import subprocess,sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    launcher, program = make(), python(tmp_path, code)
    await launcher.follow(await launcher.start(program, key="a"))
    await until(lambda: not alive(int(read_tail(program.log_path))))


async def test_a_running_program_is_found_again(make: Callable[[], Launcher], tmp_path: Path) -> None:
    code = "import os,time\nwhile not os.path.exists('go'): time.sleep(0.02)\nraise SystemExit(3)"
    program = Program(argv=(sys.executable, "-c", code), log_path=tmp_path / "log", cwd=tmp_path)
    first = await make().start(program, key="a")
    second = make()
    found = await second.adopt("a")
    assert found == first
    followers = [asyncio.create_task(second.follow(found)) for _ in range(3)]
    await asyncio.sleep(0.3)
    assert not any(f.done() for f in followers)
    (tmp_path / "go").touch()
    assert {(e.cause, e.code) for e in await asyncio.gather(*followers)} == {(Cause.FAILED, 3)}


async def test_an_adopted_program_can_be_stopped(make: Callable[[], Launcher], tmp_path: Path) -> None:
    await make().start(python(tmp_path, "import time; time.sleep(60)"), key="a")
    second = make()
    found = await second.adopt("a")
    assert found is not None
    ended = await second.stop(found, grace_s=20)
    assert (ended.cause, ended.signal) == (Cause.SIGNALLED, 15)


async def test_an_ended_program_still_tells_how(make: Callable[[], Launcher], tmp_path: Path) -> None:
    launcher = make()
    ended = await launcher.follow(await launcher.start(python(tmp_path, "raise SystemExit(5)"), key="a"))
    second = make()
    found = await second.adopt("a")
    assert found is not None
    assert await second.follow(found) == ended == await second.stop(found, grace_s=1)


async def test_nobody_knows_an_unused_key(make: Callable[[], Launcher]) -> None:
    assert await make().adopt("never") is None


async def test_forget(make: Callable[[], Launcher], tmp_path: Path) -> None:
    launcher = make()
    handle = await launcher.start(python(tmp_path, "import time; time.sleep(60)"), key="a")
    with pytest.raises(Precondition) as caught:
        await launcher.forget("a")
    assert caught.value.reason == "PROGRAM_RUNNING"
    await launcher.stop(handle, grace_s=20)
    await launcher.forget("a")
    assert await make().adopt("a") is None


async def test_waiting_does_not_block_the_loop(make: Callable[[], Launcher], tmp_path: Path) -> None:
    launcher = make()
    handle = await launcher.start(python(tmp_path, "import time; time.sleep(1)"), key="a")
    follower = asyncio.create_task(launcher.follow(handle))
    begin = last = time.monotonic()
    longest = 0.0
    while not follower.done():
        await asyncio.sleep(0.005)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert isinstance(await follower, Exit)
    assert longest < max(0.5, (last - begin) / 2)
