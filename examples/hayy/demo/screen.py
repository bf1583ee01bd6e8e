"""What the person at the terminal sees: bars, findings, the verdict."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from marsam.api.dataset.v1 import dataset_pb2
from marsam.api.trainer.v1 import trainer_pb2
from marsam.client import Transfer, state_name


class Screen:
    """Writes to one console; on a pipe the bars are silent and only the results are printed."""

    Count = Callable[[int, int, str], None]

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextlib.contextmanager
    def work(self, title: str) -> Iterator[None]:
        """A step of unknown length."""
        with self._console.status(title):
            yield
        self._console.print(f"[green]✓[/] {title}", highlight=False)

    @contextlib.contextmanager
    def count(self, title: str) -> Iterator[Count]:
        """A step that counts; call the value with (done, total, detail)."""
        with self._bar() as bar:
            task = bar.add_task(title, total=None, detail="")

            def show(done: int, total: int, detail: str) -> None:
                bar.update(task, completed=done, total=total or None, detail=detail)

            yield show

    @contextlib.contextmanager
    def transfer(self, title: str) -> Iterator[Callable[[Transfer], None]]:
        """A step that sends files."""
        with self.count(title) as show:
            yield lambda sent: show(sent.files, sent.files_total, f"{sent.bytes / 1e6:.1f} MB")

    @contextlib.contextmanager
    def training(self, title: str) -> Iterator[Callable[[trainer_pb2.Progress], None]]:
        """A run: step, loss, images/s, time left."""
        with self.count(title) as show:
            yield lambda at: show(at.step, at.steps, _training_detail(at))

    def note(self, text: str) -> None:
        """A line about what just happened."""
        self._console.print(f"  {text}", highlight=False, markup=False)

    def ended(self, text: str, state: int) -> None:
        """How a job ended."""
        self.note(f"{text} ({state_name(state).lower()})")

    def findings(self, name: str, report: dataset_pb2.Report) -> None:
        """What the checks say about a set, its warnings first."""
        for warning in report.warnings:
            self._console.print(f"  [yellow]![/] {warning}", highlight=False)
        found = sorted({item.finding.check for item in report.findings})
        self.note(f"{name}: {report.kept} of {report.items} pictures would be kept; found: {', '.join(found) or '-'}")

    def verdict(self, sentence: str) -> None:
        """The report's first sentence."""
        self._console.print(f"\n[bold]{sentence}[/]", highlight=False)

    def _bar(self) -> Progress:
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=self._console,
        )


def _training_detail(at: trainer_pb2.Progress) -> str:
    if at.phase != "training":
        return at.phase
    return f"loss {at.loss:.3f}  {at.images_per_second:.1f} images/s  {at.eta_seconds:.0f} s left"
