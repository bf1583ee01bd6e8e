"""`marsam upkeep`: what an operator does to a store now and then, beside the running services."""

import os
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from marsam.cli import console
from marsam.cli.session import Json, guarded
from marsam.cli.store import Url
from marsam.core.errors import Invalid
from marsam.store.open import open_store

if TYPE_CHECKING:  # it knows jobs, and those bring metrics along: nothing that other commands should wait for
    from marsam.upkeep.collect import Garbage
    from marsam.upkeep.verify import Finding, Tally

app = typer.Typer(no_args_is_help=True, help="Look after a store.", short_help="Look after a store.")

_CORRUPT = 12
_SHOWN = 8
_EVERY_S = 2.0
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


@app.callback()
def group() -> None:
    """Look after a store, beside the services that use it."""


@app.command()
def gc(
    url: Url,
    older_than: Annotated[str, typer.Option(help="Grace period: 90m, 24h, 7d; at least 2h.")] = "24h",
    delete: Annotated[bool, typer.Option("--delete", "--yes", help="Delete, not only tell.")] = False,
    as_json: Json = False,
) -> None:
    """Collect what nothing refers to: blobs, checkpoints of ended runs, left-overs.

    Services may go on working. Exit code 12: a record cannot be read, so nothing was deleted.
    """

    from marsam.upkeep.collect import Collector

    async def main() -> None:
        collector = Collector(open_store(url, os.environ), older_than=_period(older_than))
        records = await collector.look()
        counts: Counter[tuple[str, str]] = Counter()
        sizes: Counter[tuple[str, str]] = Counter()
        async for each in collector.collect(delete=delete):
            word = "kept" if each.kept else "deleted" if each.done else "would go"
            counts[each.kind, word] += 1
            sizes[each.kind, word] += each.size
            _tell(each, word, as_json=as_json)
        rows = [(kind, word, counts[kind, word], sizes[kind, word]) for kind, word in sorted(counts)]
        if as_json:
            sums = [{"kind": kind, "outcome": word, "count": n, "bytes": size} for kind, word, n, size in rows]
            console.print_line({"event": "done", "records": records, "deleted": delete, "sums": sums})
            return
        shown = [(kind, word, f"{n:,}", console.size(size)) for kind, word, n, size in rows]
        console.print_table(("kind", "", "count", "size"), shown, nothing="there is nothing to collect")
        if rows and not delete:
            console.note("nothing was deleted; --delete does it")

    guarded(main, as_json=as_json)


@app.command()
def verify(
    url: Url,
    under: Annotated[str, typer.Option(help="Only what this resource name needs.")] = "",
    sample: Annotated[int | None, typer.Option(min=1, help="Read so many blobs of each project, not all.")] = None,
    as_json: Json = False,
) -> None:
    """Read every blob back and compare it with its digest; name what depends on bad ones.

    Exit code 12 when anything is missing, damaged or unreadable.
    """

    from marsam.upkeep.verify import Tally
    from marsam.upkeep.verify import verify as verified

    async def main() -> None:
        tally = Tally()
        blobs = open_store(url, os.environ)
        progress = _progress(tally, as_json=as_json)
        async for finding in verified(blobs, sample=sample, under=under, tally=tally, tick=progress):
            _report(finding, as_json=as_json)
        if as_json:
            console.print_line({"event": "done", **asdict(tally)})
        else:
            read = f"{tally.blobs:,} blobs ({console.size(tally.bytes)}) read, {tally.records:,} records"
            console.note(f"{read}: " + (f"{tally.findings} findings" if tally.findings else "all is well"))
        if tally.findings:
            raise typer.Exit(_CORRUPT)

    guarded(main, as_json=as_json)


def _tell(each: "Garbage", word: str, *, as_json: bool) -> None:
    if as_json:
        console.print_line(
            {
                "event": "garbage", "outcome": word, "kind": each.kind, "project": each.project, "name": each.name,
                "bytes": each.size, "keys": list(each.keys), "reason": each.kept,
            }
        )  # fmt: skip


def _report(finding: "Finding", *, as_json: bool) -> None:
    if as_json:
        console.print_line({"event": "finding", **asdict(finding)})
        return
    needed = ", ".join(finding.dependents[:_SHOWN]) or "nothing"
    more = f" and {len(finding.dependents) - _SHOWN} more" if len(finding.dependents) > _SHOWN else ""
    console.out().print(
        f"{finding.kind:<10} {finding.message}; needed by {needed}{more}; {finding.remedy} ({finding.key})",
        markup=False,
    )


def _progress(tally: "Tally", *, as_json: bool) -> Callable[[], None]:
    """Tells now and then how far it is, on standard error, or as an event."""
    told = time.monotonic()

    def tell() -> None:
        nonlocal told
        if time.monotonic() - told < _EVERY_S:
            return
        told = time.monotonic()
        if as_json:
            console.print_line({"event": "progress", **asdict(tally)})
        else:
            done, size = f"{tally.blobs:,} of {tally.all_blobs:,} blobs", console.size(tally.all_bytes)
            console.note(f"{done}, {console.size(tally.bytes)} of {size}, {tally.findings} findings")

    return tell


def _period(text: str) -> timedelta:
    found = re.fullmatch(r"([0-9]{1,6})([mhd])", text)
    if found is None:
        raise Invalid(f"--older-than takes a number of minutes, hours or days, got '{text}'", field="--older-than",
                      reason="OPTION_MALFORMED", remedy="for example 24h or 7d")  # fmt: skip
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
