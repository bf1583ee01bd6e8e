"""The step loop: one thread per base that puts every picture's next step into shared forwards.

A tick takes the next step of as many pictures as fit the width, whatever their step counts, schedulers, guidance,
seeds, adapters and weights. What must agree inside a tick is only the denoiser, the latent's shape and the text's
length. Arrivals, cancels, deadlines and changes of the bank happen between ticks and nowhere else.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import torch

from marsam.core.errors import Cancelled, Deadline, Internal, MarsamError, Unavailable
from marsam.diffusion.sampling import Walk, join, told
from marsam.diffusion.spec import BaseFacts, Family
from marsam.telemetry import Log
from marsam_generator.engine.bank import AdapterBank
from marsam_generator.engine.lanes import Forward, Lanes, Row
from marsam_generator.engine.slots import Live, Slot, group_of, row_of, rows_of
from marsam_generator.engine.width import Widths
from marsam_generator.engine.work import Denoised, Failed, Order, Stepped

T = TypeVar("T")
_log = Log(__name__)


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """A denoiser that the loop can drive, with the bank of the adapters that act on it."""

    module: torch.nn.Module
    bank: AdapterBank


@dataclass(frozen=True, kw_only=True)
class Tick:
    """What one tick did, for whoever measures."""

    rows: int
    seconds: float
    pictures_done: int


class StepLoop:
    """Owns the device. `submit`, `cancel` and `between` may be called from any thread; everything else runs on its
    own.

    `denoisers` may be changed inside `between` only. `widths` is asked, and measures, on the loop's thread. `observe`
    is called after every tick.
    """

    def __init__(
        self,
        *,
        name: str,
        family: Family,
        facts: BaseFacts,
        denoisers: dict[str, Denoiser],
        device: str,
        lanes: Lanes,
        widths: Widths,
        observe: Callable[[Tick], None],
    ) -> None:
        self.denoisers = denoisers
        self._family = family
        self._facts = facts
        self._device = device
        self._lanes = lanes
        self._widths = widths
        self._observe = observe
        self._wake = threading.Condition()
        self._arrivals: list[Order] = []
        self._cancels: set[str] = set()
        self._calls: list[tuple[Callable[[], object], Future[object]]] = []
        self._closing = False
        self._live: dict[str, Live] = {}
        self._served: dict[tuple[object, ...], int] = defaultdict(int)
        self._ticks = 0
        self._picked: list[Slot] = []
        self._thread = threading.Thread(target=self._run, name=f"marsam-loop-{name}", daemon=True)
        self._thread.start()

    def submit(self, order: Order) -> None:
        """Hand in an order; its events begin with the next tick. Raises `Unavailable` once the loop is closing."""
        with self._wake:
            if self._closing:
                raise Unavailable("the generator is shutting down", reason="SHUTTING_DOWN")
            self._arrivals.append(order)
            self._wake.notify()

    def cancel(self, order_id: str) -> None:
        """Free an order's places before the next tick; it ends with `Failed(Cancelled)`. Unknown ids are ignored."""
        with self._wake:
            dropped = [order for order in self._arrivals if order.id == order_id]
            self._arrivals = [order for order in self._arrivals if order.id != order_id]
            self._cancels.add(order_id)
            self._wake.notify()
        for order in dropped:
            Live(order).tell(Failed(error=Cancelled("the generation was cancelled")))

    def between(self, call: Callable[[], T]) -> "Future[T]":
        """Run `call` on the loop's thread between two ticks."""
        future: Future[T] = Future()
        with self._wake:
            if self._closing:
                future.set_exception(Unavailable("the generator is shutting down", reason="SHUTTING_DOWN"))
                return future
            self._calls.append((call, future))  # type: ignore[arg-type]
            self._wake.notify()
        return future

    def close(self, *, timeout_s: float = 30.0) -> None:
        """Finish the running tick, fail what is left with `Unavailable`, end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout_s)

    # Everything below runs on the loop's thread.

    def _run(self) -> None:
        while self._prepare():
            try:
                self._tick()
            except Exception as error:
                # Nothing that a tick can do may end the loop; whoever was in it is told.
                _log.exception("engine.tick_failed")
                for live in {id(slot.live): slot.live for slot in self._picked}.values():
                    self._end(live, _stated(error))
        for live in list(self._live.values()):
            self._end(live, Unavailable("the generator is shutting down", reason="SHUTTING_DOWN"))
        self._lanes.close()

    def _prepare(self) -> bool:
        """Wait until there is something to do, take it in; False when the loop is to end."""
        with self._wake:
            while not (self._live or self._arrivals or self._calls or self._closing):
                self._wake.wait()
            arrivals, self._arrivals = self._arrivals, []
            cancels, self._cancels = self._cancels, set()
            calls, self._calls = self._calls, []
            closing = self._closing
        for call, future in calls:
            _settle(call, future)
        # Before the arrivals: a cancel means the orders that were there when it came, not a later one of the same id.
        for live in list(self._live.values()):
            if live.order.id in cancels or live.cancelled:
                self._end(live, Cancelled("the generation was cancelled"))
        for order in arrivals:
            self._admit(order)
        now = time.monotonic()
        for live in list(self._live.values()):
            deadline = live.order.terms.deadline
            if deadline is not None and now >= deadline:
                self._end(live, Deadline(f"the deadline passed after {live.steps} of {live.order.steps} steps"))
        return not closing

    def _admit(self, order: Order) -> None:
        live = Live(order)
        try:
            for index, picture in enumerate(order.pictures):
                walk = Walk(self._facts, picture)
                cond = told(row_of(order.conditional, index), [picture])
                uncond = (
                    row_of(order.unconditional, index) if picture.guided and order.unconditional is not None else None
                )
                live.slots.append(Slot(live, index, walk, cond, uncond))
        except Exception as error:
            live.tell(Failed(error=_stated(error)))
            return
        self._live[order.id] = live

    def _tick(self) -> None:
        self._picked = picked = self._choose()
        if not picked:
            return
        began = time.monotonic()
        rows = [row for slot in picked for row in rows_of(slot)]
        results = iter(self._lanes.run(rows, self._forward_of(picked[0].live.order.denoiser)))
        finished: list[Slot] = []
        touched: dict[str, Live] = {}
        for slot in picked:
            predictions = [next(results) for _ in range(slot.rows)]
            live = slot.live
            if live.order.id not in self._live:
                continue  # another picture of the same order failed in this tick
            failure = next((each for each in predictions if isinstance(each, Exception)), None)
            if failure is None:
                failure = self._advance(slot, [each for each in predictions if isinstance(each, torch.Tensor)])
            if failure is not None:
                touched.pop(live.order.id, None)
                self._end(live, _stated(failure))
                continue
            touched[live.order.id] = live
            live.steps += 1
            if slot.walk.done:
                finished.append(slot)
        for live in touched.values():
            live.tell(Stepped(done=live.steps, of=live.order.steps, rows=len(rows), began=began))
        for slot in finished:
            live = slot.live
            if live.order.id not in touched:
                continue
            live.slots.remove(slot)
            live.tell(Denoised(index=slot.index, latent=slot.walk.latent))
            if not live.slots:
                del self._live[live.order.id]
        seconds = time.monotonic() - began
        self._observe(Tick(rows=len(rows), seconds=seconds, pictures_done=len(finished)))

    def _choose(self) -> list[Slot]:
        """The pictures of the coming tick: of the group served longest ago, the most urgent that fit its width."""
        groups: dict[tuple[object, ...], list[Slot]] = defaultdict(list)
        for live in self._live.values():
            for slot in live.slots:
                groups[group_of(slot)].append(slot)
        if not groups:
            return []
        self._ticks += 1
        key = min(groups, key=lambda group: self._served[group])
        self._served = defaultdict(int, {group: tick for group, tick in self._served.items() if group in groups})
        self._served[key] = self._ticks
        members = sorted(groups[key], key=lambda slot: slot.urgency)
        self._picked = members  # who is told, should measuring the width fail
        free = self._width(key, members[0])
        picked: list[Slot] = []
        for slot in members:
            if picked and slot.rows > free:
                slot.waited += 1
                continue
            picked.append(slot)
            free -= slot.rows
            slot.waited = 0
        return picked

    def _width(self, key: tuple[object, ...], sample: Slot) -> int:
        row = Row(noisy=sample.walk.model_input(), t=sample.walk.t, cond=sample.cond, adapters={})
        forward = self._forward_of(sample.live.order.denoiser)
        clock = time.thread_time if self._device == "cpu" else time.monotonic
        return self._widths.of(key, lambda rows: self._lanes.cost([row] * rows, forward, clock=clock))

    def _forward_of(self, name: str) -> Forward:
        denoiser, steps = self.denoisers[name], self._facts.train_steps

        def forward(rows: Sequence[Row]) -> torch.Tensor:
            noisy = torch.cat([row.noisy for row in rows]).to(self._device)
            times = torch.tensor([row.t for row in rows], dtype=torch.float64)
            cond = join([row.cond for row in rows])
            with torch.inference_mode(), denoiser.bank.rows([row.adapters for row in rows]):
                predicted = self._family.predict(denoiser.module, noisy, times, cond, train_steps=steps)
            return predicted.float().cpu()

        return forward

    @staticmethod
    def _advance(slot: Slot, predictions: Sequence[torch.Tensor]) -> Exception | None:
        """Take the slot's step; the exception, if it is this picture's own fault."""
        try:
            slot.walk.advance(*predictions)
        except Exception as error:
            return error
        if not bool(torch.isfinite(slot.walk.latent).all()):
            return Internal(
                f"picture {slot.index} left the range of numbers at step {slot.walk.index}",
                reason="NOT_FINITE",
                remedy="lower the guidance or the adapter's weight",
            )
        return None

    def _end(self, live: Live, error: MarsamError) -> None:
        self._live.pop(live.order.id, None)
        live.slots.clear()
        live.tell(Failed(error=error))


def _stated(error: Exception) -> MarsamError:
    if isinstance(error, MarsamError):
        return error
    return Internal(f"drawing failed: {type(error).__name__}: {error}", reason="DRAWING_FAILED")


def _settle(call: Callable[[], object], future: "Future[object]") -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(call())
    except Exception as error:
        future.set_exception(error)
