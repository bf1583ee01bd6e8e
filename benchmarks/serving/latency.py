"""Requests that come one after the other: how long each waits for its picture."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measures import quantiles
from benchmarks.rows import Row
from benchmarks.serving.base import Given, given
from benchmarks.serving.queues import Served, arrivals, serve, short_beside_long
from benchmarks.serving.saturated import servers
from benchmarks.serving.servers import Locked, Stepping
from benchmarks.serving.workload import ADAPTERS, Asked, read

PROBE = 24
REQUESTS = {8: 120, 16: 80}
LIGHT, TWO_SIZES, BESIDE = 60, 60, 20


def load(side: int, load: float, folder: Path, *, mean: float | None = None, p95: float | None = None) -> list[Row]:
    """The workload at `load` of what the lock can do: mean and 95 of 100, the lock's over ours; and the bars."""
    got = given(folder, {name: number for number, name in enumerate(ADAPTERS)})
    requests = read("one_size")[: REQUESTS[side]]
    gap = gap_of(got, requests, load, side=side)
    found = serve(servers(got, Stepping, Locked), arrivals(requests, side=side, gap=gap))
    return compared(f"{side}², {load:g} of the lock's capacity", found, range(len(requests)), mean=mean, p95=p95)


def light(folder: Path) -> list[Row]:
    """With 0.3 of what the lock can do a request is mostly alone: what the loop itself costs it."""
    side = 8
    got = given(folder, {name: number for number, name in enumerate(ADAPTERS)})
    requests = read("one_size")[:LIGHT]
    gap = gap_of(got, requests, 0.3, side=side)
    found = serve(servers(got, Stepping, Locked), arrivals(requests, side=side, gap=gap))
    ours, theirs = (statistics.fmean(found[name].latency.values()) for name in ("Stepping", "Locked"))
    return [
        Row(name=f"{side}², light load (0.3): mean, step loop", value=1000 * ours, unit="ms"),
        Row(name=f"{side}², light load (0.3): mean, lock", value=1000 * theirs, unit="ms"),
        Row(name=f"{side}², light load (0.3): mean, of the lock's", value=ours / theirs, unit="×", at_most=1.03),
    ]


def beside(folder: Path) -> list[Row]:
    """A request of 4 steps that comes while one of 50 runs."""
    side = 8
    got = given(folder, {name: number for number, name in enumerate(ADAPTERS)})
    step = step_of_lock(got, read("one_size"), side=side)
    coming = short_beside_long(step, rounds=BESIDE, side=side)
    found = serve(servers(got, Stepping, Locked), coming)
    short = [one.name for one in coming if one.asked.steps == 4]
    return compared(f"{side}², 4 steps beside 50", found, short, p95=5.0)


def two_sizes(folder: Path) -> list[Row]:
    """The second file: two sizes, and one in five leaves."""
    got = given(folder, {name: number for number, name in enumerate(ADAPTERS)})
    requests = read("two_sizes")[:TWO_SIZES]
    gap = gap_of(got, requests, 1.0, side=0)
    found = serve(servers(got, Stepping, Locked), arrivals(requests, side=0, gap=gap))
    stayed = [name for name, one in enumerate(requests) if one.leaves is None]
    return compared("8² and 16², a fifth leaves, the lock's capacity", found, stayed)


def step_of_lock(got: Given, requests: Sequence[Asked], *, side: int) -> float:
    """Seconds that the lock takes for a step, its switches and all; of the first requests that stay."""
    coming = [one for one in arrivals(requests, side=side, gap=0.0) if one.leaves is None][:PROBE]
    return serve(servers(got, Locked), coming)["Locked"].seconds / sum(one.asked.steps for one in coming)


def gap_of(got: Given, requests: Sequence[Asked], load: float, *, side: int) -> float:
    """Seconds between two requests that keep the lock busy for `load` of the time."""
    steps = statistics.fmean(one.steps for one in requests)
    return step_of_lock(got, requests, side=side) * steps / load


def compared(
    what: str, found: dict[str, Served], names: Sequence[int], *, mean: float | None = None, p95: float | None = None
) -> list[Row]:
    """Latencies of these requests, ours and the lock's, and how many times as short ours are."""
    ours, theirs = ([found[server].latency[name] for name in names] for server in ("Stepping", "Locked"))
    rows = []
    for server, values in (("step loop", ours), ("lock", theirs)):
        low, high = quantiles(values)
        rows += [
            Row(name=f"{what}: mean, {server}", value=statistics.fmean(values), unit="s"),
            Row(name=f"{what}: median, {server}", value=low, unit="s"),
            Row(name=f"{what}: 95 of 100, {server}", value=high, unit="s"),
        ]
    ratio = statistics.fmean(theirs) / statistics.fmean(ours)
    tail = quantiles(theirs)[1] / quantiles(ours)[1]
    return [
        *rows,
        Row(name=f"{what}: mean, times as short", value=ratio, unit="×", at_least=mean),
        Row(name=f"{what}: 95 of 100, times as short", value=tail, unit="×", at_least=p95),
    ]
