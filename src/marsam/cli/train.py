"""`marsam train`"""

import contextlib
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from google.protobuf.descriptor import FieldDescriptor

from marsam.api.dataset.v1 import dataset_pb2
from marsam.api.trainer.v1 import trainer_pb2
from marsam.cli import console
from marsam.cli.following import finish, follow_run, summary
from marsam.cli.plain import plain
from marsam.cli.plans import print_answer, print_settings
from marsam.cli.session import Json, pairs, run, says_missing
from marsam.client import AsyncMarsam, short
from marsam.core.errors import Invalid, MarsamError, did_you_mean

_PRECISIONS = {"fp32": trainer_pb2.PRECISION_FP32, "bf16": trainer_pb2.PRECISION_BF16}


def train(
    context: typer.Context,
    base: Annotated[str, typer.Option(help="Base model, such as hayy-base or @prod.")],
    data: Annotated[str, typer.Option(help="Dataset version, such as hayy/v1.")],
    method: Annotated[str, typer.Option(help="lora, qlora or full.")] = "lora",
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help="Learning rate.")] = None,
    resolution: Annotated[int | None, typer.Option(help="Side of a picture in pixels.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    language: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help="Captions to use, such as en; all. Repeatable.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "",
    profile: Annotated[str, typer.Option(help="Kind of machine, on a cluster; its default one.")] = "",
    output: Annotated[str, typer.Option(help="Id of the model to publish.")] = "",
    accept_licence: Annotated[str, typer.Option(help="Licence of the base, which you accept.")] = "",
    allow_distilled: Annotated[
        bool, typer.Option("--allow-distilled", help="Train a few-step base all the same.")
    ] = False,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="All else: rank=8, optimiser=adamw_8bit."),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Only say what each setting is, and why.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", hidden=True, help="As `marsam plan`.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not watch.")] = False,
    as_json: Json = False,
) -> None:
    """Tune a base on a dataset version. --explain tells what is left out."""

    async def work(marsam: AsyncMarsam) -> Any:
        if precision and precision not in _PRECISIONS:
            raise Invalid(f"--precision must be fp32 or bf16, got '{precision}'", field="--precision")
        spec = trainer_pb2.RunSpec(
            base=base,
            dataset_version=data,
            method=method,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            resolution=resolution,
            seed=seed,
            languages=language or (),
            precision=_PRECISIONS.get(precision, trainer_pb2.PRECISION_UNSPECIFIED),
            profile=profile,
            output_model_id=output,
            accept_licence=accept_licence,
            allow_distilled=allow_distilled,
        )
        set_fields(spec, parameters or [])
        if dry_run or explain:
            return await marsam.runs.validate(spec)
        created = await _create(marsam, spec)
        if not as_json:
            console.note(f"run {short(created.name)}: {summary(created.spec)}")
        if detach:
            return created
        return await follow_run(marsam, created.name, as_json=as_json)

    result = run(context, work, as_json=as_json)
    if explain:
        print_settings(result, as_json=as_json)
    elif dry_run:
        print_answer(result, as_json=as_json)
    elif detach:
        if as_json:
            console.print_json(plain(result))
        else:
            console.note(f"watch it: marsam runs watch {short(result.name)}")
    else:
        finish(result, as_json=as_json)


async def _create(marsam: AsyncMarsam, spec: trainer_pb2.RunSpec) -> trainer_pb2.Run:
    """Creates the run; an unknown base or version is answered with the nearest known ones."""
    try:
        return await marsam.runs.create(spec)
    except MarsamError as error:
        if error.remedy or not says_missing(error):
            raise
        if "base" in (error.field or ""):
            name, known = spec.base, [short(model.name) for model in await marsam.models.list()]
            nothing = "there are no models yet: marsam models import FOLDER NAME"
        else:
            name, dataset = spec.dataset_version, short(spec.dataset_version).partition("/")[0]
            known = [short(version.name) for version in await _versions(marsam, dataset)]
            nothing = "there are no versions yet: marsam datasets commit DATASET"
        error.remedy = did_you_mean(short(name), known) or nothing
        raise


async def _versions(marsam: AsyncMarsam, dataset: str) -> Sequence[dataset_pb2.Version]:
    """The versions of the dataset that was meant, or of all when it is not there."""
    datasets = [short(one.name) for one in await marsam.datasets.list()]
    wanted = [dataset] if dataset in datasets else datasets
    return [version for one in wanted for version in await marsam.datasets.versions(one)]


def set_fields(spec: trainer_pb2.RunSpec, texts: list[str]) -> list[str]:
    """Put `KEY=VALUE` words where they belong: into the spec's own field of that name, else among the parameters of the
    method. Numbers and true/false are told by their look, anything else is text. Returns the fields' paths."""
    paths = []
    for key, text in pairs(texts, option="--set").items():
        value = _value(text)
        kind = _SETTABLE.get(key)
        if kind is None:
            spec.method_params[key] = value
            paths.append(f"method_params.{key}")
            continue
        paths.append(key)
        if kind == FieldDescriptor.TYPE_STRING:
            value = text
        whole = isinstance(value, float) and value.is_integer() and kind in _WHOLE
        try:
            setattr(spec, key, int(value) if whole else value)
        except (TypeError, ValueError) as error:
            raise Invalid(f"{key} cannot be '{text}'", field="--set", reason="OPTION_MALFORMED") from error
    return paths


def _value(text: str) -> float | bool | str:
    if text in ("true", "false"):
        return text == "true"
    with contextlib.suppress(ValueError):
        return float(text)
    return text


_WHOLE = (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64)
_SETTABLE = {
    field.name: field.type
    for field in trainer_pb2.RunSpec.DESCRIPTOR.fields
    if not field.is_repeated and field.message_type is None and field.enum_type is None
}
"""Fields of a run that hold one number, word or yes."""


def _planning(command: Callable[..., None]) -> Callable[..., None]:
    """`train` without what is about a run that was made."""

    def plan(*arguments: Any, **options: Any) -> None:
        command(*arguments, **options, dry_run=True, detach=False)

    signature = inspect.signature(command)
    kept = [value for name, value in signature.parameters.items() if name not in ("dry_run", "detach")]
    plan.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    plan.__annotations__ = {value.name: value.annotation for value in kept} | {"return": None}
    plan.__doc__ = "Say what a run would need, stage by stage, how long it would take, and what to change. Makes none."
    return plan


plan = _planning(train)
"""`marsam plan`: the options of `train`."""
