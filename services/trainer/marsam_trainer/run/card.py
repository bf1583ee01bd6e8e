"""The model card: README.md as model hubs read it, a front matter in YAML and what people should know in Markdown.

It says only what is the run's own and comes out the same whenever the same run is trained again: no times, no memory,
no machine. Captions, prompts and names are other people's words: they can neither end a cell, a quotation or a block of
code, nor be read as mark-up, nor turn the direction of what stands beside them.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from marsam.catalog.datasets import DatasetVersion
from marsam.catalog.models import Model
from marsam.catalog.runs import RunSpec
from marsam.diffusion import dialects, registry
from marsam.diffusion.method import Kind
from marsam_trainer import licences
from marsam_trainer.markdown import literal, plain, table, words

README = "README.md"

_PROGRAMS = {"peft": "PEFT", "kohya": "kohya's scripts", "comfyui": "ComfyUI"}

_MEASURED = ("steps", "weights_step", "samples", "final_loss", "validation_loss_first", "validation_loss",
             "validation_loss_best", "validation_best_step", "trainable_parameters", "quantised_share")  # fmt: skip
_TAG = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A sample picture beside the card: its path, and what draws it again."""

    path: str
    prompt: str
    seed: int
    steps: int
    guidance: float
    width: int
    height: int


def card(
    spec: RunSpec,
    *,
    base: Model,
    version: DatasetVersion,
    shown: Sequence[Shown],
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    quantisation: str,
    libraries: Mapping[str, str],
    code_version: str,
) -> str:
    """The text of the card of what a run trained."""
    kind = registry.method(spec.method).facts.kind
    spoken = _spoken(spec, version)
    front = _front(spec, base, kind, shown, languages=sorted(spoken))
    said = yaml.safe_dump(front, allow_unicode=True, sort_keys=False, width=1 << 20)
    languages = {caption.text: caption.language for item in version.items for caption in item.captions}
    parts = [
        f"---\n{said}---",
        f"# {words(spec.display_name or spec.output_model_id)}",
        _opening(spec, base, version, kind),
        _pictures(shown, languages),
        "## Trained on\n\n" + table(_data(spec, version, spoken)),
        "## How\n\n" + table(_how(spec, base, params, quantisation)),
        "## What was measured\n\n" + table(_measures(metrics)) + _LOSSES,
        "## Use\n\n" + _use(spec, base, kind, shown),
        "## Licence\n\n" + _licence(spec, base),
        _LIMITS,
        "## Where it comes from\n\n" + table(_lineage(spec, base, version, libraries, code_version)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(
    spec: RunSpec, base: Model, kind: Kind, shown: Sequence[Shown], *, languages: Sequence[str]
) -> dict[str, Any]:
    front: dict[str, Any] = {}
    if there := _hub_id(base):
        front |= {"base_model": there, "base_model_relation": "adapter" if kind is Kind.ADAPTER else "finetune"}
    front |= {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    if base.licence:
        front |= licences.front(base.licence)
    if tags := [language for language in languages if _TAG.fullmatch(language)]:
        front["language"] = tags
    front["tags"] = ["text-to-image", "diffusers", "marsam", base.family, spec.method]
    if kind is Kind.ADAPTER:
        front["tags"] += [tag for tag in ("lora",) if tag not in front["tags"]]
    if shown:
        front["widget"] = [{"text": plain(one.prompt), "output": {"url": one.path}} for one in shown]
    return front


def _opening(spec: RunSpec, base: Model, version: DatasetVersion, kind: Kind) -> str:
    what = "An adapter for" if kind is Kind.ADAPTER else "A fully tuned copy of"
    family, method = registry.family_facts(base.family).title, registry.method(spec.method).facts.title
    return (
        f"{what} **{words(_called(base))}**, trained with Marsam on the dataset version "
        f"**{words(_short(version.name))}**.\n\nFamily: {words(family)}. Method: {words(method)}."
    )


def _pictures(shown: Sequence[Shown], languages: Mapping[str, str]) -> str:
    if not shown:
        return ""
    rows = ["| picture | prompt | seed |", "| --- | --- | --- |"]
    for number, one in enumerate(shown, start=1):
        language = languages.get(one.prompt)
        tongue = f' lang="{words(language)}"' if language else ""
        picture = f"![sample {number}]({one.path})"
        rows.append(f'| {picture} | <bdi dir="auto"{tongue}>{words(one.prompt)}</bdi> | {one.seed} |')
    first = shown[0]
    drawn = f"{first.width}×{first.height} px, {first.steps} steps, guidance {first.guidance:g}"
    return "## Samples\n\n" + "\n".join(rows) + f"\n\nDrawn by the run itself, not picked: {drawn}."


def _spoken(spec: RunSpec, version: DatasetVersion) -> Counter[str]:
    """Captions that the run could learn from, by language."""
    return Counter(
        caption.language
        for item in version.items
        if item.split == "train"
        for caption in item.captions
        if not spec.languages or caption.language in spec.languages
    )


def _data(spec: RunSpec, version: DatasetVersion, spoken: Mapping[str, int]) -> list[tuple[str, str]]:
    splits = Counter(item.split for item in version.items)
    train = [item for item in version.items if item.split == "train"]
    held = Counter(item.rights.licence or "not stated" for item in train)
    agreed = sum(1 for item in train if item.rights.consent)
    return [
        ("dataset version", f"`{version.name}`"),
        ("digest", f"`{version.digest}`"),
        ("pictures", ", ".join(f"{count} {words(split)}" for split, count in sorted(splits.items()))),
        ("captions", ", ".join(f"{count} {words(language)}" for language, count in sorted(spoken.items())) or "none"),
        ("licences of the pictures", ", ".join(f"{words(one)} ({count})" for one, count in sorted(held.items()))),
        ("consent recorded", f"for {agreed} of {len(train)} pictures"),
        ("beside it, not to be forgotten", f"`{spec.regularisation}`" if spec.regularisation else ""),
    ]


def _how(spec: RunSpec, base: Model, params: Mapping[str, Any], quantisation: str) -> list[tuple[str, str]]:
    settings = {name: value for name, value in params.items() if value not in (None, "", [], ())}
    return [
        ("method", words(spec.method)),
        ("seed", str(spec.seed)),
        ("base held as", words(quantisation)),
        *((f"`{name}`", words(_value(value))) for name, value in sorted(settings.items())),
    ]


def _measures(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    return [(f"`{name}`", _number(metrics[name])) for name in _MEASURED if name in metrics]


_LOSSES = (
    "\n\nLosses are means over noise levels: they say that training went on, not that pictures are better. What it "
    "draws was not measured when this card was written: `marsam evaluate` does that, against its base."
)


def _use(spec: RunSpec, base: Model, kind: Kind, shown: Sequence[Shown]) -> str:
    prompt = literal(shown[0].prompt if shown else "what to draw")
    # Of a base that was one file on a hub no program finds the parts there.
    there = "" if "one_file" in base.params else _hub_id(base)
    source = literal(there or "BASE_FOLDER")
    name = spec.output_model_id
    if kind is Kind.ADAPTER:
        fetched = f"`marsam models export {name} FOLDER --dialect diffusers`"
        fetched += "" if there else f" and `marsam models export {_short(base.name)} BASE_FOLDER`"
        load = f'pipe = DiffusionPipeline.from_pretrained({source})\npipe.load_lora_weights("FOLDER")'
        ours = f"marsam generate {{}} --model {_short(base.name)} --adapter {name}"
    else:
        fetched = f"`marsam models export {name} FOLDER`"
        load = 'pipe = DiffusionPipeline.from_pretrained("FOLDER")'
        ours = f"marsam generate {{}} --model {name}"
    facts, dora = registry.family_facts(base.family), bool(spec.method_params.get("dora"))
    here = f"With Marsam: `{ours.format('PROMPT')}`."
    if kind is Kind.ADAPTER and not _told(spec, base):
        folders = " and ".join(f"`FOLDER/{folder}`" for folder in facts.encoders)
        return (
            f"{here} With PEFT, after `marsam models export {name} FOLDER --dialect "
            f"peft`: `FOLDER` is the adapter of the denoiser, {folders} that of the text encoder. Other programs read "
            "no adapters of this text encoder."
        )
    others = [program for name, program in _PROGRAMS.items() if name in dialects.suited(facts, dora=dora)]
    also = f" It also goes out for {', '.join(others)} (`--dialect`)." if kind is Kind.ADAPTER else ""
    return (
        f"With diffusers, after {fetched}:\n\n"
        f"```python\nfrom diffusers import DiffusionPipeline\n\n{load}\nimage = pipe({prompt}).images[0]\n```\n\n"
        f"{here}{also}"
    )


def _told(spec: RunSpec, base: Model) -> bool:
    """Whether other programs have names for all that an adapter changes."""
    encoders = registry.family_facts(base.family).encoders.values() if spec.method_params.get("text_encoders") else ()
    return all(encoder.prefix for encoder in encoders)


def _licence(spec: RunSpec, base: Model) -> str:
    if not base.licence:
        return "The base states no licence. What was trained on it is bound by whatever binds the base."
    if licences.same(base.licence, licences.UNSTATED):
        text = "Nobody has said under which licence the base is, and what was trained on it is bound by that one."
    else:
        text = f"The base is under **{words(base.licence)}**, and what was trained on it is bound by that."
    if restriction := licences.restriction(base.licence):
        text += f" Mind that {restriction}."
    if spec.accepted is not None:
        text += f" It was accepted by {words(spec.accepted.by)} on {spec.accepted.at:%Y-%m-%d}."
    return text


_LIMITS = """## Limits

* It knows its training pictures and what its base knew. What the base gets wrong elsewhere it still gets wrong.
* Few pictures can be learnt by heart: look for copies before you publish what it draws.
* Nothing here filters what may be asked for or drawn.
* Captions in a language that is not listed above were not trained."""


def _lineage(
    spec: RunSpec, base: Model, version: DatasetVersion, libraries: Mapping[str, str], code_version: str
) -> list[tuple[str, str]]:
    return [
        ("run", f"`{spec.name}`"),
        ("base", f"`{base.name}`"),
        ("base digest", f"`{base.digest}`"),
        ("base from", words(base.lineage.source)),
        ("dataset digest", f"`{version.digest}`"),
        ("Marsam", words(code_version)),
        ("with", ", ".join(words(f"{name} {number}") for name, number in sorted(libraries.items()))),
    ]


def _number(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() else f"{value:.6g}"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return str(value)


def _hub_id(base: Model) -> str:
    """The base's name on its hub, where it came from one."""
    place, _, rest = base.lineage.source.partition(":")
    return rest.partition("@")[0] if place == "hub" else ""


def _called(base: Model) -> str:
    return _hub_id(base) or base.display_name or _short(base.name)


def _short(name: str) -> str:
    return "/".join(name.split("/")[3::2])
