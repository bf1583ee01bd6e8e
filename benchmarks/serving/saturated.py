"""All requests there at once: how many a second each server gets done."""

import functools
from collections.abc import Callable
from pathlib import Path

from benchmarks.rows import Row, median
from benchmarks.serving.base import Given, given
from benchmarks.serving.queues import arrivals, serve
from benchmarks.serving.servers import Locked, Server, Static, Stepping
from benchmarks.serving.workload import ADAPTERS, read

ROUNDS = 3
REQUESTS = {8: 200, 16: 72, 32: 18}
"""By the latent's side: the first so many of the file, shared out among the rounds."""
OVER_LOCK = {8: 1.9, 16: 1.15, 32: 0.97}
OVER_STATIC = {8: 1.5}


def servers(got: Given, *which: type[Stepping] | type[Locked]) -> dict[str, Callable[[], Server]]:
    """How each is made anew, by the name of its class."""
    return {one.__name__: functools.partial(one, got) for one in which}


def measure(side: int, folder: Path) -> list[Row]:
    """Requests per second of processor time, ours against each."""
    got = given(folder, {name: number for number, name in enumerate(ADAPTERS)})
    requests = read("one_size")[: REQUESTS[side]]
    static = [Static] if side in OVER_STATIC else []
    rounds = [
        serve(servers(got, Stepping, Locked, *static), arrivals(requests[turn::ROUNDS], side=side, gap=0.0))
        for turn in range(ROUNDS)
    ]
    speeds = {name: [len(each[name].latency) / each[name].seconds for each in rounds] for name in rounds[0]}
    rows = [
        median(f"{side}²: {name}, {len(requests) // ROUNDS} requests at once", speeds[key], "/s")
        for key, name in NAMES.items()
        if key in speeds
    ]
    bars = {"Locked": OVER_LOCK[side]} | ({"Static": OVER_STATIC[side]} if static else {})
    for key, bar in bars.items():
        ratio = [each[key].seconds / each["Stepping"].seconds for each in rounds]
        rows.append(median(f"{side}²: saturated, step loop over {NAMES[key]}", ratio, "×", at_least=bar))
    return rows


NAMES = {"Stepping": "step loop", "Locked": "pipeline behind a lock", "Static": "static batcher"}
