"""A model's files in the layout that another program reads."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

from marsam.catalog.models import Model
from marsam.core.errors import Corrupt, Invalid, Unsupported, did_you_mean
from marsam.diffusion import registry
from marsam.store.blobs import Blobs
from marsam.store.cache import Cache
from marsam.store.content import digest_file, read_blob
from marsam_trainer.adapters import CONFIG, PREFIX, WEIGHTS, write_renamed
from marsam_trainer.weights import read_header

DIALECTS = ("diffusers", "peft")
DIFFUSERS_ADAPTER = "pytorch_lora_weights.safetensors"
# Known to users of other programs; each needs module names that only the network itself can give.
_LATER = ("kohya", "comfyui", "webui")
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

    Raises Invalid (UNKNOWN_DIALECT, DIALECT_UNSUITED), Unsupported (DIALECT_UNSUPPORTED) for one that is not built.
    """
    if dialect in _LATER:
        raise Unsupported(
            f"the dialect '{dialect}' is not built yet",
            reason="DIALECT_UNSUPPORTED",
            field="dialect",
            remedy="export as diffusers; its own scripts convert from there",
        )
    if dialect not in ("", *DIALECTS):
        raise Invalid(
            f"unknown dialect '{dialect}'",
            reason="UNKNOWN_DIALECT",
            field="dialect",
            remedy=did_you_mean(dialect, DIALECTS),
        )
    if dialect == "peft" and model.kind != "adapter":
        raise Invalid(
            f"{model.name} is of kind {model.kind}; PEFT's layout is for adapters",
            reason="DIALECT_UNSUITED",
            field="dialect",
            remedy="export it as diffusers",
        )
    if dialect == "diffusers" and model.kind == "judge":
        raise Invalid("diffusers has no layout for judges", reason="DIALECT_UNSUITED", field="dialect")
    if dialect == "diffusers" and model.kind == "adapter":
        return [await _diffusers_adapter(blobs, cache, model, scratch)]
    return [Exported(path=file.path, digest=file.digest, size=file.size) for file in model.files]


async def _diffusers_adapter(blobs: Blobs, cache: Cache, model: Model, scratch: Path) -> Exported:
    """The one file that `pipe.load_lora_weights` reads, its scale in the metadata."""
    files = {file.path: file for file in model.files}
    if CONFIG not in files or WEIGHTS not in files:
        raise Corrupt(f"{model.name} lacks {CONFIG} or {WEIGHTS}", reason="MODEL_LAYOUT", resource=model.name)
    config = json.loads(await read_blob(blobs, model.project, files[CONFIG].digest))
    source = await cache.lay_out(blobs, model.project, [files[WEIGHTS]], scratch / "stored") / WEIGHTS
    target = scratch / DIFFUSERS_ADAPTER
    part = registry.family_facts(model.family).denoiser_folder
    told = {f"{part}.{key}": config[key] for key in _CONFIG_KEYS if key in config}

    def write() -> Exported:
        header = read_header(source, name=WEIGHTS)
        names = {key: f"{part}.{key.removeprefix(PREFIX)}" for key in header.tensors}
        write_renamed(source, names, into=target, metadata={"lora_adapter_metadata": json.dumps(told, sort_keys=True)})
        made = digest_file(target)
        return Exported(path=DIFFUSERS_ADAPTER, digest=made.digest, size=made.size, local=target)

    try:
        return await asyncio.to_thread(write)
    finally:
        await asyncio.to_thread(source.unlink)
        await cache.trim()
