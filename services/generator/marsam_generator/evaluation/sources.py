"""What an evaluation and its report need from the store: suite, models, judge, loss curves, dataset versions."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from marsam.catalog.datasets import DatasetVersion
from marsam.catalog.evaluations import EvaluationSpec
from marsam.catalog.models import Model
from marsam.catalog.repository import load_model, load_suite, load_version
from marsam.core.errors import Corrupt, Invalid, MarsamError, Missing, unknown_name
from marsam.core.names import parse
from marsam.core.records import from_plain
from marsam.store.blobs import Blobs
from marsam.store.cache import Cache
from marsam.store.content import read_blob
from marsam.telemetry import Log
from marsam_generator.evaluation.judges import Judge, kinds, load_judge
from marsam_generator.evaluation.suites import Suite

DEFAULT_JUDGE = "classifier"
_CURVE = "samples/loss_curve.json"
_log = Log(__name__)


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Everything an evaluation is about. The suite is cut to the languages asked for."""

    suite: Suite
    models: tuple[Model, ...]
    judge: Model


async def load_assignment(blobs: Blobs, spec: EvaluationSpec) -> Assignment:
    """Return what `spec` names. Raises Missing, Corrupt, Invalid (JUDGE_KIND, MODEL_KIND, UNKNOWN_LANGUAGE)."""
    stored = await load_suite(blobs, spec.suite)
    suite = from_plain(Suite, dict(stored.content), what=spec.suite)
    models = tuple([await load_model(blobs, name) for name in spec.models])
    for model in models:
        if model.kind == "judge":
            raise Invalid(f"{model.name} is a judge and draws nothing", field="spec.models", reason="MODEL_KIND")
    judge = await load_model(blobs, spec.judge)
    if judge.kind != "judge":
        raise Invalid(f"{judge.name} is a {judge.kind}, not a judge", field="spec.judge", reason="JUDGE_KIND")
    return Assignment(suite=cut_languages(suite, spec.params.get("languages", ())), models=models, judge=judge)


def cut_languages(suite: Suite, languages: Sequence[str]) -> Suite:
    """Return the suite with only these languages, in its own order; all of them when none is named."""
    for language in languages:
        if language not in suite.languages:
            raise unknown_name("language", language, suite.languages, field="spec.languages")
    return replace(suite, languages=tuple(code for code in suite.languages if code in languages or not languages))


async def fetch_judge(blobs: Blobs, cache: Cache, model: Model, into: Path) -> Judge:
    """Lay out a judge's files in the folder `into` and load it. Its family names its kind, else it is a classifier."""
    folder = await cache.lay_out(blobs, model.project, model.files, into)
    kind = model.family if model.family in kinds() else DEFAULT_JUDGE
    return await asyncio.to_thread(load_judge, kind, folder)


async def loss_curve(blobs: Blobs, model: Model) -> tuple[tuple[int, float], ...]:
    """Return the (step, loss) points that a model's run left; () when there are none, or none that can be read."""
    file = next((f for f in model.samples if f.path == _CURVE), None)
    if file is None:
        return ()
    try:
        points = json.loads(await read_blob(blobs, model.project, file.digest))["loss"]
        return tuple((int(step), float(loss)) for step, loss in points)
    except (MarsamError, ValueError, KeyError, TypeError) as error:
        _log.warning("evaluation.no_curve", model=model.name, message=str(error))
        return ()


async def dataset_versions(blobs: Blobs, models: Sequence[Model]) -> dict[str, DatasetVersion]:
    """Return the dataset versions that `models` saw, by name; one that was taken down is left out."""
    found: dict[str, DatasetVersion] = {}
    for name in dict.fromkeys(name for model in models for name in model.lineage.versions):
        try:
            parse(name, "version")
            found[name] = await load_version(blobs, name)
        except (Missing, Invalid, Corrupt) as error:
            _log.warning("evaluation.no_dataset", dataset=name, message=str(error))
    return found
