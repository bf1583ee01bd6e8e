"""Ranks that draw a preview together stay together when one of them cannot."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from marsam_trainer.run import preview

from marsam.diffusion.lanes.net import Lanes
from tests.contract.families import rig as rigs

pytestmark = pytest.mark.slow


class Table:
    """Where two ranks put their words together; one that waits for a word that does not come breaks it."""

    def __init__(self) -> None:
        self._meeting = threading.Barrier(2)
        self._said = [False, False]

    def any(self, rank: int, flag: bool) -> bool:
        self._said[rank] = flag
        self._meeting.wait(20.0)
        found = any(self._said)
        self._meeting.wait(20.0)
        return found


def _drawn(rig: rigs.Rig, table: Table, rank: int, *, able: bool) -> tuple[bool, bool]:
    """Whether pictures came about, and what is heard of the next question, which all ranks deny."""
    parts = rig.parts if able else replace(rig.parts, image_coder=None)
    texts = rig.family.encode_text(rig.parts, ["a kite", "a door", "", ""])
    wanted = preview.pictures(["a kite", "a door"], parts.facts, side=rig.side, seed=1)
    drawn = preview.draw(
        rig.family, parts, wanted, texts, lanes=Lanes(1), budget_s=60.0, agree=lambda flag: table.any(rank, flag)
    )
    return drawn is not None, table.any(rank, False)


def test_where_one_fails_none_draws_and_the_next_question_is_the_next_for_all(bases: dict[str, Path]) -> None:
    held = [rigs.load(bases["sd1"], "sd1", "lora") for _ in range(2)]
    for able, wanted in ((True, True), (False, False)):
        table = Table()
        with ThreadPoolExecutor(2) as ranks:
            asked = [ranks.submit(_drawn, rig, table, rank, able=able or rank == 0) for rank, rig in enumerate(held)]
        assert [one.result() for one in asked] == [(wanted, False)] * 2
