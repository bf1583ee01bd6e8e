"""Requests that come to several servers, each by a clock of its own that only its work moves.

The servers take turns, whoever is furthest behind goes next, so that what the machine does meanwhile falls on all.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.serving.servers import Arrival, Server
from benchmarks.serving.workload import ADAPTERS, SCHEDULERS, Asked

TOLERANCE = 0.02
"""Of a latent's spread: a network of random weights widens the last digit's difference step by step."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """How long each request took, by its name, and the seconds until the last was done."""

    latency: Mapping[int, float]
    seconds: float


def arrivals(requests: Sequence[Asked], *, side: int, gap: float) -> list[Arrival]:
    """The requests with their times; `gap` seconds pass between two on average, and with 0 all are there at once."""
    return [
        Arrival(
            name=name,
            asked=one,
            side=one.side or side,
            at=one.at * gap,
            leaves=None if one.leaves is None else one.leaves * gap,
        )
        for name, one in enumerate(requests)
    ]


def serve(servers: Mapping[str, Callable[[], Server]], coming: Sequence[Arrival]) -> dict[str, Served]:
    """Have fresh servers serve the same arrivals. Raises AssertionError when they do not draw the same."""
    made = {name: make() for name, make in servers.items()}
    for server in made.values():
        warm(server, sorted({one.side for one in coming}))
    ends: dict[str, dict[int, float]] = {name: {} for name in made}
    latents: dict[str, dict[int, torch.Tensor]] = {name: {} for name in made}
    running = {name: _run(server, coming, ends[name], latents[name]) for name, server in made.items()}
    while running:
        behind = min(running, key=lambda name: made[name].clock.now())
        if next(running[behind], None) is None:
            del running[behind]
    same(latents, {one.name for one in coming if one.leaves is None})
    at = {one.name: one.at for one in coming}
    return {
        name: Served(
            latency={one: end - at[one] for one, end in ends[name].items()},
            seconds=max(ends[name].values()),
        )
        for name in made
    }


def warm(server: Server, sides: Sequence[int]) -> None:
    """What happens once: measured widths, every adapter in use, every kernel chosen."""
    for side in sides:
        for name, adapter in enumerate(("", *ADAPTERS)):
            scheduler = SCHEDULERS[name % len(SCHEDULERS)]
            asked = Asked(at=0.0, seed=name, steps=2, scheduler=scheduler, guidance=3.0, adapter=adapter, weight=1.0)
            server.enter(Arrival(name=name, asked=asked, side=side, at=0.0, leaves=None))
        while server.busy:
            server.work()
    server.clock.begin()


def _run(
    server: Server, coming: Sequence[Arrival], ends: dict[int, float], latents: dict[int, torch.Tensor]
) -> Iterator[bool]:
    """Serve all, a piece of work at a time."""
    events = [(one.at, 0, one) for one in coming]
    events += [(one.leaves, 1, one) for one in coming if one.leaves is not None]
    events.sort(key=lambda event: event[:2])
    at = 0
    while at < len(events) or server.busy:
        while at < len(events) and events[at][0] <= server.clock.now():
            _, leaves, one = events[at]
            (server.leave if leaves else server.enter)(one)
            at += 1
        if server.busy:
            done = server.work()
            latents.update(done)
            ends.update(dict.fromkeys(done, server.clock.now()))
        elif at < len(events):
            server.clock.wait_until(events[at][0])
        yield True


def same(latents: Mapping[str, Mapping[int, torch.Tensor]], names: set[int]) -> None:
    """Raises AssertionError unless all servers drew all of these, and alike."""
    (first, reference), *others = latents.items()
    for server, found in others:
        for name in sorted(names):
            wanted, seen = reference[name], found[name]
            off = float((wanted - seen).abs().max() / wanted.std())
            assert off <= TOLERANCE, f"{first} and {server} differ by {off:.3g} of the spread in request {name}"


def short_beside_long(step_seconds: float, *, rounds: int, side: int) -> list[Arrival]:
    """While a request of 50 steps runs, one of 4 comes at a moment that chance picks; then all are let end.
    `step_seconds` is what a step takes whoever serves one at a time."""
    chance = random.Random(3)
    long = Asked(at=0.0, seed=0, steps=50, scheduler="ddim", guidance=5.0, adapter="a", weight=1.0)
    found: list[Arrival] = []
    for turn in range(rounds):
        begins = 70 * step_seconds * turn
        short = replace(long, seed=turn, steps=4, scheduler="euler", adapter="b")
        times = ((long, begins), (short, begins + chance.uniform(0.0, 50.0) * step_seconds))
        for asked, at in times:
            found.append(Arrival(name=len(found), asked=asked, side=side, at=at, leaves=None))
    return found
