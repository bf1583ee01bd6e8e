"""`marsam generations …`"""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from marsam.api.generator.v1 import generator_pb2
from marsam.cli import console
from marsam.cli.pictures import kept, print_pictures
from marsam.cli.plain import enum_word, plain
from marsam.cli.session import Json, run
from marsam.cli.watching import Bar
from marsam.client import AsyncMarsam, short
from marsam.core.errors import Precondition

app = typer.Typer(no_args_is_help=True, help="Find, fetch and cancel drawings.", rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="Generation.")]

_LOOK_EVERY_SECONDS = 0.5
_STATES = generator_pb2.GenerationState.DESCRIPTOR


@app.command("list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """List the project's drawings that ended, newest first."""

    async def work(marsam: AsyncMarsam) -> Any:
        return await marsam.generation.list()

    found = run(context, work, as_json=as_json)
    if as_json:
        console.print_json([plain(one) for one in found])
        return
    console.print_table(
        ("generation", "state", "model", "pictures", "prompt", "created"),
        [
            (
                short(one.name),
                " ".join(word for word in (_state(one), one.error_reason) if word),
                short(one.request.model),
                str(len(one.images)),
                one.request.prompt[:40],
                console.when(one.create_time),
            )
            for one in found
        ],
        nothing="no drawings yet: marsam generate PROMPT --model MODEL",
    )


@app.command()
def show(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Show a drawing: what was asked, how far it is, and how it ended."""

    async def work(marsam: AsyncMarsam) -> Any:
        return await marsam.generation.get(name)

    found = run(context, work, as_json=as_json)
    if as_json:
        console.print_json(plain(found))
        return
    asked, progress = found.request, found.progress
    adapters = (f"{short(one.model)}={one.weight:g}" for one in asked.adapters)
    console.print_facts(
        [
            ("generation", found.name),
            ("state", " ".join(word for word in (_state(found), found.error_reason) if word)),
            ("message", found.error_message),
            ("progress", f"step {progress.step}/{progress.steps}" if progress.steps else ""),
            ("prompt", asked.prompt),
            ("negative prompt", asked.negative_prompt),
            ("model", " + ".join([short(asked.model), *adapters])),
            ("settings", f"{asked.steps} steps of {asked.scheduler}, guidance {asked.guidance:g}, seed {asked.seed}"),
            ("pictures", f"{len(found.images)} of {asked.count}, {asked.width} × {asked.height}"),
            ("took", console.span(found.timings.total_seconds) if found.timings.total_seconds else ""),
            ("created", console.when(found.create_time)),
        ]
    )


@app.command()
def fetch(
    context: typer.Context,
    name: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path(),
    as_json: Json = False,
) -> None:
    """Write a drawing's pictures, once it is done. Ctrl-C leaves it alone."""

    async def work(marsam: AsyncMarsam) -> Any:
        with Bar("drawing", quiet=as_json) as bar:
            while (found := await marsam.generation.get(name)).state == generator_pb2.GENERATION_STATE_RUNNING:
                done = found.progress
                bar.show(done.step, done.steps, f"step {done.step}/{done.steps}")
                await asyncio.sleep(_LOOK_EVERY_SECONDS)
        if found.state != generator_pb2.GENERATION_STATE_SUCCEEDED:
            raise Precondition(
                f"{found.name} {_state(found)}: {found.error_message}",
                reason=found.error_reason,
                resource=found.name,
                remedy="draw it anew",
            )
        return [kept(out, found.request.prompt, image) for image in await marsam.generation.images(name)]

    images = run(context, work, as_json=as_json)
    if as_json:
        console.print_json(images)
    else:
        print_pictures(images)


@app.command()
def cancel(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """End a drawing, whichever replica draws it."""

    async def work(marsam: AsyncMarsam) -> Any:
        await marsam.generation.cancel(name)
        return await marsam.generation.get(name)

    found = run(context, work, as_json=as_json)
    if as_json:
        console.print_json(plain(found))
    else:
        console.out().print(f"{short(found.name)} is {_state(found)}", markup=False)


def _state(found: generator_pb2.Generation) -> str:
    return enum_word(_STATES, found.state).lower()
