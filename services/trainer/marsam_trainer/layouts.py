"""What a folder of checked files is as a model: a base, an adapter, a tuned denoiser or a judge, and of which family.

Decided by content alone: file names, JSON and safetensors headers. No tensor is read.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from marsam.core.errors import Invalid, Violation
from marsam.diffusion import registry
from marsam_trainer.adapters import read_adapter
from marsam_trainer.weights import Content, Tensor, read_header

INDEX = "model_index.json"

# Parts of published pipelines that Marsam neither needs nor loads; trimmed bases lack them.
_OPTIONAL = frozenset({"safety_checker", "feature_extractor", "image_encoder"})
_CHECKPOINT_PREFIXES = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.embedders.")


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Received files by relative path: where each lies and what it is."""

    files: Mapping[str, Path]
    contents: Mapping[str, Content]

    def json(self, path: str) -> Mapping[str, Any]:
        """The parsed JSON object at `path`. Raises `Invalid` when it is another kind of JSON."""
        value = json.loads(self.files[path].read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise Invalid(f"{path} holds no JSON object", field="files", reason="FILE_BROKEN")
        return value

    def below(self, folder: str) -> list[str]:
        """Paths inside `folder`, at any depth."""
        return [path for path in self.files if path.startswith(f"{folder}/")]

    def weights(self) -> list[str]:
        """Paths of all safetensors files."""
        return [path for path, content in self.contents.items() if content is Content.SAFETENSORS]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the folder turned out to be. `rewrite` holds new bytes for a folder that is stored in another layout."""

    family: str
    method: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    rewrite: Mapping[str, Path] | None = None


@dataclass(frozen=True, kw_only=True)
class Base:
    """What must be known of the base of an adapter or a tuned denoiser.

    `part` is the folder of its denoiser, `denoiser` the names and shapes of that one's tensors; `encoders` those of the
    text encoders that take adapters, by folder.
    """

    family: str
    part: str
    denoiser: Mapping[str, Tensor]
    encoders: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


def whole(folder: Folder, *, family: str) -> Found:
    """Check a base in diffusers layout: its index, every component, the family's own JSON files. Raises `Invalid`."""
    if INDEX not in folder.files:
        raise _no_index(folder)
    index = folder.json(INDEX)
    faults = [fault for name, entry in index.items() for fault in _component(folder, name, entry)]
    if faults:
        raise Invalid(
            f"the base is not whole: {faults[0].message}",
            field="files",
            reason="BASE_INCOMPLETE",
            violations=faults,
            remedy="send the whole folder that DiffusionPipeline.save_pretrained(safe_serialization=True) wrote",
        )
    candidates = [family] if family else list(registry.families())
    refusals: dict[str, Invalid] = {}
    for candidate in candidates:
        facts = registry.family_facts(candidate)
        configs = {path: folder.json(path) for path in facts.config_files if path in folder.files}
        try:
            read = registry.read_base(candidate, configs)
        except Invalid as error:
            refusals[candidate] = error
            continue
        return Found(family=candidate, params={"objective": read.objective, "default_side": read.default_side})
    if len(refusals) == 1:
        raise next(iter(refusals.values()))
    shown = "; ".join(f"not {name}: {error.message}" for name, error in refusals.items())
    raise Invalid(
        f"a {index.get('_class_name', 'pipeline without a class')} is of no family known here ({shown})",
        field="family",
        reason="BASE_FAMILY",
        remedy=f"known families: {', '.join(registry.families())}",
    )


def adapter(folder: Folder, *, base: Base, scratch: Path) -> Found:
    """Check an adapter in PEFT layout, or one file that can be turned into it under `scratch`. Raises `Invalid`."""
    shape, rewrite = read_adapter(
        folder.files,
        folder.contents,
        family=base.family,
        denoiser=base.denoiser,
        encoders=base.encoders,
        scratch=scratch,
    )
    return Found(family=base.family, method="lora", params=shape, rewrite=rewrite)


def full(folder: Folder, *, base: Base) -> Found:
    """Check a tuned denoiser, alone or inside its whole pipeline: its tensors must be the base's in name and shape.

    `Found.rewrite` holds the denoiser's files at their place in a whole base; the rest is the base's own.
    """
    prefix = f"{base.part}/" if INDEX in folder.files else ""
    inside = {path: file for path, file in folder.files.items() if path.startswith(prefix)}
    weights = [path for path in inside if folder.contents[path] is Content.SAFETENSORS]
    if f"{prefix}config.json" not in inside or not weights:
        raise Invalid(
            "a tuned denoiser consists of config.json and .safetensors weights",
            field="files",
            reason="MODEL_LAYOUT",
            remedy=f"send the {base.part} folder of the tuned pipeline, or the whole pipeline",
        )
    tensors = {name: t for path in weights for name, t in read_header(inside[path], name=path).tensors.items()}
    different = sorted(
        name
        for name in {*tensors, *base.denoiser}
        if name not in tensors or name not in base.denoiser or tensors[name].shape != base.denoiser[name].shape
    )
    if different:
        raise Invalid(
            f"the denoiser is not its base's: {len(different)} tensors differ in name or shape, {different[0]} first",
            field="base",
            reason="BASE_MISMATCH",
            remedy="name the base that it was tuned from",
        )
    placed = {f"{base.part}/{path.removeprefix(prefix)}": file for path, file in inside.items()}
    return Found(family=base.family, method="full", rewrite=placed)


def judge(folder: Folder) -> Found:
    """Check a classifier: weights and the JSON that says how to read them. Its own reader checks the rest."""
    if not folder.weights() or Content.JSON not in folder.contents.values():
        raise Invalid(
            "a judge consists of safetensors weights and a JSON description",
            field="files",
            reason="MODEL_LAYOUT",
        )
    return Found(family="judge")


def _component(folder: Folder, name: str, entry: object) -> list[Violation]:
    """Faults of one entry of the index: [library, class], or [null, null] for a part that was left out."""
    if name.startswith("_") or not isinstance(entry, list) or len(entry) != 2 or None in entry:
        return []
    inside = folder.below(name)
    if not inside:
        return [] if name in _OPTIONAL else [_fault(f"the folder {name}/ is missing")]
    if name.startswith("scheduler"):
        wanted = f"{name}/scheduler_config.json"
        return [] if wanted in folder.files else [_fault(f"{wanted} is missing")]
    if name.startswith("tokenizer"):
        names = {PurePosixPath(path).name for path in inside}
        if "tokenizer.json" in names or {"vocab.json", "merges.txt"} <= names or "vocab.txt" in names:
            return []
        return [_fault(f"{name}/ has no vocabulary in a format that is not a pickle (tokenizer.json)")]
    if f"{name}/config.json" in folder.files:
        return _weights_of(folder, name, inside)
    return []


def _weights_of(folder: Folder, name: str, inside: list[str]) -> list[Violation]:
    if not any(folder.contents[path] is Content.SAFETENSORS for path in inside):
        return [_fault(f"{name}/ has no .safetensors weights")]
    faults = []
    for path in inside:
        if not path.endswith(".safetensors.index.json"):
            continue
        shards = folder.json(path).get("weight_map", {})
        if not isinstance(shards, dict):
            faults.append(_fault(f"{path} does not map tensors to files"))
            continue
        absent = sorted({str(shard) for shard in shards.values()} - {PurePosixPath(p).name for p in inside})
        faults += [_fault(f"{name}/{shard}, which {PurePosixPath(path).name} names, is missing") for shard in absent]
    return faults


def _fault(message: str) -> Violation:
    return Violation(field="files", message=message, reason="BASE_INCOMPLETE")


def _no_index(folder: Folder) -> Invalid:
    weights = folder.weights()
    if len(weights) == 1:
        keys = read_header(folder.files[weights[0]], name=weights[0]).tensors
        if any(key.startswith(_CHECKPOINT_PREFIXES) for key in keys):
            return Invalid(
                f"{weights[0]} is a whole checkpoint in one file, and other files came with it",
                field="files",
                reason="CHECKPOINT_LAYOUT",
                remedy="send that file alone, and name what has the rest of the base (--like)",
            )
        if any("lora" in key for key in keys):
            return Invalid(
                f"{weights[0]} is an adapter, not a base",
                field="kind",
                reason="MODEL_KIND",
                remedy="import it as adapter",
            )
    return Invalid(
        f"a base in diffusers layout has {INDEX} at its root",
        field="files",
        reason="BASE_INCOMPLETE",
        remedy="send the folder that DiffusionPipeline.save_pretrained wrote, from its root",
    )
