"""From a finished loop to a model in the registry: files first, pictures and the loss curve, the manifest last."""

import importlib.metadata
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from marsam.catalog.datasets import DatasetVersion
from marsam.catalog.files import FileRef
from marsam.catalog.models import Lineage, Model
from marsam.catalog.repository import load_model, save_model
from marsam.catalog.runs import RunSpec
from marsam.core.clock import Clock
from marsam.core.errors import Corrupt, Exists, Invalid
from marsam.core.names import format_name
from marsam.core.records import canonical, to_plain
from marsam.diffusion import registry
from marsam.diffusion.method import Kind
from marsam.store import keys
from marsam.store.blobs import Blobs
from marsam.store.content import put_blob
from marsam_trainer import times
from marsam_trainer.run.card import README, Shown, card

SAFETENSORS = "application/vnd.safetensors"
CURVE_POINTS = 500
CURVE = "samples/loss_curve.json"
SHOWN = "samples/samples.json"
"""Beside a model's sample pictures: its losses, and what draws each picture again."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a loop leaves as the model `model_id`: the artifact's folder and relative paths, PNGs of the sample prompts
    and how each was drawn, losses, plain numbers."""

    model_id: str
    folder: Path
    paths: Sequence[str]
    samples: Sequence[bytes]
    shown: Sequence[Shown]
    losses: Sequence[float]
    validation: Sequence[tuple[int, float]]
    metrics: Mapping[str, float]
    quantisation: str
    libraries: Mapping[str, str]
    device: str = "cpu"


def code_version() -> str:
    """The version of Marsam that runs."""
    return importlib.metadata.version("marsam")


def libraries() -> dict[str, str]:
    """The versions of what the numbers depend on."""
    return {
        name: importlib.metadata.version(name)
        for name in ("torch", "diffusers", "transformers", "peft", "bitsandbytes")
    }


def curve(losses: Sequence[float]) -> list[list[float]]:
    """The loss curve as [step, mean loss of the steps up to it], at most `CURVE_POINTS` points; steps count from 1."""
    stride = max(1, math.ceil(len(losses) / CURVE_POINTS))
    points = []
    for start in range(0, len(losses), stride):
        finite = [loss for loss in losses[start : start + stride] if math.isfinite(loss)]
        if finite:
            points.append([float(min(start + stride, len(losses))), sum(finite) / len(finite)])
    return points


async def publish(
    blobs: Blobs, clock: Clock, spec: RunSpec, *, base: Model, version: DatasetVersion, outcome: Outcome
) -> Model:
    """Store the artifact and publish the model.

    A crash after it is harmless: what is published already by this very run is found and taken, whatever its bytes.
    (On a GPU two attempts never give the same.)

    Raises `Exists` when the model's id holds something else.
    """
    kind = registry.method(spec.method).facts.kind
    files = [await _file(blobs, spec.project, outcome.folder / path, path) for path in outcome.paths]
    if kind is Kind.FULL:
        tuned = {file.path.split("/")[0] for file in files}
        # A full model is a whole base again: the parts that did not train are the base's own blobs, so they cost
        # nothing.
        files = [
            # Its card speaks of the base.
            *(file for file in base.files if file.path.split("/")[0] not in tuned and file.path != README),
            *files,
        ]
    # A word of the base that its files do not say: they are the full model's too.
    word = {"distilled": True} if kind is Kind.FULL and base.params.get("distilled") else {}
    params = {**spec.method_params, **_order(spec), **word}
    about = card(
        replace(spec, output_model_id=outcome.model_id, publish="last"),
        base=base,
        version=version,
        shown=outcome.shown,
        params=params,
        metrics=outcome.metrics,
        quantisation=outcome.quantisation,
        libraries=outcome.libraries,
        code_version=code_version(),
    ).encode()
    files.append(await _text(blobs, spec.project, README, about, "text/markdown"))
    points = curve(outcome.losses)
    model = Model(
        name=format_name("model", spec.project, outcome.model_id),
        kind="full" if kind is Kind.FULL else "adapter",
        create_time=clock.now(),
        files=tuple(files),
        family=base.family,
        method=spec.method,
        base=base.name,
        base_digest=base.digest,
        display_name=spec.display_name,
        params=params,
        lineage=Lineage(
            dataset_version=version.name,
            dataset_digest=version.digest,
            run=spec.name,
            seed=spec.seed,
            code_version=code_version(),
            quantisation=outcome.quantisation,
            regularisation_version=spec.regularisation,
            regularisation_digest=spec.regularisation_digest,
        ),
        metrics=outcome.metrics,
        samples=(
            *[
                await picture(blobs, spec.project, one.path, data)
                for one, data in zip(outcome.shown, outcome.samples, strict=True)
            ],
            await _text(blobs, spec.project, SHOWN, canonical(to_plain(outcome.shown)), "application/json"),
            await _text(blobs, spec.project, CURVE, _curve(points, outcome.validation), "application/json"),
        ),
        licence=base.licence,
        accepted=spec.accepted,
        labels=spec.labels,
    )
    try:
        await save_model(blobs, model)
    except Exists:
        there = await load_model(blobs, model.name)
        if there.lineage.run != spec.name:
            raise
        model = there
    return model


