"""The store dies in mid-run for longer than a call waits, and comes back."""

from pathlib import Path

import pytest
from hayy.demo.seaweed import Seaweed

from tests.integration.store.outage import survive, trainer_survives

pytestmark = pytest.mark.slow


async def test_a_run_survives_an_outage_of_its_store(server: Seaweed, tmp_path: Path) -> None:
    await survive(server, tmp_path, seconds=12, hung=False)


async def test_a_trainer_and_its_run_survive_an_outage_of_the_store(server: Seaweed, tmp_path: Path) -> None:
    await trainer_survives(server, tmp_path, seconds=12, hung=False)
