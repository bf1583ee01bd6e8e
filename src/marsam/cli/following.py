"""Following a run to its end, for every command that may."""

import typer

from marsam.api.common.v1 import common_pb2
from marsam.api.trainer.v1 import trainer_pb2
from marsam.cli import console, exits
from marsam.cli.plain import plain
from marsam.cli.session import known
from marsam.cli.watching import Bar, attached
from marsam.client import AsyncMarsam, is_final, short, state_name
from marsam.core.errors import Invalid, Missing, did_you_mean
from marsam.core.ids import is_ulid


async def find(marsam: AsyncMarsam, name: str) -> trainer_pb2.Run:
    """A run by name, by the beginning of its id if only one begins so, or the newest one (`latest`)."""
    if name.startswith("projects/") or is_ulid(name):
        return await known(marsam.runs.get(name), kind="run", name=name, others=lambda: _names(marsam))
    names = sorted(await _names(marsam))
    if not names:
        raise Missing("there are no runs yet", remedy="marsam train --base BASE --data DATASET/VERSION")
    if name == "latest":
        return await marsam.runs.get(names[-1])
    ids = [short(one) for one in names]
    matching = [one for one in ids if one.startswith(name)]
    if len(matching) == 1:
        return await marsam.runs.get(matching[0])
    if matching:
        raise Invalid(
            f"{len(matching)} runs begin with '{name}'",
            field="name",
            reason="NAME_AMBIGUOUS",
            remedy=f"type more of it: {', '.join(matching[:4])}",
        )
    raise Missing(f"no run is called '{name}'", reason="RUN_NOT_FOUND", remedy=did_you_mean(name, ids[::-1]))


async def _names(marsam: AsyncMarsam) -> list[str]:
    return [one.name for one in await marsam.runs.list()]


async def follow_run(marsam: AsyncMarsam, name: str, *, as_json: bool) -> trainer_pb2.Run:
    """Watches until the end; gives the run as it ended."""
    last: trainer_pb2.Run | None = None

    async def follow() -> None:
        nonlocal last
        with Bar("waiting", quiet=as_json) as bar:
            async for event in marsam.runs.watch(name):
                if as_json:
                    console.print_line(plain(event))
                elif event.HasField("log_line"):
                    bar.say(event.log_line)
                elif event.HasField("progress"):
                    _show(bar, event.progress)
                if event.HasField("snapshot"):
                    last = event.snapshot
                    if last.state == common_pb2.JOB_STATE_PENDING and last.queue_position:
                        bar.show(0, 0, f"place {last.queue_position} in the queue", name="waiting")
                    elif not is_final(last.state):
                        bar.show(
                            last.progress.step,
                            last.progress.steps or last.spec.steps,
                            last.message,
                            name=state_name(last.state).lower(),
                        )

    await attached(
        follow(),
        farewell=f"detached; the run goes on. Come back with: marsam runs watch {short(name)}",
    )
    if last is None:
        raise Missing(f"the service said nothing about '{name}'", resource=name)
    return last


def _show(bar: Bar, progress: trainer_pb2.Progress) -> None:
    facts = [f"step {progress.step}/{progress.steps}"]
    if progress.loss:
        facts.append(f"loss {progress.loss:.4f}")
    if progress.images_per_second:
        facts.append(f"{progress.images_per_second:.1f} images/s")
    if progress.eta_seconds:
        facts.append(f"{console.span(progress.eta_seconds)} left")
    bar.show(progress.step, progress.steps, " · ".join(facts), name=progress.phase or "training")


def finish(run_: trainer_pb2.Run, *, as_json: bool) -> None:
    """Says how a watched run ended, and exits accordingly."""
    if not as_json:
        name = short(run_.name)
        if run_.state == common_pb2.JOB_STATE_SUCCEEDED:
            console.out().print(f"succeeded: model {short(run_.model)}", markup=False)
            console.note(
                f'draw with it: marsam generate "…" --model {short(run_.spec.base)} --adapter {short(run_.model)}'
            )
        else:
            console.note(f"{state_name(run_.state).lower()}: {run_.message or run_.reason}")
            console.note(f"{run_.reason}; go on from its newest checkpoint: marsam runs resume {name}")
    if run_.state == common_pb2.JOB_STATE_FAILED:
        raise typer.Exit(exits.JOB_FAILED)
    if run_.state == common_pb2.JOB_STATE_CANCELLED:
        raise typer.Exit(exits.JOB_CANCELLED)


def summary(spec: trainer_pb2.RunSpec) -> str:
    return (
        f"{spec.method} of {short(spec.base)} on {short(spec.dataset_version)}, {spec.steps} steps of"
        f" {spec.batch_size} at {spec.resolution} px, seed {spec.seed}"
    )