async def conclude(blobs: Blobs, spec: RunSpec, attempt: int, model: Model, outcome: Outcome) -> None:
    """Write the attempt's `result.json`, which says that the run is done and what its model is."""
    result = {
        "model": model.name,
        "family": model.family,
        "device": outcome.device,
        "digest": model.digest,
        "metrics": dict(model.metrics),
        "loss_curve": curve(outcome.losses),
        "validation_curve": [list(point) for point in outcome.validation],
        "prompts": [one.prompt for one in outcome.shown],
        "libraries": dict(outcome.libraries),
    }
    await blobs.put(keys.attempt_file(spec.project, "runs", spec.id, attempt, "result.json"), canonical(result))


def check_artifact(kind: Kind, folder: Path, trained: Collection[str]) -> None:
    """Read an adapter back as whoever serves it will. Raises unless it holds every trained tensor, and learnt
    something."""
    if kind is not Kind.ADAPTER:
        return
    from marsam.diffusion.adapter import net

    adapter = net.read(folder)
    if adapter.tensors != len(trained):
        raise Corrupt(f"the adapter holds {adapter.tensors} of {len(trained)} tensors", reason="ARTIFACT_INCOMPLETE")
    if not any(bool(up.any()) for _, up in adapter.every_pair()):
        raise Invalid("training changed nothing", reason="TRAINED_NOTHING", remedy="look at the learning rate")


def _order(spec: RunSpec) -> dict[str, Any]:
    names: tuple[str, ...] = (
        "steps",
        "batch_size",
        "learning_rate",
        "resolution",
        "precision",
        "caption_dropout",
        "snr_gamma",
        "ema_decay",
        "warmup_steps",
        "optimiser",
        "accumulate",
        "gradient_checkpointing",
        "processes",
        "sharding",
        "aspect_buckets",
    )
    if spec.masked_loss:
        names += ("masked_loss", "masked_loss_floor")
    if spec.regularisation:
        names += ("regularisation_share", "regularisation_weight")
    names += times.asked(spec)
    return {name: getattr(spec, name) for name in names} | {"languages": list(spec.languages)}


async def _file(blobs: Blobs, project: str, path: Path, name: str) -> FileRef:
    stored = await put_blob(blobs, project, path)
    media = SAFETENSORS if name.endswith(".safetensors") else "application/json"
    return FileRef(path=name, digest=stored.digest, size=stored.size, media_type=media)


async def picture(blobs: Blobs, project: str, name: str, data: bytes) -> FileRef:
    """Store one PNG."""
    stored = await put_blob(blobs, project, data)
    return FileRef(path=name, digest=stored.digest, size=stored.size, media_type="image/png")


async def _text(blobs: Blobs, project: str, path: str, data: bytes, media: str) -> FileRef:
    stored = await put_blob(blobs, project, data)
    return FileRef(path=path, digest=stored.digest, size=stored.size, media_type=media)


def _curve(points: Sequence[Sequence[float]], validation: Sequence[tuple[int, float]]) -> bytes:
    return json.dumps({"loss": points, **({"validation": validation} if validation else {})}).encode()
