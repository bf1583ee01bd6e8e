"""`marsam runs …`"""

from typing import Annotated, Any

import typer

from marsam.api.trainer.v1 import trainer_pb2
from marsam.cli import console
from marsam.cli.compare import compare
from marsam.cli.following import find, finish, follow_run, summary
from marsam.cli.plain import plain
from marsam.cli.session import Json, run
from marsam.cli.train import set_fields
from marsam.client import AsyncMarsam, is_final, short, state_name

app = typer.Typer(no_args_is_help=True, help="Follow and steer training runs.", rich_markup_mode=None)

app.command()(compare)

_STEERED = "Run, or the start of its id; `latest` is the newest."

Name = Annotated[str, typer.Argument(help=_STEERED)]


@app.command("list")
def list_(
    context: typer.Context,
    filter: Annotated[str, typer.Option(help="Such as state=FAILED or family=sd1.")] = "",
    as_json: Json = False,
) -> None:
    """List the project's runs, newest first."""

    async def work(marsam: AsyncMarsam) -> Any:
        return await marsam.runs.list(filter=filter)

    found = sorted(run(context, work, as_json=as_json), key=lambda r: r.name, reverse=True)
    if as_json:
        console.print_json([plain(one) for one in found])
        return
    console.print_table(
        ("run", "state", "step", "base", "data", "method", "model", "created"),
        [
            (
                short(one.name),
                state_name(one.state).lower(),
                f"{one.progress.step}/{one.progress.steps or one.spec.steps}",
                short(one.spec.base),
                short(one.spec.dataset_version),
                one.spec.method,
                short(one.model),
                console.when(one.create_time),
            )
            for one in found
        ],
        nothing="no runs yet: marsam train --base BASE --data DATASET/VERSION",
    )


@app.command()
def show(context: typer.Context, name: Name = "latest", as_json: Json = False) -> None:
    """Show a run: its spec, state, progress and history."""

    async def work(marsam: AsyncMarsam) -> Any:
        return await find(marsam, name)

    found = run(context, work, as_json=as_json)
    if as_json:
        console.print_json(plain(found))
        return
    _print_run(found)
    console.out().print()
    console.print_table(
        ("#", "state", "attempt", "reason", "message", "at"),
        [
            (
                str(t.sequence),
                state_name(t.state).lower(),
                str(t.attempt or ""),
                t.reason,
                t.message,
                console.when(t.time),
            )
            for t in found.history
        ],
        nothing="no history",
    )


@app.command()
def watch(context: typer.Context, name: Name = "latest", as_json: Json = False) -> None:
    """Watch a run until it ends. Ctrl-C detaches; the run goes on."""

    async def work(marsam: AsyncMarsam) -> Any:
        found = await find(marsam, name)
        return await follow_run(marsam, found.name, as_json=as_json)

    finish(run(context, work, as_json=as_json), as_json=as_json)


@app.command()
def cancel(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Ask a run to stop. It keeps its checkpoints and can be resumed."""

    async def work(marsam: AsyncMarsam) -> Any:
        found = await find(marsam, name)
        return await marsam.runs.cancel(found.name)

    _acknowledge(run(context, work, as_json=as_json), as_json=as_json)


@app.command()
def resume(
    context: typer.Context,
    name: Name,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Do otherwise from here: profile=large."),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not watch.")] = False,
    as_json: Json = False,
) -> None:
    """Start a failed or cancelled run again from its newest checkpoint."""

    async def work(marsam: AsyncMarsam) -> Any:
        found = await find(marsam, name)
        spec = trainer_pb2.RunSpec()
        resumed = await marsam.runs.resume(found.name, spec, changed=set_fields(spec, changes or []))
        return resumed if detach else await follow_run(marsam, resumed.name, as_json=as_json)

    result = run(context, work, as_json=as_json)
    if detach:
        _acknowledge(result, as_json=as_json)
    else:
        finish(result, as_json=as_json)


def _acknowledge(run_: trainer_pb2.Run, *, as_json: bool) -> None:
    if as_json:
        console.print_json(plain(run_))
    else:
        console.out().print(f"{short(run_.name)} is {state_name(run_.state).lower()}", markup=False)


def _print_run(found: trainer_pb2.Run) -> None:
    progress = found.progress
    facts = [f"step {progress.step}/{progress.steps}"] if progress.steps else []
    if progress.loss:
        facts.append(f"loss {progress.loss:.4f}")
    if not is_final(found.state) and progress.eta_seconds:
        facts.append(f"{console.span(progress.eta_seconds)} left")
    peak = console.size(progress.memory_peak_bytes) if progress.memory_peak_bytes else ""
    console.print_facts(
        [
            ("run", found.name),
            ("state", " ".join(w for w in (state_name(found.state).lower(), found.reason) if w)),
            ("message", found.message),
            ("spec", summary(found.spec)),
            ("progress", ", ".join(facts)),
            ("peak memory", peak),
            ("model", found.model),
            ("created", console.when(found.create_time)),
        ]
    )
