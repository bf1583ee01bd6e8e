"""What only processes have: numbers that are used again, keepers that die, launchers that are killed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from marsam.core.errors import Invalid, Precondition
from marsam.launch.keeper import oom_kills, start_time
from marsam.launch.launcher import Cause, Exit, Program
from marsam.launch.process import ProcessLauncher, read_tail

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")


@pytest.fixture
def launcher(tmp_path: Path) -> ProcessLauncher:
    return ProcessLauncher(tmp_path / "state")


def program(tmp_path: Path, argv: tuple[str, ...] = SLEEP) -> Program:
    return Program(argv=argv, log_path=tmp_path / "log")


def known(tmp_path: Path, key: str = "a") -> dict[str, dict[str, object]]:
    return dict(json.loads((tmp_path / "state" / key / "child.json").read_text()))


def pid_of(tmp_path: Path, who: str) -> int:
    return int(str(known(tmp_path)[who]["pid"]))


async def test_a_process_number_that_was_used_again_is_not_touched(launcher: ProcessLauncher, tmp_path: Path) -> None:
    bystander = await asyncio.create_subprocess_exec(*SLEEP, start_new_session=True)
    folder = tmp_path / "state" / "a"
    folder.mkdir()
    gone = {"pid": bystander.pid, "start": start_time(bystander.pid) + "0"}
    (folder / "child.json").write_text(json.dumps({"child": gone, "keeper": gone}))
    try:
        handle = await launcher.adopt("a")
        assert handle is not None
        assert await launcher.stop(handle, grace_s=0.1) == Exit(cause=Cause.LOST)
        assert bystander.returncode is None
        assert start_time(bystander.pid) != ""
    finally:
        bystander.kill()
        await bystander.wait()


async def test_when_all_was_killed_the_end_is_lost_and_said_so(launcher: ProcessLauncher, tmp_path: Path) -> None:
    handle = await launcher.start(program(tmp_path), key="a")
    os.kill(pid_of(tmp_path, "keeper"), signal.SIGKILL)
    os.kill(pid_of(tmp_path, "child"), signal.SIGKILL)
    ended = await asyncio.wait_for(launcher.follow(handle), 20)
    assert ended == Exit(cause=Cause.LOST)
    assert "without a trace" in str(ended)
    again = ProcessLauncher(tmp_path / "state")
    assert await asyncio.wait_for(again.follow(handle), 20) == ended


async def test_a_program_whose_keeper_died_is_still_followed_and_stopped(
    launcher: ProcessLauncher, tmp_path: Path
) -> None:
    handle = await launcher.start(program(tmp_path), key="a")
    child = pid_of(tmp_path, "child")
    os.kill(pid_of(tmp_path, "keeper"), signal.SIGKILL)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(launcher.follow(handle), 0.5)
    assert start_time(child) != ""
    assert (await launcher.stop(handle, grace_s=10)).cause is Cause.LOST
    assert start_time(child) == ""


async def test_a_request_to_stop_is_the_programs_own_to_pass_on(launcher: ProcessLauncher, tmp_path: Path) -> None:
    """As in a container, where only the first program hears of it; ranks would hear it twice otherwise."""
    child = (
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: pathlib.Path('heard').touch())\n"
        "pathlib.Path('ready').touch(); time.sleep(60)"
    )
    parent = (
        "import signal, subprocess, sys, time\nstops = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: stops.append(1))\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "while not stops: time.sleep(0.01)\n"
        "time.sleep(0.5); sys.exit(75)"
    )
    handle = await launcher.start(
        Program(argv=(sys.executable, "-c", parent), log_path=tmp_path / "log", cwd=tmp_path), key="a"
    )
    async with asyncio.timeout(20):
        while not (tmp_path / "ready").exists():
            await asyncio.sleep(0.02)
    assert (await launcher.stop(handle, grace_s=20)).code == 75
    assert not (tmp_path / "heard").exists()


async def test_ranks_do_not_outlive_a_crew_and_a_keeper_that_were_killed(
    launcher: ProcessLauncher, tmp_path: Path
) -> None:
    code = "import os, time; os.write(1, f'{os.getpid()}\\n'.encode()); time.sleep(60)"
    ranks = Program(argv=(sys.executable, "-c", code), log_path=tmp_path / "log", ranks=2)
    handle = await launcher.start(ranks, key="a")
    async with asyncio.timeout(20):
        while len(pids := read_tail(ranks.log_path).split()) < 2:
            await asyncio.sleep(0.02)
    for who in ("keeper", "child"):
        os.kill(pid_of(tmp_path, who), signal.SIGKILL)
    assert (await asyncio.wait_for(launcher.follow(handle), 20)).cause is Cause.LOST
    async with asyncio.timeout(20):
        while any(start_time(int(pid)) for pid in pids):
            await asyncio.sleep(0.02)


async def test_a_start_that_was_cut_off_is_waited_for_and_then_lost(launcher: ProcessLauncher, tmp_path: Path) -> None:
    folder = tmp_path / "state" / "a"
    folder.mkdir()
    handle = await launcher.adopt("a")
    assert handle is not None
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(launcher.follow(handle), 0.3)
    os.utime(folder, (time.time() - 60, time.time() - 60))
    assert await asyncio.wait_for(launcher.follow(handle), 5) == Exit(cause=Cause.LOST)


async def test_a_program_outlives_a_launcher_that_was_killed(tmp_path: Path) -> None:
    code = (
        "import asyncio,os,sys\nfrom pathlib import Path\n"
        "from marsam.launch.launcher import Program\nfrom marsam.launch.process import ProcessLauncher\n"
        "root = Path(sys.argv[1])\n"
        "wait = 'import os,time\\nwhile not os.path.exists(\"go\"): time.sleep(0.02)\\nraise SystemExit(42)'\n"
        "program = Program(argv=(sys.executable, '-c', wait), log_path=root / 'log', cwd=root)\n"
        "asyncio.run(ProcessLauncher(root / 'state').start(program, key='a'))\n"
        "os.killpg(0, 9)\n"
    )
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(tmp_path), start_new_session=True)
    assert await killed.wait() == -9
    launcher = ProcessLauncher(tmp_path / "state")
    handle = await launcher.adopt("a")
    assert handle is not None
    (tmp_path / "go").touch()
    ended = await asyncio.wait_for(launcher.follow(handle), 20)
    assert (ended.cause, ended.code) == (Cause.FAILED, 42)


async def test_a_program_gets_no_open_files_and_no_ignored_signals(launcher: ProcessLauncher, tmp_path: Path) -> None:
    code = (
        "import os,signal\n"
        "print(sorted(int(f) for f in os.listdir('/proc/self/fd'))[:-1])\n"
        "print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, os.getpgid(0) == os.getpid())"
    )
    leak = os.open(tmp_path / "other", os.O_CREAT | os.O_WRONLY)
    os.set_inheritable(leak, True)
    try:
        await launcher.follow(await launcher.start(program(tmp_path, (sys.executable, "-c", code)), key="a"))
    finally:
        os.close(leak)
    assert read_tail(tmp_path / "log").splitlines() == ["[0, 1, 2]", "True True"]


async def test_the_variables_are_the_launchers_and_the_programs(tmp_path: Path) -> None:
    launcher = ProcessLauncher(tmp_path / "state", base_env={"PATH": os.environ["PATH"], "ONE": "1", "TWO": "2"})
    code = "import os; print(sorted((k, v) for k, v in os.environ.items() if k in ('ONE','TWO','HOME')))"
    what = Program(argv=(sys.executable, "-c", code), log_path=tmp_path / "log", env={"TWO": "zwei"})
    await launcher.follow(await launcher.start(what, key="a"))
    assert read_tail(tmp_path / "log").strip() == "[('ONE', '1'), ('TWO', 'zwei')]"


async def test_a_folder_to_run_in_must_be_there(launcher: ProcessLauncher, tmp_path: Path) -> None:
    what = Program(argv=SLEEP, log_path=tmp_path / "log", cwd=tmp_path / "no")
    with pytest.raises(Invalid):
        await launcher.start(what, key="a")
    assert await launcher.adopt("a") is None


async def test_a_log_that_cannot_be_written_is_said(launcher: ProcessLauncher, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "log", tmp_path / "file" / "deeper" / "log", tmp_path):
        with pytest.raises(Precondition) as caught:
            await launcher.start(Program(argv=SLEEP, log_path=path), key="a")
        assert caught.value.reason == "LOG_UNWRITABLE"
    assert await launcher.adopt("a") is None


@pytest.mark.parametrize("argv", [(), ("a\0b",)])
def test_words_that_cannot_be_run(tmp_path: Path, argv: tuple[str, ...]) -> None:
    with pytest.raises(Invalid):
        Program(argv=argv, log_path=tmp_path / "log")


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert read_tail(log) == ""
    log.write_text("first\nsecond\nthird مرسم\n")
    assert read_tail(log) == "first\nsecond\nthird مرسم\n"
    assert read_tail(log, limit=20) == "third مرسم\n"
    log.write_text("x" * 100)
    assert read_tail(log, limit=10) == "x" * 10
    log.write_bytes("مرسم".encode() * 100)
    assert read_tail(log, limit=9).endswith("مرسم")


def test_a_start_time_tells_processes_apart() -> None:
    process = subprocess.Popen(SLEEP)
    try:
        first = start_time(process.pid)
        assert first == start_time(process.pid) != ""
        assert first != start_time(os.getpid())
    finally:
        process.kill()
    time.sleep(0.2)
    assert start_time(process.pid) == ""  # a zombie does nothing any more
    process.wait()
    assert start_time(process.pid) == ""


def test_kills_for_memory_are_counted_where_the_kernel_tells(tmp_path: Path) -> None:
    assert oom_kills(str(tmp_path)) == 0
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "vmstat").write_text("nr_free_pages 1\noom_kill 7\n")
    assert oom_kills(str(tmp_path)) == 7
    (tmp_path / "proc" / "self" / "cgroup").write_text("4:memory:/elsewhere\n0::/pod/one\n")
    assert oom_kills(str(tmp_path)) == 7  # no such file in this hierarchy
    (tmp_path / "sys" / "fs" / "cgroup" / "pod" / "one").mkdir(parents=True)
    (tmp_path / "sys" / "fs" / "cgroup" / "pod" / "one" / "memory.events").write_text("low 0\noom 2\noom_kill 3\n")
    assert oom_kills(str(tmp_path)) == 3
    assert oom_kills() >= 0
