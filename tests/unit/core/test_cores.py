"""Cores: the mask, the quota, and the wish."""

import os
from pathlib import Path

import pytest

from marsam.core import cores

MASK = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", MASK), ("50000 100000", 1), ("100000 100000", 1), ("99900000 100000", MASK), ("odd", MASK)],
)
def test_the_quota_bounds_the_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int) -> None:
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert cores.available_cores() == expected


def test_without_a_control_group_the_mask_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "absent")
    assert cores.available_cores() == MASK


def test_a_wish_for_arithmetic_wins_if_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert cores.computing_cores() == 7
    for wish in ("", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", wish)
        assert cores.computing_cores() == cores.available_cores()
