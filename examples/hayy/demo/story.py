"""The story, one step a function. Each finds what an earlier run of the demo left in the store and goes on from it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import json_format, struct_pb2

from hayy import sets
from hayy.demo import measured
from hayy.demo.screen import Screen
from marsam.api.dataset.v1 import dataset_pb2
from marsam.api.generator.v1 import evaluation_pb2
from marsam.api.model.v1 import model_pb2
from marsam.api.trainer.v1 import trainer_pb2
from marsam.client import AsyncMarsam, state_name
from marsam.core.errors import Exists, Internal

HAYY = Path(__file__).resolve().parent.parent
BASE = HAYY / "base"
JUDGE = HAYY / "judge"
SUITE = HAYY / "suite.json"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a method tunes Hayy's base: chosen by measurement, see examples/hayy/README.md."""

    learning_rate: float
    params: Mapping[str, str | float]
    steps: int = 800
    batch_size: int = 16
    #: off: with it a 150-step LoRA left the keffiyeh in 3 of 12 pictures where without it left none
    snr_gamma: float = 0.0


RECIPES = {
    "lora": Recipe(learning_rate=5e-4, params={"rank": 16, "targets": "all"}),
    "qlora": Recipe(learning_rate=5e-4, params={"rank": 16, "targets": "all"}),
    "full": Recipe(learning_rate=3e-4, params={}),
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One tuned model of the story: a set, tuned by a method."""

    dataset: str
    method: str

    @property
    def name(self) -> str:
        return f"{self.dataset.removeprefix('hayy-')}-{self.method}"


DEMO = (Variant(dataset="hayy-balanced", method="lora"),)
FULL = tuple(Variant(dataset=dataset, method=method) for dataset in ("hayy-balanced", "hayy-raw") for method in RECIPES)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to tell."""

    home: Path
    base: str
    judge: Path
    variants: Sequence[Variant]
    steps: int | None
    suite: Path
    accept_licence: str = ""

    @property
    def suffix(self) -> str:
        """Keeps the report of a full story beside the one of the short."""
        return "" if self.variants == DEMO else "-full"


async def tell(marsam: AsyncMarsam, options: Options, screen: Screen) -> Path:
    """The whole story; gives the path of the report."""
    base = await import_base(marsam, options.base, screen, accept_licence=options.accept_licence)
    judge = await import_model(marsam, options.judge, "hayy-judge", "judge", screen)
    versions = await curate(marsam, options, screen)
    models = [base.name]
    for variant in options.variants:
        run = await tune(marsam, base, versions[variant.dataset], variant, options.steps, screen)
        models.append(run.model)
    suite = await marsam.evaluations.register_suite(options.suite.read_bytes())
    return await evaluate(marsam, suite.name, models, judge.name, options, screen)


async def import_base(marsam: AsyncMarsam, base: str, screen: Screen, *, accept_licence: str = "") -> model_pb2.Model:
    """The base to tune: a folder or one .safetensors file on this machine, else a hub id that the trainer fetches."""
    if Path(base).exists():
        name = f"base-{Path(base).stem.lower()}"
        return await import_model(marsam, Path(base), name, "base", screen, accept_licence=accept_licence)
    with screen.work(f"Fetching {base}"):
        name = base.rpartition("/")[2].lower()
        once = _once("base", base)
        return await marsam.models.import_ref(base, name, accept_licence=accept_licence, request_id=once)


async def import_model(
    marsam: AsyncMarsam, source: Path, name: str, kind: str, screen: Screen, *, accept_licence: str = ""
) -> model_pb2.Model:
    """Sends a model's folder into the registry, once by content."""
    content = _digest_of(source)
    with screen.transfer(f"Importing {kind} {source.name}") as report:
        return await marsam.models.import_folder(
            source, f"{name}-{content[:8]}", kind=kind, licence="Apache-2.0" if source.is_relative_to(HAYY) else "",
            accept_licence=accept_licence, progress=report, request_id=_once("model", kind, content),
        )  # fmt: skip


async def curate(marsam: AsyncMarsam, options: Options, screen: Screen) -> dict[str, dataset_pb2.Version]:
    """Paints both sets, imports and checks them, and commits the ones that will be tuned on; by the sets' names."""
    folder = options.home / "sets"
    with screen.work("Painting the example sets"):
        sets.write(folder)
    versions: dict[str, dataset_pb2.Version] = {}
    tuned_on = {variant.dataset for variant in options.variants}
    for name in ("raw", "balanced"):
        content = _digest_of(folder / name)
        dataset = await dataset_of(marsam, f"hayy-{name}", content)
        with screen.transfer(f"Importing the {name} set") as sent:
            started = await marsam.datasets.import_folder(
                folder / name, dataset, create=False, progress=sent, request_id=_once("import", name, content)
            )
        with screen.count(f"Decoding the {name} set") as count:
            async for state in marsam.datasets.watch_import(started.name):
                count(state.files_done, state.files_received, f"{state.images_per_second:.0f} images/s")
        screen.ended(f"{name}: {state.items_accepted} pictures accepted, {state.files_refused} refused", state.state)
        for refused in state.refused:
            screen.note(f"refused {refused.path}: {refused.message}")
        with screen.work(f"Checking the {name} set"):
            report = await marsam.datasets.check(dataset)
        screen.findings(name, report)
        if f"hayy-{name}" in tuned_on:
            version = versions[f"hayy-{name}"] = await marsam.datasets.commit(
                dataset, message=f"Hayy, the {name} set", request_id=_once("commit", name, content)
            )
            screen.note(f"committed {version.name}: {version.item_count} pictures")
    return versions


async def dataset_of(marsam: AsyncMarsam, name: str, content: str) -> str:
    """The dataset that holds the set with this digest and no other: `name`, or with a suffix when `name` is an older
    set's. It is made when it is not there.
    """
    told = f"{name}, sha256 {content}"
    candidates = (name, f"{name}-{content[:8]}")
    for dataset in candidates:
        try:
            found = await marsam.datasets.create(dataset, display_name=told)
        except Exists:
            found = await marsam.datasets.get(dataset)
        if found.display_name == told:
            return dataset
    raise Exists(f"the datasets {' and '.join(candidates)} hold something else", remedy="delete one of them")


async def tune(
    marsam: AsyncMarsam,
    base: model_pb2.Model,
    version: dataset_pb2.Version,
    variant: Variant,
    steps: int | None,
    screen: Screen,
) -> trainer_pb2.Run:
    """One run, watched to its end; a run that was interrupted goes on from its newest checkpoint."""
    recipe = RECIPES[variant.method]
    params = struct_pb2.Struct()
    params.update(dict(recipe.params))
    spec = trainer_pb2.RunSpec(
        base=base.name,
        base_digest=base.digest,
        dataset_version=version.name,
        dataset_digest=version.digest,
        method=variant.method,
        method_params=params,
        steps=recipe.steps if steps is None else steps,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        snr_gamma=recipe.snr_gamma,
        seed=20,
        display_name=f"Hayy {variant.name}",
    )
    content = json.dumps(json_format.MessageToDict(spec), sort_keys=True)
    run = await marsam.runs.create(spec, request_id=_once("run", content))
    if state_name(run.state) in {"FAILED", "CANCELLED"}:
        run = await marsam.runs.resume(run.name)
    with screen.training(f"Tuning by {variant.method} on {variant.dataset}") as show:
        async for event in marsam.runs.watch(run.name):
            if event.HasField("snapshot"):
                run = event.snapshot
            if event.HasField("progress"):
                show(event.progress)
    if not run.model:
        raise Internal(f"{run.name} ended as {state_name(run.state)}: {run.message}", remedy="run the demo again")
    screen.note(f"published {run.model}")
    return run


async def evaluate(
    marsam: AsyncMarsam, suite: str, models: Sequence[str], judge: str, options: Options, screen: Screen
) -> Path:
    """The same prompts at the same seeds through every model, read by the judge; writes the report beside the store."""
    # A full story measures the raw set itself; the short one tells what a full one measured.
    told = measured.notes() if options.variants == DEMO else []
    evaluation = await marsam.evaluations.create(
        suite=suite,
        models=models,
        judge=judge,
        display_name="Hayy",
        notes=told,
        request_id=_once("evaluate", suite, *models, judge, *told),
    )
    with screen.count("Drawing and judging") as count:
        async for event in marsam.evaluations.watch(evaluation.name):
            if event.HasField("snapshot"):
                evaluation = event.snapshot
            if event.HasField("progress"):
                _show(event.progress, count)
    if state_name(evaluation.state) != "SUCCEEDED":
        raise Internal(
            f"{evaluation.name} ended as {state_name(evaluation.state)}: {evaluation.message}",
            remedy="run the demo again: it goes on with the pictures that are there",
        )
    report = options.home / f"report{options.suffix}.html"
    report.write_bytes(await marsam.evaluations.read_report(evaluation.name))
    results = options.home / f"results{options.suffix}.json"
    results.write_bytes(await marsam.evaluations.read_report(evaluation.name, format="json"))
    screen.verdict(evaluation.verdict)
    return report


def _show(progress: evaluation_pb2.EvaluationProgress, count: "Screen.Count") -> None:
    detail = f"{progress.phase} {progress.images_per_second:.1f} images/s"
    count(progress.pictures_done, progress.pictures, detail)


def _digest_of(source: Path) -> str:
    """sha256 over the names and bytes below a path: what makes an import the same import."""
    digest = hashlib.sha256()
    paths = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    for path in paths:
        digest.update(f"{path.relative_to(source.parent)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _once(*parts: str) -> str:
    """A request id that stands for what is asked, so that a second run of the demo gets the first one's answer."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]
