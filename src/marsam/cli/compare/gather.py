"""What is known of a run, from the trainer: of one that published, its model; of any other, what it told so far."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from marsam.api.trainer.v1 import trainer_pb2
from marsam.cli.plain import plain
from marsam.client import AsyncMarsam, is_final, short, state_name
from marsam.core.averages import MovingAverage
from marsam.core.errors import MarsamError, Missing

SILENCE_S, PATIENCE_S = 3.0, 60.0
"""A run that still works has told all that happened when what comes is younger than the question by this machine's
clock, or nothing comes for so long; where that clock is wrong, patience ends."""

CURVE, SHOWN = "samples/loss_curve.json", "samples/samples.json"
# Says which run it is, not what was asked of it.
_NOT_A_SETTING = frozenset({"output_model_id", "display_name", "labels", "accept_licence", "profile"})


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A picture that a run drew (PNG). `seed` is None where nobody recorded it."""

    prompt: str
    seed: int | None
    size: str
    picture: bytes


@dataclass(kw_only=True)
class Trial:
    """One run, ready to be set beside others. Settings are texts by dotted name; points are (step, loss). `losses` are
    averaged over the steps as a run tells them while it works, those of published models too."""

    name: str
    title: str
    state: str
    model: str
    settings: Mapping[str, str]
    measures: dict[str, float] = field(default_factory=dict)
    losses: list[tuple[int, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


async def gather(marsam: AsyncMarsam, run: trainer_pb2.Run) -> Trial:
    """All of a run that can be compared."""
    trial = Trial(
        name=run.name,
        title=run.spec.display_name or short(run.model) or short(run.name),
        state=state_name(run.state).lower(),
        model=run.model,
        settings=settings(run.spec),
    )
    if run.model:
        try:
            await _from_model(marsam, run, trial)
            return trial
        except Missing:
            trial.remarks.append("its model was deleted: losses and pictures are what the run told while it worked")
    elif not is_final(run.state):
        trial.remarks.append("it is not over: this is what it told so far")
    else:
        trial.remarks.append(f"it published no model{': ' if run.message else ''}{run.message}")
    await _from_words(marsam, run, trial)
    return trial


def settings(spec: trainer_pb2.RunSpec) -> dict[str, str]:
    """Every setting of a spec as text, by dotted name."""
    found: dict[str, str] = {}

    def put(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in sorted(value.items()) if name else value.items():  # maps come in no order
                put(f"{name}.{key}" if name else key, inner)
        elif isinstance(value, list):
            found[name] = ", ".join(map(_text, value))
        else:
            found[name] = _text(value)

    put("", {name: value for name, value in plain(spec).items() if name not in _NOT_A_SETTING})
    return found


def _text(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


async def _from_model(marsam: AsyncMarsam, run: trainer_pb2.Run, trial: Trial) -> None:
    model = await marsam.models.get(run.model)
    files = {file.path: file for file in model.samples}
    trial.measures.update(model.metrics)

    async def read(path: str) -> Any:
        return json.loads(await marsam.models.read_artifact(model.name, files[path].digest)) if path in files else None

    curve = await read(CURVE) or {}
    average = MovingAverage()
    trial.losses = [(step, average.add(step, loss)) for step, loss in _points(curve.get("loss"))]
    trial.validation = _points(curve.get("validation"))
    shown = await read(SHOWN)
    if shown is None:  # published before that was kept
        shown = _by_spec(run.spec, [path for path in files if path.endswith(".png")])
    for one in shown:
        if one["path"] in files:
            picture = await marsam.models.read_artifact(model.name, files[one["path"]].digest)
            trial.samples.append(_sample(one, picture))


async def _from_words(marsam: AsyncMarsam, run: trainer_pb2.Run, trial: Trial) -> None:
    """What the run told: its averaged loss once a second, and the newest preview."""
    words = marsam.runs.watch(run.name)
    newest: trainer_pb2.Preview | None = None
    losses: dict[int, float] = {}
    progress = run.progress
    began, asked = time.monotonic(), time.time()
    while time.monotonic() < began + PATIENCE_S:
        try:
            async with asyncio.timeout(SILENCE_S):
                event = await anext(words)
        except (StopAsyncIteration, TimeoutError):
            break
        if event.HasField("progress"):
            progress = event.progress
            if progress.loss:
                losses[progress.step] = progress.loss
            if progress.time.seconds + progress.time.nanos / 1e9 > asked and not is_final(run.state):
                break
        elif event.HasField("preview"):
            newest = event.preview
    trial.losses = sorted(losses.items())
    # Over the last tenth, as a model's own is.
    late = [loss for step, loss in trial.losses if step > 0.9 * trial.losses[-1][0]]
    told = {"steps": progress.step, "final_loss": sum(late) / max(1, len(late)),
            "images_per_second": progress.images_per_second,
            "peak_memory_bytes": progress.memory_peak_bytes}  # fmt: skip
    trial.measures.update({name: float(value) for name, value in told.items() if value})
    if newest is not None:
        trial.remarks.append(f"its pictures are the preview of step {newest.step}")
        for image, one in zip(newest.images, _by_spec(run.spec, [file.path for file in newest.images]), strict=True):
            try:
                picture = await marsam.models.read_artifact(run.name, image.digest)
            except MarsamError as error:
                trial.remarks.append(f"a picture cannot be read: {error.message}")
                continue
            trial.samples.append(_sample(one, picture))


def _sample(one: Mapping[str, Any], picture: bytes) -> Sample:
    size = f"{one['width']}×{one['height']}" if one.get("width") else ""
    return Sample(prompt=one["prompt"], seed=one["seed"], size=size, picture=picture)


def _by_spec(spec: trainer_pb2.RunSpec, paths: list[str]) -> list[dict[str, Any]]:
    """Which prompt and seed drew the pictures of a run, and how large: seeds count up from the run's own, and sides are
    those it trains at."""
    prompts = list(spec.preview.prompts)
    side = {"width": spec.resolution, "height": spec.resolution}
    return [
        {"path": path, "prompt": prompts[row], "seed": spec.seed + row, **side}
        if row < len(prompts)
        else {"path": path, "prompt": "", "seed": None}
        for row, path in enumerate(sorted(paths))
    ]


def _points(raw: Any) -> list[tuple[int, float]]:
    return [(int(step), float(loss)) for step, loss in raw or []]
