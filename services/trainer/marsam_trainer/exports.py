"""A model's files in the layout that another program reads."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from marsam.catalog.models import Model
from marsam.core.errors import Corrupt, Invalid
from marsam.diffusion import dialects, registry
from marsam.store.blobs import Blobs
from marsam.store.cache import Cache
from marsam.store.content import digest_file, read_blob
from marsam_trainer.adapters import CONFIG, WEIGHTS, write_renamed
from marsam_trainer.weights import read_header

FILES = {
    "diffusers": "pytorch_lora_weights.safetensors",
    "kohya": "kohya.safetensors",
    "comfyui": "comfyui.safetensors",
}
"""What an adapter's one file is called in a dialect."""

# What diffusers hands on to peft.LoraConfig.
_CONFIG_KEYS = ("r", "lora_alpha", "target_modules", "use_rslora", "lora_dropout")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One file to send: at `path`, either a stored blob or a local file that was made for this export."""

    path: str
    digest: str
    size: int
    local: Path | None = None


async def export(blobs: Blobs, cache: Cache, model: Model, *, dialect: str, scratch: Path) -> list[Exported]:
    """The files of `model` in `dialect` ('' is its own layout); what must be made is made under `scratch`.

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
        return [await _one_file(blobs, cache, model, dialect, scratch)]
    return [Exported(path=file.path, digest=file.digest, size=file.size) for file in model.files]


async def _one_file(blobs: Blobs, cache: Cache, model: Model, dialect: str, scratch: Path) -> Exported:
    """The adapter as the one file that another program reads. Its alpha is in the file where the dialect has a place
    for it, and in the metadata always."""
    files = {file.path: file for file in model.files}
    if CONFIG not in files or WEIGHTS not in files:
        raise Corrupt(f"{model.name} lacks {CONFIG} or {WEIGHTS}", reason="MODEL_LAYOUT", resource=model.name)
    config = json.loads(await read_blob(blobs, model.project, files[CONFIG].digest))
    source = await cache.lay_out(blobs, model.project, [files[WEIGHTS]], scratch / "stored") / WEIGHTS
    target = scratch / FILES[dialect]
    part = registry.family_facts(model.family).denoiser_folder

    def write() -> Exported:
        header = read_header(source, name=WEIGHTS)
        names, modules = {}, set()
        for key in header.tensors:
            module, _, half = key.removeprefix(dialects.PEFT).removesuffix(".weight").rpartition(".lora_")
            names[key] = dialects.pair_key(dialect, part, module, half)
            modules.add(module)
        alpha = _alpha(config)
        numbers = {}
        if dialects.has_alphas(dialect):
            numbers = {dialects.alpha_key(dialect, part, module): alpha for module in sorted(modules)}
        write_renamed(source, names, into=target, metadata=_told(config, part, alpha, numbers), numbers=numbers)
        made = digest_file(target)
        return Exported(path=FILES[dialect], digest=made.digest, size=made.size, local=target)

    try:
        return await asyncio.to_thread(write)
    finally:
        await asyncio.to_thread(source.unlink)
        await cache.trim()


def _alpha(config: Mapping[str, Any]) -> float:
    """Alpha as those read it who always divide it by the rank."""
    rank, alpha = int(config["r"]), float(config.get("lora_alpha", config["r"]))
    return alpha * sqrt(rank) if config.get("use_rslora") else alpha


def _told(config: Mapping[str, Any], part: str, alpha: float, numbers: Mapping[str, float]) -> dict[str, str]:
    """The metadata: what sd-scripts writes where the file holds alphas, else what diffusers reads. It refuses both."""
    if numbers:
        network = {"module": "networks.lora", "dim": str(config["r"]), "alpha": f"{alpha:g}"}
        return {f"ss_network_{key}": value for key, value in network.items()}
    told = {f"{part}.{key}": config[key] for key in _CONFIG_KEYS if key in config}
    return {"lora_adapter_metadata": json.dumps(told, sort_keys=True)}
