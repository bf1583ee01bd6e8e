"""`marsam models …`"""

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from marsam.api.model.v1 import model_pb2
from marsam.cli import console
from marsam.cli.plain import plain
from marsam.cli.session import Json, known, run
from marsam.cli.watching import Bar
from marsam.client import AsyncMarsam, Transfer, kind_name, short
from marsam.core.errors import Invalid, Missing

app = typer.Typer(no_args_is_help=True, help="Bases, adapters and judges, in and out.", rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="Model, such as hayy-base or @prod.")]


@app.command("list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """List the project's models."""

    async def work(marsam: AsyncMarsam) -> Any:
        return await marsam.models.list()

    found = run(context, work, as_json=as_json)
    if as_json:
        console.print_json([plain(model) for model in found])
        return
    console.print_table(
        ("model", "kind", "family", "method", "base", "size", "created"),
        [
            (
                short(model.name),
                kind_name(model.kind),
                model.family,
                model.method,
                short(model.base),
                console.size(_size(model)),
                console.when(model.create_time),
            )
            for model in found
        ],
        nothing="no models yet: marsam models import FOLDER NAME",
    )


@app.command()
def show(
    context: typer.Context,
    name: Name,
    lineage: Annotated[bool, typer.Option("--lineage", help="Also what it was made from.")] = False,
    as_json: Json = False,
) -> None:
    """Show a model: what it is, what made it, how it measured."""

    async def work(marsam: AsyncMarsam) -> tuple[Any, Any]:
        found = await _get(marsam, name)
        return found, (await marsam.models.lineage(found.name) if lineage else [])

    model, nodes = run(context, work, as_json=as_json)
    if as_json:
        extra = {"lineage_nodes": [plain(node) for node in nodes]} if lineage else {}
        console.print_json({**plain(model), **extra})
        return
    from_ = model.lineage
    console.print_facts(
        [
            ("model", model.name),
            ("kind", f"{kind_name(model.kind)}, {model.family} {model.method}".rstrip(" ,")),
            ("base", model.base),
            ("digest", model.digest),
            ("licence", model.licence),
            ("accepted", _accepted(model)),
            ("made of", _made_of(model)),
            ("distilled", "for few steps" if "distilled" in model.params.fields else ""),
            ("trained on", from_.dataset_version),
            ("by run", from_.run),
            ("seed", str(from_.seed) if from_.run else ""),
            ("quantised", from_.quantisation),
            ("created", console.when(model.create_time)),
        ]
    )
    console.out().print()
    console.print_table(
        ("file", "size", "digest"),
        [(file.path, console.size(file.size_bytes), file.digest) for file in model.files],
        nothing="no files",
    )
    if model.metrics:
        console.out().print()
        rows = [(key, _measure(key, value)) for key, value in sorted(model.metrics.items())]
        console.print_table(("metric", "value"), rows, nothing="")
    if nodes:
        console.out().print()
        rows3 = [(node.kind, short(node.name), node.summary, ", ".join(map(short, node.parents))) for node in nodes]
        console.print_table(("lineage", "name", "", "from"), rows3, nothing="")


@app.command("import")
def import_(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="Folder in diffusers layout, a .safetensors file, or hub:org/name.")],
    name: Annotated[str, typer.Argument(help="Id to give it.")],
    kind: Annotated[str, typer.Option(help="base, adapter, full or judge.")] = "base",
    base: Annotated[str, typer.Option(help="Base of an adapter or full model.")] = "",
    family: Annotated[str, typer.Option(help="Decided by content when left out.")] = "",
    licence: Annotated[str, typer.Option(help="SPDX expression; what the folder states when left out.")] = "",
    accept_licence: Annotated[str, typer.Option(help="Id of a licence that restricts, which you accept.")] = "",
    like: Annotated[
        str,
        typer.Option(help="Has what a base in one file lacks: a model, a diffusers folder (./NAME), or hub:org/name."),
    ] = "",
    distilled: Annotated[
        bool, typer.Option("--distilled", help="Say that the base was made to draw in few steps.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Import a base, an adapter or a judge. What a file is, is decided by its content."""

    named = bool(like) and "/" not in like and not like.startswith(("hub:", "@"))
    a_folder = named and Path(like).is_dir()

    async def work(marsam: AsyncMarsam) -> Any:
        if source.startswith("hub:"):
            console.note(f"the trainer fetches {source.removeprefix('hub:')}")
            return await marsam.models.import_ref(
                source, name, kind=kind, base=base, family=family, licence=licence, accept_licence=accept_licence,
                like=like, distilled=distilled,
            )  # fmt: skip
        rest = await _rest(marsam, like) if a_folder else like
        with Bar("sending", quiet=as_json) as bar:

            def sent(transfer: Transfer) -> None:
                facts = f"{transfer.files}/{transfer.files_total} files, {console.size(transfer.bytes)}"
                bar.show(transfer.bytes, transfer.bytes_total, facts)

            return await marsam.models.import_folder(
                Path(source), name, kind=kind, base=base, family=family, licence=licence,
                accept_licence=accept_licence, like=rest, distilled=distilled, progress=sent,
            )  # fmt: skip

    model = run(context, work, as_json=as_json)
    if as_json:
        console.print_json(plain(model))
        return
    size = console.size(_size(model))
    facts = f"{model.family}, {size}, licence {model.licence or 'not stated'}"
    console.out().print(f"{kind_name(model.kind)} {short(model.name)}: {facts}", markup=False)
    if "keys" in model.params:
        console.out().print(_matched(model), markup=False)
    if made_of := _made_of(model):
        console.out().print(made_of, markup=False)


@app.command()
def export(
    context: typer.Context,
    name: Name,
    into: Annotated[Path, typer.Argument(help="New folder.")],
    dialect: Annotated[str, typer.Option(help="diffusers, peft, kohya or comfyui; else its own.")] = "",
    as_json: Json = False,
) -> None:
    """Write a model's files into a new folder, every digest checked."""

    async def work(marsam: AsyncMarsam) -> Any:
        found = await _get(marsam, name)
        with Bar("receiving", quiet=as_json) as bar:

            def got(transfer: Transfer) -> None:
                bar.show(transfer.bytes, _size(found) if not dialect else 0, console.size(transfer.bytes))

            return await marsam.models.export(found.name, into, dialect=dialect, progress=got)

    paths = run(context, work, as_json=as_json)
    if as_json:
        console.print_json({"folder": str(into), "files": [str(path) for path in paths]})
        return
    for path in paths:
        console.out().print(str(path), markup=False)


@app.command()
def alias(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Alias, such as prod.")],
    model: Annotated[str, typer.Argument(help="Model to point it at; shows the history when left out.")] = "",
    as_json: Json = False,
) -> None:
    """Point an alias at a model, or show where it pointed."""

    async def work(marsam: AsyncMarsam) -> Any:
        if not model:
            return await marsam.models.alias_history(name)
        target = await _get(marsam, model)
        etag = ""
        with contextlib.suppress(Missing):  # never set so far
            history = await marsam.models.alias_history(name)
            etag = max(history, key=lambda a: (a.time.seconds, a.time.nanos)).etag if history else ""
        return [await marsam.models.set_alias(name, target.name, etag=etag)]

    found = run(context, work, as_json=as_json)
    if as_json:
        console.print_json([plain(one) for one in found])
        return
    rows = [(short(one.name), short(one.model), console.when(one.time)) for one in found]
    console.print_table(("alias", "model", "since"), rows, nothing="it was never set")


async def _get(marsam: AsyncMarsam, name: str) -> model_pb2.Model:
    if not name:
        raise Invalid("a model needs a name", field="name")

    async def others() -> list[str]:
        return [model.name for model in await marsam.models.list()]

    return await known(marsam.models.get(name), kind="model", name=name, others=others)


async def _rest(marsam: AsyncMarsam, like: str) -> str | Path:
    """The folder that `--like` names, which may be a model's name too. Raises Invalid (LIKE_AMBIGUOUS) where it is."""
    try:
        model = await marsam.models.get(like)
    except (Missing, Invalid):  # none of that name, or nothing that a model could be called
        return Path(like)
    raise Invalid(
        f"{like} is a model of the registry, and a folder here",
        field="like",
        reason="LIKE_AMBIGUOUS",
        remedy=f"say ./{like} for the folder, {model.name} for the model",
    )


def _size(model: model_pb2.Model) -> int:
    return model.size_bytes or sum(file.size_bytes for file in model.files)


def _accepted(model: model_pb2.Model) -> str:
    if not model.HasField("licence_acceptance"):
        return ""
    return f"by {model.licence_acceptance.by}, {console.when(model.licence_acceptance.time)}"


def _matched(model: model_pb2.Model) -> str:
    """Of an adapter that was taken in, how many keys its file had, and on how many layers of the base."""
    known = model.params.fields
    text = f" and {known['text_modules'].number_value:.0f} of its text encoders" if "text_modules" in known else ""
    layers = f"{known['modules'].number_value:.0f} layers of {short(model.base)}{text}"
    return f"all {known['keys'].number_value:.0f} keys of the file matched, on {layers}; none unknown, none dropped"


def _made_of(model: model_pb2.Model) -> str:
    """Of a base in one file, what came from it and what from elsewhere."""
    known = model.params.fields
    if "converted" not in known:
        return ""
    return f"{known['converted'].string_value} of one file, the rest of {known['like'].string_value}"


def _measure(name: str, value: float) -> str:
    if name.endswith("_bytes"):
        return console.size(value)
    if name.endswith("_seconds"):
        return console.span(value)
    return f"{value:.0f}" if value.is_integer() else f"{value:.4g}"
