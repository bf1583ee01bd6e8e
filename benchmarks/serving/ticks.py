"""What the step loop adds to the forward that it exists for, and how soon a cancelled request is out of it.

Both ask the real loop with its own thread.
"""

import random
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import torch
from marsam_generator.engine.bank import AdapterBank
from marsam_generator.engine.forwards import Denoiser
from marsam_generator.engine.lanes import Lanes
from marsam_generator.engine.loop import StepLoop
from marsam_generator.engine.stepper import Stepper, Tick
from marsam_generator.engine.width import Widths
from marsam_generator.engine.work import Event, Failed, Order, Stepped

from benchmarks.rows import Row, median
from benchmarks.serving.adapters import cpu, ratios
from benchmarks.serving.base import FAMILY, Given, given, inputs
from benchmarks.serving.servers import BASE, Arrival, order
from benchmarks.serving.workload import SCHEDULERS, Asked

SIDE = 8
ROWS = 8
STEPS = 20
ROUNDS = 9
CANCELS = 200


def loop_of(got: Given, observe: Callable[[Tick], None]) -> StepLoop:
    """A step loop of one lane whose ticks have at most eight rows."""
    stepper = Stepper(
        family=FAMILY,
        denoisers={BASE: Denoiser(module=got.denoiser, bank=AdapterBank(got.denoiser), facts=got.parts.facts)},
        device="cpu",
        lanes=Lanes(1),
        widths=Narrow(limit=ROWS),
        observe=observe,
    )
    return StepLoop(name="bench", stepper=stepper)


class Narrow(Widths):
    """As wide as is allowed, whatever the curve of a busy machine says."""

    def of(self, key: object, cost: Callable[[int], float]) -> int:
        return self.limit


def request(name: int, sink: Callable[[Event], None], *, steps: int) -> Order:
    """A guided picture, two rows of a tick."""
    asked = Asked(
        at=0.0, seed=name, steps=steps, scheduler=SCHEDULERS[name % len(SCHEDULERS)], guidance=5.0, adapter="",
        weight=0.0,
    )  # fmt: skip
    return order(Arrival(name=name, asked=asked, side=SIDE, at=0.0, leaves=None), sink)


def overhead(folder: Path) -> list[Row]:
    """All that the loop's thread does for four pictures, from their arrival to their latents, against as many bare
    forwards of eight rows."""
    got = given(folder, {})
    seen: list[int] = []
    loop = loop_of(got, lambda tick: seen.append(tick.rows))
    bare = got.bare()
    noisy, times, text = inputs(SIDE, rows=ROWS)

    def forward() -> None:
        with torch.inference_mode():
            bare(noisy, times, encoder_hidden_states=text, return_dict=False)

    def drawn() -> float:
        began = loop.between(time.thread_time).result()
        ends = [threading.Event() for _ in range(ROWS // 2)]

        def sink(end: threading.Event) -> Callable[[Event], None]:
            return lambda event: end.set() if isinstance(event, Stepped) and event.done == event.of else None

        orders = [request(number, sink(end), steps=STEPS) for number, end in enumerate(ends)]
        # All of them before the next tick, as on a busy day.
        loop.between(lambda: deque(map(loop.submit, orders))).result()
        for end in ends:
            end.wait()
        return (loop.between(time.thread_time).result() - began) / STEPS

    found: dict[str, list[float]] = {"loop": [], "bare": []}
    for turn in range(ROUNDS + 1):
        pair = {"bare": cpu(forward, calls=STEPS // 2)}
        pair["loop"] = drawn()
        pair["bare"] = (pair["bare"] + cpu(forward, calls=STEPS // 2)) / 2
        if turn:
            for name, seconds in pair.items():
                found[name].append(seconds)
    loop.close()
    assert set(seen) == {ROWS}, f"ticks had {set(seen)} rows"
    added = [100 * (one - 1) for one in ratios(found["loop"], found["bare"])]
    return [
        median(f"{SIDE}²: bare forward of {ROWS} rows", [1000 * one for one in found["bare"]], "ms"),
        median(f"{SIDE}²: tick of {ROWS} rows, all that the loop does", [1000 * one for one in found["loop"]], "ms"),
        median("the loop adds", added, "%", at_most=10.0),
    ]


class Cancelled:
    """A request that is cancelled: when it began, and when the news came that its place is free."""

    def __init__(self) -> None:
        self.begun, self.gone, self.freed = threading.Event(), threading.Event(), 0.0

    def sink(self, event: Event) -> None:
        """Hear of it, on the loop's thread."""
        if isinstance(event, Stepped):
            self.begun.set()
        elif isinstance(event, Failed):
            self.freed = time.monotonic()
            self.gone.set()


def cancelling(folder: Path) -> list[Row]:
    """From `cancel` to the news that its place is free, in ticks: by the seconds of the tick that ran then."""
    got = given(folder, {})
    ticks: list[Tick] = []
    loop = loop_of(got, ticks.append)
    chance = random.Random(1)
    waits = []

    def stay(number: int) -> None:
        def sink(event: Event) -> None:
            if isinstance(event, Stepped) and event.done == event.of:
                stay(number)

        loop.submit(request(number, sink, steps=500))

    for number in range(ROWS // 2 - 1):  # so that the loop is never idle
        stay(number)
    for number in range(100, 100 + CANCELS):
        one = Cancelled()
        loop.submit(request(number, one.sink, steps=100))
        one.begun.wait()
        time.sleep(chance.uniform(0.0, 2 * ticks[-1].seconds))
        cancelled = time.monotonic()
        loop.cancel(str(number))
        one.gone.wait()
        # The tick that ran then; its seconds are of the same busy moment.
        waits.append((one.freed - cancelled) / ticks[-1].seconds)
    loop.close()
    cuts = statistics.quantiles(waits, n=100)
    return [
        Row(name=f"cancel to freed place, median of {CANCELS}", value=cuts[49], unit="ticks"),
        Row(name="cancel to freed place, 99 of 100", value=cuts[98], unit="ticks", at_most=1.2),
    ]
