"""Nothing is left behind, whatever happens to `marsam up`."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.integration.cli.support import begin, finish, gone, living, marsam, up

pytestmark = pytest.mark.slow


def test_without_services_every_command_says_how_to_start_them(tmp_path: Path) -> None:
    for words in ("runs list", "datasets show x", "models list", "generate x --model y"):
        said = marsam(*words.split(), folder=tmp_path)
        assert said.code == 7
        assert "marsam up" in said.err


def test_a_stale_endpoints_file_says_so_too(tmp_path: Path) -> None:
    (tmp_path / ".marsam").mkdir()
    entry = '{"grpc": "127.0.0.1:1", "http": "", "pid": 1}'
    (tmp_path / ".marsam" / "endpoints.json").write_text(
        f'{{"dataset": {entry}, "trainer": {entry}, "generator": {entry}}}'
    )
    said = marsam("runs", "list", folder=tmp_path)
    assert said.code == 7
    assert "marsam up" in said.err
    doctor = marsam("doctor", folder=tmp_path)
    assert doctor.code == 6
    assert doctor.out.count("✗") == 3


def test_a_port_in_use_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        # Linux gives free ports up to 60999, which leaves room for the six in a row.
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = marsam("up", "--port", str(port), "--json", folder=tmp_path)
    assert said.code == 6
    assert said.error["reason"] == "PORT_IN_USE"
    assert str(port) in said.error["message"]
    assert living(tmp_path / ".marsam") == {}


def test_a_home_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = marsam("up", "--store", "file/home", "--json", folder=tmp_path)
    assert (said.code, said.error["reason"]) == (8, "HOME_NOT_WRITABLE")


def test_a_service_s_own_refusal_comes_through(tmp_path: Path) -> None:
    (tmp_path / ".marsam").mkdir()
    (tmp_path / ".marsam" / "trainer.toml").write_text("max_concurent_runs = 2\n")
    said = marsam("up", "--json", folder=tmp_path)
    assert said.code == 6
    assert said.error["reason"] == "SETTING_UNKNOWN"
    assert "trainer" in said.error["message"]
    assert "max_concurrent_runs" in said.error["remedy"]
    gone(tmp_path / ".marsam", within=10)


def test_ctrl_c_while_starting_leaves_nothing(tmp_path: Path) -> None:
    process = begin("up", folder=tmp_path)
    deadline = time.monotonic() + 60
    while len(living(tmp_path / ".marsam")) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = finish(process)
    assert said.code == 0
    assert "go on with marsam up" in said.err
    gone(tmp_path / ".marsam", within=5)


def test_ctrl_c_when_up_stops_in_order_and_a_second_time_works(tmp_path: Path) -> None:
    for _ in range(2):
        with up(tmp_path) as (process, _ready):
            assert len(living(tmp_path / ".marsam")) == 3
            process.send_signal(signal.SIGINT)
            assert finish(process).code == 0
        assert not (tmp_path / ".marsam" / "endpoints.json").exists()


def test_kill_9_of_up_leaves_nothing_and_the_next_one_waits_for_it(tmp_path: Path) -> None:
    with up(tmp_path) as (process, _ready):
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
        with up(tmp_path) as (_, ready):  # the lock is free when the last of the first three is gone
            serving = {ready[name]["pid"] for name in ("dataset", "trainer", "generator")}
            assert set(living(tmp_path / ".marsam")) == serving
            assert marsam("doctor", folder=tmp_path).code == 0


def test_a_service_that_dies_ends_the_house_with_its_name(tmp_path: Path) -> None:
    with up(tmp_path) as (process, ready):
        os.kill(ready["dataset"]["pid"], signal.SIGKILL)
        said = finish(process)
    assert said.code == 7
    error = said.lines[-1]["error"]
    assert error["reason"] == "SERVICE_DIED"
    assert "dataset" in error["message"]
    assert "SIGKILL" in error["message"]
    assert "dataset.log" in error["remedy"]


def test_up_ends_with_whoever_started_it(tmp_path: Path) -> None:
    import subprocess
    import sys

    from tests.integration.cli.support import MARSAM, environment

    process = subprocess.Popen(
        [*MARSAM, "up", "--json", "--until-stdin-closes"],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline()
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    process.stdout.close()
    gone(tmp_path / ".marsam", within=5)
