"""A model's files in the layout that another program reads."""

import asyncio
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

from marsam.catalog.files import FileRef
from marsam.catalog.models import Model
from marsam.catalog.repository import load_model
from marsam.core.errors import Corrupt, Invalid
from marsam.diffusion import dialects, registry
from marsam.diffusion.adapter.scales import Scales, told
from marsam.diffusion.encoders import layer_path
from marsam.diffusion.spec import FamilyFacts
from marsam.store.blobs import Blobs
from marsam.store.cache import Cache
from marsam.store.content import digest_file, read_blob
from marsam_trainer import tensorfile
from marsam_trainer.adapters import CONFIG, WEIGHTS, place
from marsam_trainer.stored_headers import denoiser_tensors
from marsam_trainer.tensorfile import Made, Stored
from marsam_trainer.weights import Tensor

FILES = {
    "diffusers": "pytorch_lora_weights.safetensors",
    "kohya": "kohya.safetensors",
    "comfyui": "comfyui.safetensors",
}
"""What an adapter's one file is called in a dialect."""

CARD = "README.md"
"""The model card, which goes out with a model in every dialect."""

# What diffusers hands on to peft.LoraConfig.
_CONFIG_KEYS = ("r", "lora_alpha", "target_modules", "use_rslora", "use_dora", "lora_dropout")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One file to send: at `path`, either a stored blob or a local file that was made for this export."""

    path: str
    digest: str
    size: int
    local: Path | None = None


async def export(blobs: Blobs, cache: Cache, model: Model, *, dialect: str, scratch: Path) -> list[Exported]:
    """The files of `model` in `dialect` ('' is its own layout), its card and the pictures that the card shows; what
    must be made is made under `scratch`.

    Raises Invalid (UNKNOWN_DIALECT, DIALECT_UNSUITED).
    """
    if dialect and model.kind == "judge":
        raise Invalid("other programs have no layout for judges", reason="DIALECT_UNSUITED", field="dialect")
    if dialect:
        dialects.check(dialect, registry.family_facts(model.family))
    if dialect not in ("", "diffusers") and model.kind != "adapter":
        raise Invalid(
            f"{model.name} is of kind {model.kind}; the dialect '{dialect}' is for adapters",
            reason="DIALECT_UNSUITED",
            field="dialect",
            remedy="export it as diffusers",
        )
    if dialect in FILES and model.kind == "adapter":
        beside = [file for file in model.files if file.path == CARD]
        return [await _one_file(blobs, cache, model, dialect, scratch), *map(_stored, [*beside, *_pictures(model)])]
    return [_stored(file) for file in (*model.files, *_pictures(model))]


def _stored(file: FileRef) -> Exported:
    return Exported(path=file.path, digest=file.digest, size=file.size)


def _pictures(model: Model) -> list[FileRef]:
    return [file for file in model.samples if file.media_type == "image/png"]


async def _one_file(blobs: Blobs, cache: Cache, model: Model, dialect: str, scratch: Path) -> Exported:
    """The adapter as the one file that another program reads. Its alpha is in the file where the dialect has a place
    for it, and in the metadata always."""
    files = {file.path: file for file in model.files}
    if CONFIG not in files or WEIGHTS not in files:
        raise Corrupt(f"{model.name} lacks {CONFIG} or {WEIGHTS}", reason="MODEL_LAYOUT", resource=model.name)
    facts = registry.family_facts(model.family)
    folders = [folder for folder in facts.encoders if f"{folder}/{CONFIG}" in files]
    configs = {
        folder: json.loads(await read_blob(blobs, model.project, files[place(folder, CONFIG)].digest))
        for folder in ("", *folders)
    }
    if configs[""].get("use_dora"):
        dialects.check_dora(dialect)
    base: Mapping[str, Tensor] = {}
    if dialects.needs_base(dialect) and model.base is not None:
        base = await denoiser_tensors(blobs, await load_model(blobs, model.base))
    wanted = [files[place(folder, WEIGHTS)] for folder in configs]
    source = await cache.lay_out(blobs, model.project, wanted, scratch / "stored")
    target = scratch / FILES[dialect]

    def write() -> Exported:
        stored = {folder: Stored(source / place(folder, WEIGHTS), name=WEIGHTS) for folder in configs}
        scales = {folder: told(config, _modules(stored[folder])) for folder, config in configs.items()}
        tensors = retold(dialect, facts, stored[""], base, scales=scales[""])
        for folder in folders:
            tensors |= retold_encoder(dialect, facts, folder, stored[folder], scales=scales[folder])
        said = _metadata(configs, facts, stored, scales, alphas=dialects.has_alphas(dialect))
        tensorfile.write(target, tensors, metadata={**stored[""].header.metadata, **said})
        made = digest_file(target)
        return Exported(path=FILES[dialect], digest=made.digest, size=made.size, local=target)

    try:
        return await asyncio.to_thread(write)
    finally:
        await asyncio.to_thread(shutil.rmtree, source)
        await cache.trim()


def retold(
    dialect: str, facts: FamilyFacts, stored: Stored, base: Mapping[str, Tensor], *, scales: Scales
) -> dict[str, Made]:
    """The tensors under the dialect's names. Layers that it holds in one share a pair of the sum of their ranks: lower
    halves below one another, upper ones on the diagonal, zeros for a layer without a pair.

    Raises `Invalid` (DIALECT_UNSUITED) for those that have scales of their own, for such a pair has one.
    """
    modules = _modules(stored)
    layers = {key.removesuffix(".weight") for key in base if key.endswith(".weight")}
    tensors: dict[str, Made] = {}
    for names in dialects.pairs(dialect, facts, modules, layers):
        halves = {
            part: [stored.whole(f"{dialects.PEFT}{part}.lora_{half}.weight") for half in "AB"]
            for part in names.parts
            if part in modules
        }
        down, up = next(iter(halves.values()))
        if len(names.parts) > 1:
            for part in names.parts:
                height = halves[part][1].shape[0] if part in halves else base[f"{part}.weight"].shape[0]
                halves.setdefault(
                    part, [tensorfile.zeros(down, down.shape), tensorfile.zeros(up, (height, up.shape[1]))]
                )
            down = tensorfile.below([halves[part][0] for part in names.parts])
            up = tensorfile.diagonal([halves[part][1] for part in names.parts])
        tensors |= {names.down: down, names.up: up}
        if dialects.has_alphas(dialect):
            tensors[names.alpha] = tensorfile.number(_joint_alpha(names.parts, modules, scales))
        tensors |= _magnitude(names, stored)
    return tensors


def retold_encoder(dialect: str, facts: FamilyFacts, folder: str, stored: Stored, *, scales: Scales) -> dict[str, Made]:
    """As `retold`, of the text encoder in `folder`."""
    tensors: dict[str, Made] = {}
    for names in dialects.encoder_pairs(dialect, facts, folder, _modules(stored)):
        down, up = (stored.whole(f"{dialects.PEFT}{names.parts[0]}.lora_{half}.weight") for half in "AB")
        tensors |= {names.down: down, names.up: up}
        if dialects.has_alphas(dialect):
            tensors[names.alpha] = tensorfile.number(scales.plain_alpha_of(names.parts[0]))
        tensors |= _magnitude(names, stored)
    return tensors


def _magnitude(names: dialects.Names, stored: Stored) -> dict[str, Made]:
    """The lengths beside a pair, where the adapter has them."""
    key = f"{dialects.PEFT}{names.parts[0]}.{dialects.MAGNITUDE}"
    return {names.magnitude: stored.whole(key)} if key in stored.header.tensors else {}


def _modules(stored: Stored) -> set[str]:
    return {key.removeprefix(dialects.PEFT).rpartition(".lora_")[0] for key in stored.header.tensors}


def _joint_alpha(parts: Sequence[str], modules: Collection[str], scales: Scales) -> float:
    """The alpha of the one pair of `parts`, of which `modules` have pairs of their own."""
    own = [part for part in parts if part in modules]
    if not all(isclose(scales.scale_of(part), scales.scale_of(own[0]), rel_tol=1e-6) for part in own):
        raise Invalid(
            f"{' and '.join(own)} have scales of their own, and are one layer in this dialect",
            reason="DIALECT_UNSUITED",
            field="dialect",
            remedy="export as diffusers or peft",
        )
    # A part without a pair takes as much room as the first that has one.
    return sum(scales.plain_alpha_of(part if part in modules else own[0]) for part in parts)


def _metadata(
    configs: Mapping[str, Mapping[str, Any]],
    facts: FamilyFacts,
    stored: Mapping[str, Stored],
    scales: Mapping[str, Scales],
    *,
    alphas: bool,
) -> dict[str, str]:
    """The metadata: what sd-scripts writes where the file holds alphas, else what diffusers reads. It refuses both."""
    if alphas:
        own = scales[""]
        module = facts.kohya.network if facts.kohya is not None else "networks.lora"
        network = {"module": module, "dim": str(own.rank), "alpha": f"{own.plain_alpha:g}"}
        return {f"ss_network_{key}": value for key, value in network.items()}
    said: dict[str, Any] = {}
    for folder, config in configs.items():
        # Suffixes would reach layers of a text encoder that bear no pair.
        layers = {"target_modules": sorted(_modules(stored[folder]))} if folder else {}
        spelt = layer_path if folder else "^{}".format
        kept = {key: config[key] for key in _CONFIG_KEYS if key in config} | layers | scales[folder].patterns(spelt)
        said |= {f"{folder or facts.denoiser_folder}.{key}": value for key, value in kept.items()}
    return {"lora_adapter_metadata": json.dumps(said, sort_keys=True)}
