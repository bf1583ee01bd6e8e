import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from marsam.core.errors import Conflict, Invalid, Missing
from marsam.store import keys
from marsam.store.folder import FolderBlobs
from marsam.store.numbered import NumberedLog


@pytest.fixture
def log(tmp_path: Path) -> NumberedLog:
    return NumberedLog(FolderBlobs(tmp_path), "a/log")


async def test_an_empty_log(log: NumberedLog) -> None:
    assert await log.head() is None
    assert await log.read_all() == []
    with pytest.raises(Missing):
        await log.read(1)


async def test_entries_follow_each_other(log: NumberedLog) -> None:
    for n in range(12):
        assert await log.append(n, f"{n}".encode()) == n + 1
    assert await log.head() == (12, b"11")
    assert await log.head(known=3) == (12, b"11")
    assert await log.head(known=12) == (12, b"11")
    assert await log.read_all(start=11) == [b"10", b"11"]


async def test_who_comes_second_is_told(log: NumberedLog) -> None:
    await log.append(0, b"first")
    with pytest.raises(Conflict) as caught:
        await log.append(0, b"second")
    assert caught.value.reason == "LOG_MOVED"
    assert await log.read_all() == [b"first"]
    assert await log.append(0, b"first") == 1  # sent again after an unclear outcome: it is one's own


async def test_many_writers_leave_no_gap(log: NumberedLog) -> None:
    async def write(name: int) -> None:
        left = 10
        while left:
            head = await log.head()
            try:
                await log.append(head[0] if head else 0, f"{name} {left}".encode())
                left -= 1
            except Conflict:
                continue

    await asyncio.gather(*(write(n) for n in range(5)))
    entries = await log.read_all()
    assert sorted(entries) == sorted(f"{n} {i}".encode() for n in range(5) for i in range(1, 11))


def test_numbers_sort_as_text() -> None:
    assert sorted(keys.number(n) for n in (10, 9, 100, 1)) == [keys.number(n) for n in (1, 9, 10, 100)]
    for n in (0, -1, 100_000_000):
        with pytest.raises(Invalid):
            keys.number(n)


def test_every_key_begins_with_its_project_and_is_one() -> None:
    ulid, digest = "01arz3ndektsv4rrffq69g5fav", "sha256:" + "ab" * 32
    made = [
        keys.blob("p", digest), keys.request("p", "create runs", "weird id /../ ä"), keys.dataset_head("p", "d"),
        keys.item("p", "d", ulid), keys.version("p", "d", "v1"), keys.model("p", "m"), keys.alias("p", "best"),
        keys.suite_version("p", "s", "1"), keys.generation("p", ulid), keys.job_spec("p", "runs", ulid),
        keys.job_log("p", "runs", ulid), keys.attempt_file("p", "runs", ulid, 1, "checkpoints/1/x.bin"),
        keys.heartbeat("p", "runs", ulid, 2), keys.events("p", "runs", ulid, 3), keys.open_job("p", "runs", ulid),
        keys.ended_jobs("p", "runs"), keys.tombstone("p", "models", "m"), keys.reservation("p", "m"),
    ]  # fmt: skip
    assert all(keys.check_key(key).startswith("p/p/") for key in made)
    assert len(set(made)) == len(made)
    assert keys.blob("p", digest) == f"p/p/blobs/sha256/ab/{'ab' * 32}"


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "a b", "x" * 64, "-a", "a-", "ä", "a\n", ".a"])
def test_no_name_reaches_outside(name: str) -> None:
    makers: list[Callable[[], str]] = [
        lambda: keys.project(name),
        lambda: keys.model("p", name),
        lambda: keys.dataset_head("p", name),
        lambda: keys.version("p", "d", name),
        lambda: keys.item("p", "d", name),
        lambda: keys.blob("p", name),
        lambda: keys.attempt_file("p", "runs", "01arz3ndektsv4rrffq69g5fav", 1, f"../{name}"),
    ]
    for make in makers:
        with pytest.raises(Invalid):
            make()
