"""What people see: answers on standard output, everything else on standard error."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape

from marsam.cli import exits
from marsam.core.errors import Invalid, MarsamError

_MOST_VIOLATIONS = 12


def out() -> Console:
    """Standard output, without colour when it is not a terminal."""
    return Console(highlight=False, soft_wrap=True)


def err() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def print_line(value: Any) -> None:
    """One JSON line on standard output, flushed: for streams."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, nothing: str) -> None:
    """Columns two spaces apart, never cut or folded: what one copies must be whole. `nothing` when empty."""
    if not rows:
        out().print(nothing, style="dim", markup=False)
        return
    widths = [max(map(cell_len, column)) for column in zip(columns, *rows, strict=True)]
    console = out()
    console.print(_row(columns, widths), style="dim", markup=False)
    for row in rows:
        console.print(_row(row, widths), markup=False)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Names and values, one pair a line; pairs with an empty value are left out."""
    shown = [(name, value) for name, value in facts if value]
    width = max((cell_len(name) for name, _ in shown), default=0)
    for name, value in shown:
        out().print(f"[dim]{escape(_row((name,), (width,), trim=False))}[/dim]  {escape(value)}")


def _row(cells: Sequence[str], widths: Sequence[int], *, trim: bool = True) -> str:
    padded = "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True))
    return padded.rstrip() if trim else padded


def note(text: str) -> None:
    """A remark on standard error."""
    err().print(text, markup=False)


def fail(error: MarsamError, *, as_json: bool) -> NoReturn:
    """Says what went wrong, where, and what to do; ends with the error's exit code."""
    code = exits.code_for(error)
    if as_json:
        print_line(
            {
                "error": {
                    "code": error.code,
                    "reason": error.reason,
                    "message": error.message,
                    "field": error.field,
                    "resource": error.resource,
                    "remedy": error.remedy,
                    "violations": [
                        {"field": v.field, "message": v.message, "reason": v.reason} for v in _violations(error)
                    ],
                }
            }
        )
        raise typer.Exit(code)
    console = err()
    console.print(f"[bold red]error[/bold red] {escape(error.message)}")
    shown = [v for v in _violations(error) if v.message != error.message]
    for violation in shown[:_MOST_VIOLATIONS]:
        console.print(f"  [bold]{escape(violation.field or 'request')}[/bold]  {escape(violation.message)}")
    if len(shown) > _MOST_VIOLATIONS:
        console.print(f"  … and {len(shown) - _MOST_VIOLATIONS} more")
    if error.field and not shown:
        console.print(f"[dim]where[/dim] {escape(error.field)}")
    if error.resource:
        console.print(f"[dim]what[/dim]  {escape(error.resource)}")
    if error.remedy:
        console.print(f"[dim]try[/dim]   {escape(error.remedy)}")
    console.print(f"[dim]{error.reason}[/dim]")
    raise typer.Exit(code)


def _violations(error: MarsamError) -> Sequence[Any]:
    return error.violations if isinstance(error, Invalid) else ()


def size(count: float) -> str:
    """`4.2 MB`, in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def span(seconds: float) -> str:
    """`0.4 s`, `42 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def when(timestamp: Any) -> str:
    """A protobuf timestamp in the reader's own time zone; empty when unset."""
    if not timestamp.ByteSize():
        return ""
    moment = datetime.fromtimestamp(timestamp.seconds + timestamp.nanos / 1e9, UTC).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S")
