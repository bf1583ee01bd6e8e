"""The queues that the serving figures come from: their workload, their clock, and who waits for whom."""

import json
from dataclasses import asdict

import pytest
import torch

from benchmarks.serving.clocks import WorkClock
from benchmarks.serving.queues import arrivals, serve
from benchmarks.serving.servers import Arrival, Server
from benchmarks.serving.workload import FILES, FOLDER, Asked, read


class One:
    """Takes one at a time, a second a step; what it draws is `level` everywhere but for one number."""

    def __init__(self, level: float = 0.0) -> None:
        self.clock = WorkClock()
        self.waiting: list[Arrival] = []
        self._level = level

    @property
    def busy(self) -> bool:
        return bool(self.waiting)

    def enter(self, arrival: Arrival) -> None:
        self.waiting.append(arrival)

    def leave(self, arrival: Arrival) -> None:
        if arrival in self.waiting:
            self.waiting.remove(arrival)

    def work(self) -> dict[int, torch.Tensor]:
        one = self.waiting.pop(0)
        self.clock.wait_until(self.clock.now() + one.asked.steps)
        return {one.name: torch.tensor([1.0, self._level])}


def asked(at: float, steps: int, leaves: float | None = None) -> Asked:
    return Asked(
        at=at, seed=0, steps=steps, scheduler="ddim", guidance=3.0, adapter="", weight=0.0, side=8, leaves=leaves
    )


def test_the_files_are_what_the_program_makes() -> None:
    for name, make in FILES.items():
        assert json.loads((FOLDER / f"{name}.json").read_text()) == [asdict(one) for one in make()]
        assert len(read(name)) == 200


def test_who_comes_waits_for_who_is_there_and_nobody_for_an_idle_server() -> None:
    coming = arrivals([asked(0.0, 4), asked(1.0, 2), asked(10.0, 3)], side=8, gap=2.0)
    found = serve({"one": One}, coming)["one"]
    assert found.latency == pytest.approx({0: 4.0, 1: 4.0, 2: 3.0})
    assert found.seconds == pytest.approx(23.0)


def test_who_leaves_in_time_is_not_worked_for() -> None:
    coming = arrivals([asked(0.0, 4), asked(1.0, 9, leaves=3.0), asked(2.0, 1)], side=8, gap=1.0)
    found = serve({"one": One}, coming)["one"]
    assert found.latency == pytest.approx({0: 4.0, 2: 3.0})


def test_servers_that_draw_different_pictures_are_not_compared() -> None:
    servers: dict[str, type[Server]] = {"one": One, "other": lambda: One(0.5)}  # type: ignore[dict-item]
    with pytest.raises(AssertionError, match="differ"):
        serve(servers, arrivals([asked(0.0, 1)], side=8, gap=1.0))


def test_a_clock_moves_while_work_runs_and_no_further() -> None:
    clock = WorkClock()
    with clock.running():
        sum(range(200_000))
        inside = clock.now()
    after = clock.now()
    sum(range(200_000))
    assert 0.0 < inside <= after == clock.now()
