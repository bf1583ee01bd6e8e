"""Where the numbers of a report come from: data, training, weights, judge. And what they do not show."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from marsam.catalog.datasets import DatasetVersion
from marsam.catalog.models import Model
from marsam_generator.evaluation.report import formats
from marsam_generator.evaluation.results import Results


@dataclass(frozen=True, kw_only=True)
class Link:
    """One step of the way from a photograph to a picture."""

    title: str
    name: str
    digest: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """One dataset version as the report tells it. `associations`: (pair, Cramér's V, warns)."""

    name: str
    digest: str
    items: int
    left_out: int
    excluded: tuple[tuple[str, int], ...]
    findings: tuple[tuple[str, str, int], ...]
    rights: tuple[tuple[str, str, str, int], ...]
    languages: tuple[tuple[str, int], ...]
    associations: tuple[tuple[str, float, bool], ...]
    warnings: tuple[str, ...]


_SIZES = {"Weights at rest": "weights_at_rest_bytes", "Peak memory": "peak_memory_bytes"}


def model_facts(model: Model) -> dict[str, str]:
    """Sizes, memory and time of a model in words; what is unknown is left out."""
    metrics = model.metrics
    # A fully tuned model names its base's other parts as its own files; what tuning made is the artifact.
    facts = {"File": formats.size(metrics.get("artifact_bytes") or model.size)}
    facts |= {title: formats.size(metrics[name]) for title, name in _SIZES.items() if metrics.get(name)}
    if seconds := metrics.get("train_seconds"):
        facts["Training time"] = formats.duration(seconds)
    if speed := metrics.get("images_per_second"):
        facts["Speed"] = f"{speed:.1f}{formats.NARROW}images/s"
    if parameters := metrics.get("trainable_parameters"):
        facts["Trained parameters"] = formats.count(parameters)
    return facts


def lineage(results: Results, models: Sequence[Model], datasets: Mapping[str, DatasetVersion]) -> list[Link]:
    """The way from the source pictures to the pictures of the model that the verdict speaks about."""
    model = models[results.verdict.model]
    trail: list[Link] = []
    version = datasets.get(model.lineage.dataset_version)
    if version is not None:
        facts = data_facts(version)
        licences = ", ".join(sorted({licence for licence, _, _, _ in facts.rights}))
        trail.append(
            Link(
                title="Source pictures",
                name=version.dataset_name,
                digest="",
                facts=(
                    ("pictures", formats.count(len(version.items) + len(version.excluded))),
                    ("licences", licences),
                ),
            )
        )
        trail.append(
            Link(
                title="Dataset version",
                name=version.name,
                digest=version.digest,
                facts=(("kept", formats.count(facts.items)), ("left out", formats.count(facts.left_out))),
            )
        )
    base = next((m for m in models if m.name == model.base), None)
    if model.base:
        trail.append(Link(title="Base", name=model.base, digest=model.base_digest or "", facts=_licence(base)))
    if model.lineage.run:
        trail.append(Link(title="Run", name=model.lineage.run, digest="", facts=_run_facts(model)))
    sizes = (("file", formats.size(model.size)), ("family", model.family), *_licence(model))
    trail.append(Link(title="Model", name=model.name, digest=model.digest, facts=_known(sizes)))
    settings = results.suite.generation
    trail.append(
        Link(
            title="Pictures",
            name=results.suite_name,
            digest=results.suite_digest,
            facts=_known(
                (
                    ("pictures", formats.count(len(results.pictures))),
                    ("steps", str(settings.steps)),
                    ("guidance", f"{settings.guidance:g}"),
                    ("scheduler", settings.scheduler),
                    ("size", f"{settings.width} × {settings.height}"),
                    ("drawn by", results.fingerprint),
                )
            ),
        )
    )
    trail.append(Link(title="Judge", name=results.judge, digest=results.judge_digest, facts=()))
    return trail


def _known(facts: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in facts if value)


def _licence(model: Model | None) -> tuple[tuple[str, str], ...]:
    return (("licence", model.licence),) if model is not None and model.licence else ()


def _run_facts(model: Model) -> tuple[tuple[str, str], ...]:
    seed = "" if model.lineage.seed is None else str(model.lineage.seed)
    facts = [("method", model.method), ("seed", seed), ("quantisation", model.lineage.quantisation)]
    facts += [(formats.words(name), formats.plain(value)) for name, value in model.params.items() if _is_scalar(value)]
    return _known([*facts, ("code", model.lineage.code_version)])


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float | bool) and value != ""


def data_facts(version: DatasetVersion) -> DataFacts:
    """Count what a dataset version holds, what was left out of it, and what its checks said."""
    rights = Counter(
        (i.rights.licence or "unknown", i.rights.holder or "unknown", i.rights.consent or "not stated")
        for i in version.items
    )
    findings = Counter((f.severity, f.check) for item in version.items for f in item.findings)
    order = {"fail": 0, "warn": 1, "info": 2}
    return DataFacts(
        name=version.name,
        digest=version.digest,
        items=len(version.items),
        left_out=len(version.excluded),
        excluded=tuple(
            (formats.words(reason), n) for reason, n in Counter(r for _, r in version.excluded).most_common()
        ),
        findings=tuple(
            (severity, formats.words(check), n)
            for (severity, check), n in sorted(findings.items(), key=lambda f: (order[f[0][0]], -f[1]))
        ),
        rights=tuple((*key, n) for key, n in rights.most_common()),
        languages=tuple(Counter(c.language for i in version.items for c in i.captions).most_common()),
        associations=tuple(_associations(version.report.get("associations"))),
        warnings=tuple(str(w) for w in _list(version.report.get("warnings"))),
    )


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _associations(rows: Any) -> list[tuple[str, float, bool]]:
    """Read the association of attribute pairs out of a version's report; a row that is not one is left out."""
    found = []
    for row in _list(rows):
        if isinstance(row, Mapping) and isinstance(v := row.get("v"), int | float):
            pair = f"{formats.words(str(row.get('a', '')))} × {formats.words(str(row.get('b', '')))}"
            found.append((pair, float(v), bool(row.get("warns"))))
    return found


@dataclass(frozen=True, kw_only=True)
class JudgeRow:
    """One attribute in the judge's own table. Accuracies in words, with n and interval."""

    attribute: str
    values: int
    renders: str
    reconstructions: str
    people: str
    confusion: str
    used: bool
    why_not: str


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One thing that a report does not show."""

    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Everything a report needs besides the results. `models[i]` is the manifest of the results' model i.

    `pictures` holds WebP thumbnails by the digest of the picture (see `thumbnail`); `curves` the (step, loss) points of
    a model's training and `datasets` dataset versions, both by resource name.
    """

    models: tuple[Model, ...]
    pictures: Mapping[str, bytes]
    curves: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    datasets: Mapping[str, DatasetVersion] = field(default_factory=dict)
