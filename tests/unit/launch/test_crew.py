"""The crew of one node: what ranks are told, how it ends for each way in which they do, and that nothing is left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from marsam.launch.launcher import ECHO, Cause, Exit
from marsam.launch.word import named

pytestmark = pytest.mark.slow

TOLD = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


# One write for each line: the ranks of a crew share its output.
RANK = (
    "import os, signal, sys, time\nrank = int(os.environ['RANK'])\n"
    "def say(*words): os.write(1, (' '.join(map(str, words)) + '\\n').encode())\n"
)


def crew(code: str, *options: str, ranks: int = 2, patience: str = "0.5") -> subprocess.Popen[str]:
    words = ["--ranks", str(ranks), "--patience", patience, *options, "--", sys.executable, "-c", code]
    return subprocess.Popen(
        [sys.executable, "-m", "marsam.launch.crew", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str], dict[str, Any]]:
    """(exit code as `subprocess` gives it, lines, the crew's word or {})."""
    out = process.communicate(timeout=30)[0].splitlines()
    words = [json.loads(line) for line in out if "crew.failed" in line]
    return process.returncode, [line for line in out if "crew.failed" not in line], words[0] if words else {}


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_ranks_are_told_what_torchrun_tells_them(tmp_path: Path) -> None:
    """Name by name, and the values of those that are not chosen anew each time."""
    code = RANK + f"import json; say(json.dumps({{n: os.environ.get(n) for n in {TOLD}}}))"
    status, lines, _ = ended(crew(code))
    assert status == 0
    ours = sorted((json.loads(line) for line in lines), key=lambda each: int(each["RANK"]))
    script = tmp_path / "rank.py"
    script.write_text(code)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29941"]
    done = subprocess.run([*torchrun, str(script)], capture_output=True, text=True, timeout=120, check=True)
    theirs = sorted((json.loads(x) for x in done.stdout.splitlines()), key=lambda each: int(each["RANK"]))
    assert len(ours) == 2
    for mine, other in zip(ours, theirs, strict=True):
        assert int(mine.pop("MASTER_PORT")) > 0
        del other["MASTER_PORT"]
        assert mine == other


def test_cores_are_shared_out() -> None:
    code = RANK + "say(os.environ['OMP_NUM_THREADS'])"
    os.environ["OMP_NUM_THREADS"], before = "5", os.environ.get("OMP_NUM_THREADS")
    try:
        assert ended(crew(code))[1] == ["2", "2"]
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def test_all_must_end_well() -> None:
    status, lines, word = ended(crew(RANK + "time.sleep(0.3 * rank); say(rank)", patience="20"))
    assert (status, lines, word) == (0, ["0", "1"], {})


@pytest.mark.parametrize("code", [64, 71, 75])
def test_the_first_code_is_the_crews(code: int) -> None:
    status, _, word = ended(crew(RANK + f"time.sleep(0 if rank else 0.2); sys.exit({code} if rank else 70)"))
    assert status == code
    assert (word["rank"], word["ranks"], word["code"]) == (1, 2, code)


def test_a_signal_ends_the_crew_by_the_same_signal() -> None:
    status, _, word = ended(crew(RANK + "os.kill(os.getpid(), 9) if rank else time.sleep(60)"))
    assert status == -9
    assert (word["rank"], word["signal"]) == (1, 9)


def test_who_only_misses_another_one_is_not_to_blame() -> None:
    code = RANK + f"sys.exit({ECHO}) if rank == 0 else (time.sleep(0.2), sys.exit(71))"
    status, _, word = ended(crew(code, patience="20"))
    assert (status, word["rank"], word["code"]) == (71, 1, 71)


def test_a_rank_that_hangs_is_ended_within_the_patience_and_named() -> None:
    began = time.monotonic()
    status, _, word = ended(crew(RANK + f"sys.exit({ECHO}) if rank == 0 else time.sleep(60)", patience="1"))
    assert time.monotonic() - began > 1
    assert (status, word["hung"]) == (ECHO, [1])


def test_who_outlives_rank_0s_success_is_ended_and_no_failure() -> None:
    status, _, word = ended(crew(RANK + "time.sleep(60 if rank else 0)"))
    assert (status, word) == (0, {})


def test_a_signal_reaches_each_rank_once() -> None:
    code = RANK + (
        "heard = []\nsignal.signal(signal.SIGTERM, lambda *_: heard.append(1))\nsay('ready')\n"
        "while not heard: time.sleep(0.01)\ntime.sleep(0.3); say(rank, len(heard)); sys.exit(75)"
    )
    process = crew(code, patience="20")
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    process.send_signal(signal.SIGTERM)
    status, lines, _ = ended(process)
    assert (status, sorted(lines)) == (75, ["0 1", "1 1"])


def test_ranks_die_with_a_crew_that_is_killed() -> None:
    process = crew(RANK + "say(os.getpid()); time.sleep(60)")
    assert process.stdout is not None
    pids = [int(process.stdout.readline()) for _ in range(2)]
    process.kill()
    until(lambda: all(gone(pid) for pid in pids))
    process.communicate()


def test_a_program_that_is_not_there_is_said(tmp_path: Path) -> None:
    word = tmp_path / "word"
    command = [sys.executable, "-m", "marsam.launch.crew", "--ranks", "2", "--word", str(word), "--", "no-such-thing"]
    assert subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 127
    exit_ = named(Exit(cause=Cause.FAILED, code=127), word.read_text())
    assert (exit_.cause, exit_.reason) == (Cause.NOT_STARTED, "PROGRAM_NOT_FOUND")
    assert "no-such-thing" in str(exit_)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ({"rank": 1, "ranks": 4, "signal": 9}, "rank 1 of 4 on node b was ended by SIGKILL"),
        ({"rank": 0, "ranks": 2, "code": 71}, "rank 0 of 2 on node b ended with exit code 71"),
        ({"rank": 0, "ranks": 3, "code": 76, "hung": [1, 2]}, "rank 1, 2 of 3 on node b hung and was ended"),
    ],
)
def test_a_word_is_read(word: dict[str, object], said: str) -> None:
    exit_ = Exit(cause=Cause.FAILED, code=70)
    told = named(exit_, json.dumps(word), where=" on node b")
    assert (told.cause, told.code, told.message) == (exit_.cause, exit_.code, said)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"rank": "x"}', '{"rank": 1, "ranks": 2, "signal": 999}', "Traceback"]
)
def test_what_is_no_word_changes_nothing(text: str) -> None:
    exit_ = Exit(cause=Cause.FAILED, code=70)
    assert named(exit_, text) == exit_
