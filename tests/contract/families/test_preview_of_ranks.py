"""Ranks that draw a preview together stay together when one of them cannot."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from marsam_trainer.run import drawing, preview

from marsam.core.errors import Unavailable
from marsam.diffusion.lanes.net import Lanes
from marsam.diffusion.spec import Components
from marsam.jobs.states import State, Transition
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


@pytest.mark.parametrize(
    ("error", "reason"),
    [(torch.OutOfMemoryError("no room"), "PREVIEW_OUT_OF_MEMORY"), (ValueError("no sense"), "PREVIEW_FAULT")],
)
def test_what_goes_wrong_inside_of_a_model_in_parts_ends_the_attempt(
    bases: dict[str, Path], error: Exception, reason: str
) -> None:
    """And nothing else does: neither a fault elsewhere, nor one inside of a model that is whole."""
    rig = rigs.load(bases["sd1"], "sd1", "lora")
    texts = rig.family.encode_text(rig.parts, ["a kite", ""])
    wanted = preview.pictures(["a kite"], rig.parts.facts, side=rig.side, seed=1)
    assert rig.parts.denoiser is not None

    def draw(parts: Components, *, in_parts: bool) -> object:
        return preview.draw(rig.family, parts, wanted, texts, lanes=Lanes(1), budget_s=60.0, in_parts=in_parts)

    def fail(*_: object) -> None:
        raise error

    assert draw(rig.parts, in_parts=True) is not None
    assert draw(replace(rig.parts, image_coder=None), in_parts=True) is None
    hook = rig.parts.denoiser.conv_in.register_forward_pre_hook(fail)
    assert draw(rig.parts, in_parts=False) is None
    generator = torch.get_rng_state()
    with pytest.raises(Unavailable) as caught:
        draw(rig.parts, in_parts=True)
    assert (caught.value.reason, str(error) in caught.value.message) == (reason, True)
    assert torch.equal(torch.get_rng_state(), generator)
    hook.remove()
    assert not rig.parts.denoiser._forward_pre_hooks
    assert draw(rig.parts, in_parts=True) is not None


def _entry(state: State, reason: str, **detail: object) -> Transition:
    return Transition(seq=1, state=state, attempt=1, writer_id="w", at=datetime.now(UTC), reason=reason, detail=detail)


def test_pictures_are_left_out_until_somebody_resumes_the_run() -> None:
    ordered, fell = _entry(State.PENDING, "CREATED"), _entry(State.PENDING, "RETRY", cause="PREVIEW_OUT_OF_MEMORY")
    lost, resumed = _entry(State.PENDING, "RETRY", cause="RANK_LOST"), _entry(State.PENDING, "RESUMED")
    waits = _entry(State.STARTING, "")
    assert drawing.fell_before([ordered, waits, lost, waits]) == ""
    assert drawing.fell_before([ordered, waits, fell, waits, lost, waits]) == "PREVIEW_OUT_OF_MEMORY"
    assert drawing.fell_before([ordered, waits, fell, waits, resumed, waits]) == ""
