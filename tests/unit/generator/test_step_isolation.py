"""What fails fails alone: memory that runs short, rows that raise, numbers that run away, whatever a forward throws."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from marsam_generator.engine.forwards import EXACT_ROWS
from marsam_generator.engine.lanes import Lanes
from marsam_generator.engine.loop import StepLoop
from marsam_generator.engine.stepper import Cut, Stepper, Tick
from marsam_generator.engine.work import Denoised, Event, Failed, Order, Stepped

from marsam.core.errors import Cancelled, Exhausted, Internal
from marsam.diffusion.spec import BaseFacts
from tests.unit.generator.still import BASE, Hall, Still, Wide, facts_of, still


@pytest.fixture(scope="module")
def facts(base_folder: Path) -> BaseFacts:
    return facts_of(base_folder)


class Tight(Still):
    """Memory for `room` rows."""

    def __init__(self, room: int, error: Exception) -> None:
        super().__init__()
        self.room = room
        self.error = error

    def predict(self, denoiser: object, noisy: torch.Tensor, t: torch.Tensor, cond: object, **_: Any) -> torch.Tensor:
        if noisy.shape[0] > self.room:
            self.forwards.append(noisy.shape[0])
            raise self.error
        return super().predict(denoiser, noisy, t, cond)


SHORT = (
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
)


@pytest.mark.parametrize("error", SHORT, ids=lambda error: type(error).__name__)
def test_a_batch_too_large_for_the_memory_is_drawn_in_halves_and_not_tried_again(
    facts: BaseFacts, error: Exception
) -> None:
    family = Tight(2, error)
    hall = Hall(facts, width=8, family=family)
    names = [hall.enter(3) for _ in range(8)]
    for name in names:
        hall.until_done(name)
    assert all(hall.pictures(name) == 1 and hall.failed(name) is None for name in names)
    # Eight rows, then four, failed in the first tick; from then on nothing wider than half of what failed was tried.
    assert [rows for rows in family.forwards if rows > 2][:3] == [8, 4, 4]
    assert max(tick.rows for tick in hall.ticks[3:]) == 2


def test_a_picture_for_which_there_is_no_memory_is_told_so_and_its_neighbours_are_drawn(facts: BaseFacts) -> None:
    class Particular(Still):
        def predict(self, denoiser: object, noisy: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
            if noisy.shape[-1] > 8:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().predict(denoiser, noisy, *rest, **named)

    hall = Hall(facts, width=8, family=Particular())
    small, large = hall.enter([2, 3]), hall.enter(3, side=32)
    hall.until_done(small)
    hall.until_done(large)
    failure = hall.failed(large)
    assert failure is not None and isinstance(failure.error, Exhausted)
    assert (failure.error.reason, bool(failure.error.remedy)) == ("DEVICE_MEMORY", True)
    assert hall.pictures(small) == 2


class Wild(Still):
    """Numbers that are none for the rows whose noise begins with that of `guilty`."""

    guilty = torch.tensor(torch.nan)

    def predict(self, denoiser: object, noisy: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        predicted = super().predict(denoiser, noisy, *rest, **named)
        guilty = (noisy[:, 0, 0, 0] == self.guilty).view(-1, 1, 1, 1)
        return torch.where(guilty, torch.full_like(predicted, torch.inf), predicted)


@pytest.mark.parametrize("exact", [False, True])
def test_numbers_that_run_away_fail_alone(facts: BaseFacts, exact: bool) -> None:
    family = Wild()
    hall = Hall(facts, width=8, family=family)
    calm = hall.enter([3, 4], exact=exact)
    hall.turn()
    wild = hall.enter(3, exact=exact)
    family.guilty = hall.stepper._roster.live[wild].slots[0].walk.model_input()[0, 0, 0, 0]
    hall.until_done(calm)
    failure = hall.failed(wild)
    assert failure is not None and failure.error.reason == "NOT_FINITE"
    assert hall.pictures(calm) == 2


def test_exact_forwards_have_one_width_whatever_fails_and_whoever_is_there(facts: BaseFacts) -> None:
    family = Tight(EXACT_ROWS, MemoryError())
    hall = Hall(facts, width=64, family=family)
    for count in (1, 3, 5):
        hall.enter([4] * count, exact=True)
        hall.turn()
    while hall.stepper.busy:
        hall.turn()
    assert set(family.forwards) == {EXACT_ROWS}


class Open:
    """A loop with a thread of its own, and what was told."""

    def __init__(self, facts: BaseFacts, family: Any) -> None:
        self.hall = Hall(facts, family=family)
        self.ticks: list[Tick] = []
        self.cuts: list[Cut] = []
        self.ended = threading.Condition()
        stepper = Stepper(
            family=family,
            denoisers={BASE: still(facts)},
            device="cpu",
            lanes=Lanes(1),
            widths=Wide(limit=4),
            observe=self.ticks.append,
            cut=self.cuts.append,
        )
        self.loop = StepLoop(name="still", stepper=stepper)

    def order(self, steps: int) -> tuple[Order, list[Event], threading.Event]:
        """An order, what it was told, and whether it is over."""
        made = self.hall.order(steps)
        told, over = self.hall.told[made.id], threading.Event()

        def sink(event: Event) -> None:
            told.append(event)
            if isinstance(event, Denoised | Failed):
                over.set()

        return Order(**{**vars(made), "sink": sink}), told, over


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), RuntimeError("no"), MemoryError()])
def test_nothing_that_a_forward_throws_ends_the_loop(facts: BaseFacts, error: BaseException) -> None:
    class Throwing(Still):
        armed = True

        def predict(self, *args: Any, **named: Any) -> torch.Tensor:
            if self.armed:
                raise error
            return super().predict(*args, **named)

    family = Throwing()
    opened = Open(facts, family)
    try:
        struck, told, over = opened.order(3)
        opened.loop.submit(struck)
        assert over.wait(20)
        assert isinstance(told[-1], Failed) and isinstance(told[-1].error, Internal | Exhausted)
        family.armed = False
        calm, told, over = opened.order(3)
        opened.loop.submit(calm)
        assert over.wait(20) and isinstance(told[-1], Denoised)
    finally:
        opened.loop.close()


def test_a_cancel_frees_its_place_within_a_tick_and_says_what_it_saved(facts: BaseFacts) -> None:
    class Slow(Still):
        def predict(self, *args: Any, **named: Any) -> torch.Tensor:
            time.sleep(0.005)
            return super().predict(*args, **named)

    opened = Open(facts, Slow())
    try:
        for _ in range(5):
            order, told, over = opened.order(900)
            opened.loop.submit(order)
            while not any(isinstance(event, Stepped) for event in told):
                time.sleep(0.001)
            before = opened.loop.ticks
            opened.loop.cancel(order.id)
            assert over.wait(20)
            assert opened.loop.ticks - before <= 1
            assert isinstance(told[-1], Failed) and isinstance(told[-1].error, Cancelled)
            while not opened.cuts:
                time.sleep(0.001)
            cut = opened.cuts.pop()
            assert cut.ticks <= 1
            steps = max(event.done for event in told if isinstance(event, Stepped))
            assert cut.row_steps == 900 - steps
        assert not opened.loop.busy
    finally:
        opened.loop.close()
