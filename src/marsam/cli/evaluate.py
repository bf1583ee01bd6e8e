"""`marsam evaluate`"""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from marsam.api.common.v1 import common_pb2
from marsam.api.generator.v1 import evaluation_pb2
from marsam.cli import console, exits
from marsam.cli.plain import plain
from marsam.cli.session import Json, known, run, says_missing
from marsam.cli.watching import Bar, attached
from marsam.client import AsyncMarsam, is_final, short, state_name
from marsam.core.errors import Exhausted, Invalid, MarsamError, did_you_mean


def evaluate(
    context: typer.Context,
    models: Annotated[list[str] | None, typer.Argument(help="The baseline, then the models to compare.")] = None,
    suite: Annotated[str, typer.Option(help="Suite version, such as hayy/v1, or its JSON file.")] = "",
    judge: Annotated[str, typer.Option(help="Model that reads the pictures.")] = "",
    language: Annotated[list[str] | None, typer.Option(help="Only these; may be repeated.")] = None,
    report: Annotated[Path, typer.Option("--report", "-o", help="Where to write the report.")] = Path("report.html"),
    resume: Annotated[str, typer.Option("--watch", metavar="ID", help="Return to an evaluation.")] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Do not watch.")] = False,
    as_json: Json = False,
) -> None:
    """Compare models on a suite: same prompts, same seeds, read by a judge, one report."""

    async def work(marsam: AsyncMarsam) -> evaluation_pb2.Evaluation:
        if resume:
            got = marsam.evaluations.get(resume)
            begun = await known(got, kind="evaluation", name=resume, others=lambda: _evaluations(marsam))
        else:
            begun = await _create(marsam, models or [], suite, judge, language or [])
        if detach:
            return begun
        done = await _follow(marsam, begun, as_json=as_json)
        if done.state == common_pb2.JOB_STATE_SUCCEEDED:
            page = await marsam.evaluations.read_report(done.name, format="html")
            await asyncio.to_thread(_write, report, page)
        return done

    done = run(context, work, as_json=as_json)
    written = done.state == common_pb2.JOB_STATE_SUCCEEDED and not detach
    if as_json:
        console.print_line({"evaluation": plain(done), "report": str(report) if written else None})
    elif detach:
        console.note(f"evaluation {short(done.name)} goes on; {_return_to(done.name)}")
    elif written:
        console.out().print(done.verdict, markup=False)
        console.out().print(str(report.absolute()), markup=False)
    else:
        console.note(f"{state_name(done.state).lower()}: {done.message or done.reason}")
    if done.state == common_pb2.JOB_STATE_FAILED:
        raise typer.Exit(exits.JOB_FAILED)
    if done.state == common_pb2.JOB_STATE_CANCELLED:
        raise typer.Exit(exits.JOB_CANCELLED)


async def _create(
    marsam: AsyncMarsam, models: list[str], suite: str, judge: str, languages: list[str]
) -> evaluation_pb2.Evaluation:
    for value, option, example in (
        (models, "MODELS", "marsam evaluate hayy-base my-adapter …"),
        (suite, "--suite", "--suite hayy/v1"),
        (judge, "--judge", "--judge hayy-judge"),
    ):
        if not value:
            raise Invalid(f"{option} is missing", field=option, remedy=f"for example: {example}")
    if suite.endswith(".json"):
        content = await asyncio.to_thread(_read, Path(suite))
        suite = (await marsam.evaluations.register_suite(content)).name
    try:
        return await marsam.evaluations.create(suite=suite, models=models, judge=judge, languages=languages)
    except MarsamError as error:
        if error.remedy or not says_missing(error):
            raise
        registered = [short(s.name) for s in await marsam.evaluations.suites()]
        registered += [short(m.name) for m in await marsam.models.list()]
        error.remedy = did_you_mean(short(error.resource or suite), registered)
        raise


async def _follow(marsam: AsyncMarsam, begun: evaluation_pb2.Evaluation, *, as_json: bool) -> evaluation_pb2.Evaluation:
    last = begun

    async def follow() -> None:
        nonlocal last
        with Bar("waiting", quiet=as_json) as bar:
            async for event in marsam.evaluations.watch(begun.name):
                if as_json:
                    console.print_line(plain(event))
                if event.HasField("snapshot"):
                    last = event.snapshot
                    if not is_final(last.state) and not last.progress.pictures:
                        bar.show(0, 0, last.message, name=state_name(last.state).lower())
                elif event.HasField("progress"):
                    _show(bar, event.progress)

    await attached(follow(), farewell=f"detached; the evaluation goes on; {_return_to(begun.name)}")
    return last


def _return_to(name: str) -> str:
    return f"come back with: marsam evaluate --watch {short(name)}"


def _show(bar: Bar, progress: evaluation_pb2.EvaluationProgress) -> None:
    facts = [f"{progress.pictures_done}/{progress.pictures} pictures"]
    if progress.model:
        facts.append(short(progress.model))
    if progress.images_per_second:
        facts.append(f"{progress.images_per_second:.1f} images/s")
    if progress.eta_seconds:
        facts.append(f"{console.span(progress.eta_seconds)} left")
    bar.show(progress.pictures_done, progress.pictures, " · ".join(facts), name=progress.phase or "working")


async def _evaluations(marsam: AsyncMarsam) -> list[str]:
    return [evaluation.name for evaluation in await marsam.evaluations.list()]


def _read(path: Path) -> Any:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Invalid(f"cannot read {path}: {error.strerror}", field="--suite") from error


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise Exhausted(f"cannot write {path}: {error.strerror}", reason="DISK_WRITE_FAILED") from error
