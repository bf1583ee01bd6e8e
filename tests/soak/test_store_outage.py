"""The S3 store is away for a minute in mid-run: dead, or silent with open connections. The run waits, and ends well."""

from pathlib import Path

import pytest
from hayy.demo.seaweed import Seaweed

from tests.integration.store.outage import survive, trainer_survives

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

OUTAGE_S = 60.0


@pytest.mark.parametrize("hung", [False, True], ids=["dead", "silent"])
async def test_a_run_survives_a_minute_without_its_store(server: Seaweed, tmp_path: Path, hung: bool) -> None:
    await survive(server, tmp_path, seconds=OUTAGE_S, hung=hung)


@pytest.mark.parametrize("hung", [False, True], ids=["dead", "silent"])
async def test_a_trainer_survives_it_too(server: Seaweed, tmp_path: Path, hung: bool) -> None:
    await trainer_survives(server, tmp_path, seconds=OUTAGE_S, hung=hung)
