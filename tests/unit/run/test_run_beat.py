"""The file that a liveness probe looks at: touched while the program turns, whatever its main thread does."""

import os
import time
from pathlib import Path

from marsam_trainer.run.beat import Beat


def wait_for_change(path: Path, since: int, deadline_s: float = 10) -> int:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if path.exists() and path.stat().st_mtime_ns != since:
            return path.stat().st_mtime_ns
        time.sleep(0.005)
    raise AssertionError(f"{path} was not touched")


def test_it_is_touched_again_and_again_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "beat"
    with Beat(path, period_s=0.02):
        seen = 0
        for _ in range(3):
            seen = wait_for_change(path, seen)
    last = path.stat().st_mtime_ns
    time.sleep(0.1)
    assert path.stat().st_mtime_ns == last


def test_without_a_path_nothing_happens(tmp_path: Path) -> None:
    with Beat(None):
        assert os.listdir(tmp_path) == []


def test_a_path_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    with Beat(tmp_path / "no" / "beat", period_s=0.02):
        time.sleep(0.06)
    assert not (tmp_path / "no").exists()
