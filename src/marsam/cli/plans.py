"""What is known of a run before it is made, as a person reads it."""

from collections.abc import Sequence
from typing import Any

import typer
from google.protobuf import json_format

from marsam.api.trainer.v1 import trainer_pb2
from marsam.cli import console
from marsam.cli.following import summary
from marsam.cli.plain import plain

_VERDICTS = {
    trainer_pb2.PLAN_FIT_GOOD: "fits",
    trainer_pb2.PLAN_FIT_TIGHT: "tight",
    trainer_pb2.PLAN_FIT_SHORT: "does not fit",
}
_OPTIONS = ("method", "batch_size", "resolution", "precision")
"""Fields with an option of their own."""


def print_answer(answer: trainer_pb2.ValidateRunResponse, *, as_json: bool) -> None:
    """Faults, the run in one line, how its captions are read, and its plan. Ends with 3 when there are faults."""
    if as_json:
        console.print_json(plain(answer))
    else:
        for fault in answer.faults:
            console.out().print(f"! {fault.field}: {fault.message}", style="red", markup=False)
            # A plan lists what to change itself.
            if fault.remedy and not (fault.reason.startswith("MEMORY_") and answer.plan.remedies):
                console.out().print(f"  {fault.remedy}", style="dim", markup=False)
        if answer.HasField("resolved"):
            console.out().print(summary(answer.resolved), markup=False)
        for warning in answer.warnings:
            console.out().print(f"~ {warning.field}: {warning.message}", style="yellow", markup=False)
        if answer.readings:
            _print_readings(answer.readings)
        if answer.HasField("plan"):
            _print_plan(answer.plan)
    if answer.faults:
        raise typer.Exit(3)


def print_settings(answer: trainer_pb2.ValidateRunResponse, *, as_json: bool) -> None:
    """Every setting of a run: the few to look at first, then the rest by name; and its faults. Ends with 3 when there
    are some."""
    if as_json:
        console.print_json(plain(answer))
    else:
        for fault in answer.faults:
            console.out().print(f"! {fault.field}: {fault.message}", style="red", markup=False)
        rows = [
            (
                f"{entry.name} *" if entry.visible else entry.name,
                entry.value or "-",
                "you" if entry.given else entry.origin,
                entry.rule or "-",
                entry.description,
            )
            for entry in sorted(answer.settings, key=lambda entry: not entry.visible)
        ]
        console.print_table(("setting", "is", "because of", "may be", "what it does"), rows, nothing="")
    if answer.faults:
        raise typer.Exit(3)


def _print_plan(plan: trainer_pb2.Plan) -> None:
    """The verdict, what each stage takes, and what to change."""
    out = console.out()
    share = plan.total_bytes / plan.available_bytes if plan.available_bytes else 0.0
    verdict = _VERDICTS.get(plan.fit, "fits" if plan.fits else "does not fit")
    basis = f"by {plan.past_runs} past runs" if plan.past_runs else "by arithmetic"
    out.print(
        f"{verdict}: {console.size(plan.total_bytes)} of {console.size(plan.available_bytes)} ({share:.0%}), {basis}",
        markup=False,
    )
    if plan.largest_term:
        largest = next((term.bytes for term in plan.memory if term.term == plan.largest_term), 0)
        out.print(f"most in '{plan.peak_stage}': {plan.largest_term}, {console.size(largest)}", markup=False)
    if plan.seconds:
        out.print(f"about {console.span(plan.seconds)}", markup=False)
    rows = [
        (
            f"{stage.name} *" if stage.name == plan.peak_stage else stage.name,
            console.size(stage.total_bytes),
            console.size(stage.host_bytes) if stage.host_bytes else "-",
            console.span(stage.seconds) if stage.seconds else "-",
            ", ".join(
                f"{term.term} {console.size(term.bytes)}"
                for term in sorted(stage.memory, key=lambda term: term.bytes, reverse=True)
            ),
        )
        for stage in plan.stages
    ]
    columns = ("stage", "memory", "host", "time", "of which")
    if any(stage.host_bytes for stage in plan.stages):
        console.print_table(columns, rows, nothing="")
    else:
        console.print_table(
            [name for name in columns if name != "host"], [(*row[:2], *row[3:]) for row in rows], nothing=""
        )
    if plan.remedies:
        out.print("to make it fit, in this order, each with those before:", markup=False)
        remedies = [
            (
                f"{number}. {' '.join(_option(name, value) for name, value in _changes(remedy).items())}",
                console.size(remedy.total_bytes),
                "fits" if remedy.fits else "",
                remedy.message,
            )
            for number, remedy in enumerate(plan.remedies, 1)
        ]
        console.print_table(("change", "then", "", ""), remedies, nothing="")


def _changes(remedy: trainer_pb2.PlanRemedy) -> dict[str, Any]:
    """What to type: parameters of another method are at its defaults, so they need not be."""
    changes: dict[str, Any] = dict(sorted(json_format.MessageToDict(remedy.changes).items()))
    changes.pop("method_params", None)
    return changes


def _option(name: str, value: Any) -> str:
    """A field's value as the command line takes it."""
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    text = str(whole).lower() if isinstance(whole, bool) else str(whole)
    return f"--{name.replace('_', '-')} {text}" if name in _OPTIONS else f"--set {name}={text}"


def _print_readings(readings: Sequence[trainer_pb2.Reading]) -> None:
    rows = [
        (
            reading.language,
            reading.tokenizer if reading.reaches_attention else f"{reading.tokenizer} (pooled only)",
            str(reading.captions),
            f"{reading.tokens_per_word:.2f}",
            f"{reading.unknown_rate:.1%}",
            f"{reading.truncation_rate:.1%}",
            f"{reading.round_trip_rate:.1%}",
        )
        for reading in readings
    ]
    columns = ("language", "tokenizer", "captions", "tokens/word", "unknown", "truncated", "round trip")
    console.print_table(columns, rows, nothing="")
