"""Following long work: one live line on a terminal, plain lines elsewhere, JSON lines with `--json`."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self, TypeVar

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from marsam.cli import console
from marsam.cli.session import Detached

T = TypeVar("T")

_PLAIN_EVERY_SECONDS = 5.0


class Bar(AbstractContextManager["Bar"]):
    """A bar with a name, a share and free text. Off a terminal it prints a line every few seconds instead."""

    def __init__(self, name: str, *, quiet: bool = False) -> None:
        self._name = name
        self._live = sys.stderr.isatty() and not quiet
        self._quiet = quiet
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._said = 0.0
        self._last = ""

    def __enter__(self) -> Self:
        if self._live:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f} %"),
                TextColumn("{task.fields[facts]}", style="dim"),
                console=console.err(),
            )
            self._progress.start()
            self._task = self._progress.add_task(self._name, total=None, facts="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
        elif self._last and not self._quiet:
            console.note(self._last)

    def show(self, done: float, total: float, facts: str, *, name: str | None = None) -> None:
        """Moves the bar to `done` of `total` (0: unknown) and sets the text beside it."""
        if name is not None:
            self._name = name
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total or None, facts=facts, description=self._name)
            return
        share = f"{100 * done / total:3.0f} %  " if total else ""
        line = f"{self._name}  {share}{facts}"
        now = time.monotonic()  # also called from threads
        if now - self._said >= _PLAIN_EVERY_SECONDS and not self._quiet:
            console.note(line)
            self._said, self._last = now, ""
        else:
            self._last = line

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._quiet:
            return
        if self._progress is not None:
            self._progress.console.print(text, markup=False)
        else:
            console.note(text)


async def attached(work: Awaitable[T], *, farewell: str) -> T:
    """Awaits `work`; Ctrl-C leaves it running on the service and raises Detached with `farewell`."""
    try:
        return await work
    except asyncio.CancelledError:
        # asyncio.run turns the first Ctrl-C into a cancellation of the main task.
        raise Detached(farewell) from None


async def consume(events: AsyncIterator[T], take: Callable[[T], None]) -> T | None:
    """Hands every event to `take`; gives the last one."""
    last: T | None = None
    async for event in events:
        take(event)
        last = event
    return last
