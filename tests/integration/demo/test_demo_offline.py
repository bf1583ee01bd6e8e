"""The demo as a newcomer runs it, in a network namespace that holds only loopback: stopped half way, run again."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SUITE = ROOT / "examples" / "hayy" / "suite.json"
PROMPTS_PER_GROUP = 2
STEPS = 12
#: loopback up, and nothing else in the namespace
ALONE = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def small_suite(path: Path) -> Path:
    """Hayy's suite with the first prompts of each group."""
    suite = json.loads(SUITE.read_text(encoding="utf-8"))
    of_group: dict[str, list[object]] = {}
    for prompt in suite["prompts"]:
        of_group.setdefault(prompt["group"], []).append(prompt)
    suite["prompts"] = [prompt for prompts in of_group.values() for prompt in prompts[:PROMPTS_PER_GROUP]]
    suite["name"] = "hayy-small"
    path.write_text(json.dumps(suite), encoding="utf-8")
    return path


def start(home: Path, suite: Path, log: Path, *, store: str = "folder") -> subprocess.Popen[bytes]:
    arguments = ["--home", str(home), "--suite", str(suite), "--steps", str(STEPS), "--store", store]
    path = os.pathsep.join([str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")])
    with log.open("wb") as out:
        return subprocess.Popen(
            [*ALONE, sys.executable, "-m", "hayy.demo", *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path, "COLUMNS": "100"},
            start_new_session=True,
        )


def processes_about(home: Path) -> list[str]:
    """Command lines of the processes that name the demo's folder in their arguments or environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if int(process.name) != os.getpid() and os.fsencode(home) in command + environment:
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


def wait_for(log: Path, text: str, process: subprocess.Popen[bytes], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while text not in log.read_text(errors="replace"):
        assert process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < deadline, f"no '{text}' after {seconds} s:\n{log.read_text(errors='replace')}"
        time.sleep(0.3)


def test_the_story_is_told_offline_and_goes_on_after_an_interrupt(tmp_path: Path) -> None:
    home, suite, log = tmp_path / "demo", small_suite(tmp_path / "suite.json"), tmp_path / "log.txt"

    first = start(home, suite, log)
    try:
        # On a pipe a step's line appears when it is done: the run is being made or drawn from here on.
        wait_for(log, "committed projects/default/datasets/hayy-balanced", first, seconds=300)
        time.sleep(5)
        os.killpg(first.pid, signal.SIGINT)
        assert first.wait(timeout=90) == 130, log.read_text(errors="replace")
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
    assert "the same command goes on" in log.read_text(errors="replace")
    assert processes_about(home) == []

    second = start(home, suite, log)
    try:
        assert second.wait(timeout=900) == 0, log.read_text(errors="replace")
    finally:
        if second.poll() is None:
            os.killpg(second.pid, signal.SIGKILL)
    assert processes_about(home) == []

    page = (home / "report.html").read_text(encoding="utf-8")
    assert "file://" in log.read_text() and "report.html" in log.read_text()
    assert re.search(r"""(src|href)=["']?(https?:)?//""", page) is None
    assert page.count("data:image/") >= 2 * 2 * 5 * PROMPTS_PER_GROUP
    results = json.loads((home / "results.json").read_text(encoding="utf-8"))
    assert "hayy-small" in json.dumps(results)

    third = start(home, suite, log)
    assert third.wait(timeout=300) == 0, log.read_text(errors="replace")
    assert (home / "report.html").read_text(encoding="utf-8") == page


def test_the_story_is_told_over_s3(tmp_path: Path) -> None:
    home, suite, log = tmp_path / "demo", small_suite(tmp_path / "suite.json"), tmp_path / "log.txt"
    told = []
    for _ in range(2):
        process = start(home, suite, log, store="s3")
        try:
            assert process.wait(timeout=900) == 0, log.read_text(errors="replace")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert processes_about(home) == []
        told.append((home / "report.html").read_bytes())
    assert told[0] == told[1]
    assert not (home / "store-s3" / "store").exists()
    assert json.loads((home / "results.json").read_text(encoding="utf-8"))["cells"]
