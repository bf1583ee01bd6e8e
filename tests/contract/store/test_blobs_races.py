"""Processes that race: nothing is lost, nothing is torn, nobody wins twice."""

import json
from pathlib import Path

import pytest

from marsam.store.blobs import names
from marsam.store.open import open_store
from tests.contract.store.racing import RACERS, Racer, race_for_a_log
from tests.contract.store.stores import ALL_STORES


@pytest.fixture(params=sorted(ALL_STORES))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        request.getfixturevalue("seaweed")
    return ALL_STORES[request.param](tmp_path)


@pytest.mark.slow
async def test_racing_processes_lose_and_tear_nothing(url: str) -> None:
    await race_for_a_log(url, entries=20)


@pytest.mark.slow
async def test_each_key_has_one_winner_who_knows_it(url: str) -> None:
    racers = [Racer("once", url, f"r{n}", 50) for n in range(RACERS)]
    for one in racers:
        one.shot()
    won = {f"r{n}": one.result() for n, one in enumerate(racers)}
    assert sorted(n for some in won.values() for n in some) == list(range(50))
    blobs = open_store(url)
    for name, some in won.items():
        for n in some:
            assert json.loads(await blobs.get(f"race/once/{n}"))["body"].startswith(f"{name} {n} ")
    assert len(await names(blobs, "race/once", folders=False)) == 50
