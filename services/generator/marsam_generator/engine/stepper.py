"""Ticks: the next step of as many pictures as fit, in one forward, and what comes of it for each.

Without a thread of its own: whoever drives it calls, between ticks, what must not happen during one.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from marsam.core.errors import Cancelled, Deadline, Internal, MarsamError
from marsam.diffusion.sampling import Walk, told
from marsam.diffusion.spec import Family
from marsam_generator.engine.ending import is_short_of_memory, stated
from marsam_generator.engine.forwards import EXACT_ROWS, Denoiser, Forwards
from marsam_generator.engine.lanes import Lanes, Row
from marsam_generator.engine.roster import Roster
from marsam_generator.engine.slots import Group, Live, Slot, row_of, rows_of
from marsam_generator.engine.width import Widths
from marsam_generator.engine.work import Denoised, Failed, Glimpsed, Order, Stepped


@dataclass(frozen=True, kw_only=True)
class Tick:
    """What one tick did, for whoever measures: `rows` of `width` possible ones took `seconds`. `sides` are those of its
    pictures in pixels, `curve` what was measured at other widths: (rows, rows per second)."""

    denoiser: str
    sides: tuple[int, int]
    exact: bool
    rows: int
    width: int
    seconds: float
    pictures_done: int
    curve: Sequence[tuple[int, float]] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """An order that was cancelled, or whose deadline passed: steps that nobody had to take for it, times rows, and the
    ticks that ended between its cancel and the freedom of its places."""

    row_steps: int
    ticks: int


class Stepper:
    """The orders of one base. Belongs to one thread at a time; owns `lanes`.

    `denoisers` may be changed between ticks. `widths` is asked, and measures, before a tick. `observe` is called after
    every tick, `cut` for every order that ended before its time.
    """

    def __init__(
        self,
        *,
        family: Family,
        denoisers: dict[str, Denoiser],
        device: str,
        lanes: Lanes,
        widths: Widths,
        observe: Callable[[Tick], None],
        cut: Callable[[Cut], None] = lambda cut: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ticks = 0
        self._denoisers = denoisers
        self._device = device
        self._lanes = lanes
        self._widths = widths
        self._observe = observe
        self._cut = cut
        self._clock = clock
        self._forwards = Forwards(family=family, device=device)
        self._roster = Roster()
        self._picked: list[Slot] = []

    @property
    def busy(self) -> bool:
        """Whether there is a picture to be drawn."""
        return bool(self._roster.live)

    def admit(self, order: Order) -> None:
        """Take an order in; one that cannot begin is told so."""
        live = Live(order)
        try:
            facts = self._denoisers[order.denoiser].facts
            for index, picture in enumerate(order.pictures):
                walk = Walk(facts, picture, order.ground)
                cond = told(row_of(order.conditional, index), [picture])
                uncond = (
                    row_of(order.unconditional, index) if picture.guided and order.unconditional is not None else None
                )
                live.slots.append(Slot(live, index, walk, cond, uncond))
        except Exception as error:
            live.tell(Failed(error=stated(error)))
            return
        self._roster.add(live)

    def cancel(self, orders: Mapping[str, int]) -> None:
        """End those of these orders that are here: id → ticks that had ended when it was cancelled. So end those whose
        listener is gone."""
        for live in list(self._roster.live.values()):
            if live.order.id in orders or live.cancelled:
                self._end_early(live, Cancelled("the generation was cancelled"), since=orders.get(live.order.id))

    def expire(self) -> None:
        """End the orders whose deadline passed."""
        now = self._clock()
        for live in list(self._roster.live.values()):
            deadline = live.order.terms.deadline
            if deadline is not None and now >= deadline:
                late = Deadline(f"the deadline passed after {live.steps} of {live.order.steps} steps")
                self._end_early(live, late, since=None)

    def abandon(self, error: MarsamError, *, picked: bool = False) -> None:
        """End every order, or those of the running tick, with this error."""
        lives = {id(slot.live): slot.live for slot in self._picked} if picked else self._roster.live
        for live in list(lives.values()):
            self._end(live, error)

    def close(self) -> None:
        """End the lanes."""
        self._lanes.close()

    def tick(self) -> None:
        """Take the next step of as many pictures as fit."""
        lead = self._roster.lead()
        if lead is None:
            return
        self._picked = [lead]  # who is told, should measuring the width fail
        width = self._width(lead)
        self._picked = picked = self._roster.choose(lead, width)
        began = self._clock()
        rows = [row for slot in picked for row in rows_of(slot)]
        results = iter(self._run(lead.group, rows))
        failures: dict[str, MarsamError] = {}
        for slot in picked:
            predictions = [next(results) for _ in range(slot.rows)]
            if slot.live.order.id in failures:
                continue  # another picture of the same order failed in this tick
            failure = _advance(slot, predictions)
            if failure is not None:
                failures[slot.live.order.id] = stated(failure)
            else:
                slot.live.steps += 1
        seconds = self._clock() - began
        self._roster.served(picked, seconds)
        self.ticks += 1
        lives = {slot.live.order.id: slot.live for slot in picked}
        served = [live for name, live in lives.items() if name not in failures]
        finished = [slot for slot in picked if slot.walk.done and slot.live.order.id not in failures]
        self._report(lead, rows=len(rows), width=width, seconds=seconds, done=len(finished))
        for live in served:
            live.tell(Stepped(done=live.steps, of=live.order.steps, rows=len(rows), began=began))
        for slot in finished:
            self._roster.finish(slot)
            slot.live.tell(Denoised(index=slot.index, latent=slot.walk.latent))
        for name, error in failures.items():
            self._end(lives[name], error)
        if not self.busy:
            self._forwards.forget()

    def _run(self, group: Group, rows: Sequence[Row]) -> list[torch.Tensor | Exception]:
        def failed(_: int, error: Exception) -> None:
            if is_short_of_memory(error):
                self._widths.lower(group, len(rows) // 2)
                if self._device.startswith("cuda"):
                    torch.cuda.empty_cache()

        forward = self._forwards.of(self._denoisers[group.denoiser], exact=group.exact)
        return self._lanes.run(rows, forward, most=EXACT_ROWS if group.exact else None, failed=failed)

    def _width(self, lead: Slot) -> int:
        if lead.group.exact:
            return EXACT_ROWS * self._lanes.count
        row = Row(noisy=lead.walk.model_input(), t=lead.walk.t, cond=lead.cond, adapters={})
        forward = self._forwards.of(self._denoisers[lead.group.denoiser], exact=False)
        clock = time.thread_time if self._device == "cpu" else time.monotonic
        return self._widths.of(lead.group, lambda rows: self._lanes.cost([row] * rows, forward, clock=clock))

    def _report(self, lead: Slot, *, rows: int, width: int, seconds: float, done: int) -> None:
        picture = lead.walk.picture
        self._observe(
            Tick(
                denoiser=lead.group.denoiser,
                sides=(picture.width, picture.height),
                exact=lead.group.exact,
                rows=rows,
                width=width,
                seconds=seconds,
                pictures_done=done,
                curve=self._widths.curves.get(lead.group, ()),
            )
        )

    def _end_early(self, live: Live, error: MarsamError, *, since: int | None) -> None:
        left = sum(slot.left * slot.rows for slot in live.slots)
        self._end(live, error)
        self._cut(Cut(row_steps=left, ticks=self.ticks - (self.ticks if since is None else since)))

    def _end(self, live: Live, error: MarsamError) -> None:
        self._roster.remove(live)
        live.tell(Failed(error=error))


def _advance(slot: Slot, predictions: Sequence[torch.Tensor | Exception]) -> Exception | None:
    """Take the slot's step and, where one is due, a glimpse; the exception, if a row of it raised, or if the picture
    itself is at fault."""
    for each in predictions:
        if isinstance(each, Exception):
            return each
    said = [each for each in predictions if isinstance(each, torch.Tensor)]
    every, steps, left = slot.live.order.look_every, slot.walk.picture.taken, slot.left - 1
    try:
        if every and left and (steps - left) % every == 0:
            clean = slot.walk.clean(*said)
            slot.live.tell(Glimpsed(index=slot.index, step=steps - left, steps=steps, latent=clean))
        slot.walk.advance(*said)
    except Exception as error:
        return error
    if bool(torch.isfinite(slot.walk.latent).all()):
        return None
    return Internal(
        f"picture {slot.index} left the range of numbers at step {slot.walk.index}",
        reason="NOT_FINITE",
        remedy="lower the guidance or the adapter's weight",
    )
