"""All requests there at once: how many a second each server gets done."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.rows import Row, median
from benchmarks.serving.base import Given, given
from benchmarks.serving.queues import Served, arrivals, serve
from benchmarks.serving.servers import Locked, Server, Static, Stepping
from benchmarks.serving.workload import ADAPTERS, Asked, read

ROUNDS = 3
REQUESTS = {8: 200, 16: 72, 32: 18}
"""By the latent's side: the first so many of the file, shared out among the rounds."""
WITHOUT = {8: 72, 16: 36}
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
    rounds = _rounds(got, requests, side, Stepping, Locked, *static)
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


def without_adapters(folder: Path) -> list[Row]:
    """The same requests of the base alone: what sharing steps gives without the adapters' part in it."""
    got = given(folder, {name: number for number, name in enumerate(ADAPTERS)})
    rows = []
    for side, count in WITHOUT.items():
        requests = [replace(one, adapter="", weight=0.0) for one in read("one_size")[:count]]
        rounds = _rounds(got, requests, side, Stepping, Locked)
        ratio = [each["Locked"].seconds / each["Stepping"].seconds for each in rounds]
        rows.append(median(f"{side}²: saturated, no adapters, step loop over {NAMES['Locked']}", ratio, "×"))
    return rows


def _rounds(
    got: Given, requests: Sequence[Asked], side: int, *which: type[Stepping] | type[Locked]
) -> list[dict[str, Served]]:
    """Each round serves its share of the requests, all there at once."""
    return [serve(servers(got, *which), arrivals(requests[turn::ROUNDS], side=side, gap=0.0)) for turn in range(ROUNDS)]


NAMES = {"Stepping": "step loop", "Locked": "pipeline behind a lock", "Static": "static batcher"}
