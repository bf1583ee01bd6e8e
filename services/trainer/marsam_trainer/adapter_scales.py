"""What an adapter's files say of the rank and alpha of its layers: in tensors beside the pairs, in metadata, or in
PEFT's configuration."""

import json
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from math import isclose, isfinite
from pathlib import Path
from typing import Any

from marsam.diffusion.adapter.scales import Scales, common, matched, told
from marsam.diffusion.encoders import layer_path
from marsam_trainer.adapter_keys import Layer, layout
from marsam_trainer.tensorfile import Stored
from marsam_trainer.weights import Header

_FLOATS: Mapping[str, Callable[[bytes], float]] = {
    "F64": lambda raw: float(struct.unpack("<d", raw)[0]),
    "F32": lambda raw: float(struct.unpack("<f", raw)[0]),
    "F16": lambda raw: float(struct.unpack("<e", raw)[0]),
    "BF16": lambda raw: float(struct.unpack("<f", b"\0\0" + raw)[0]),
}


def in_tensors(
    source: Stored, layers: Sequence[Layer], shares: Sequence[int]
) -> Mapping[tuple[str, str], float] | None:
    """The alpha of every layer of the base, by folder and path, None where the file holds none. Every pair has one, or
    none has.

    The scale is alpha / rank: of a layer that came apart into several pairs (`shares`), each has its share of both.
    """
    if not any(layer.alpha for layer in layers):
        return None
    found: dict[tuple[str, str], float] = {}
    different: list[float] = []
    for layer, share in sorted(zip(layers, shares, strict=True), key=lambda item: item[1]):
        if not layer.alpha:
            raise layout("some of its pairs have an alpha, and others have none")
        tensor = source.header.tensors[layer.alpha]
        if tensor.dtype not in _FLOATS:
            raise layout(f"{layer.alpha} is of type {tensor.dtype}")
        value = _FLOATS[tensor.dtype](b"".join(source.whole(layer.alpha).pieces())) / share
        if not isfinite(value):
            raise layout(f"{layer.alpha} is no number")
        # Shares are rounded to fp32: what differs by that alone is one alpha.
        one = next((other for other in different if isclose(value, other, rel_tol=1e-6)), None)
        if one is None:
            different.append(one := value)
        found |= {(layer.folder, part): one for part in layer.parts}
    return found


def in_metadata(header: Header, part: str, ranks: Mapping[str, int], *, encoder: bool, dora: bool) -> Scales:
    """The scales of layers of `part` (`unet`, `text_encoder`, …), whose ranks these are, as a file's metadata says them
    (`unet.lora_alpha`, `unet.alpha_pattern`, …), else diffusers' reading (alpha = rank). Metadata that
    says DoRA is refused unless the file holds its lengths (`dora`)."""
    parts: dict[str, dict[str, Any]] = {}
    try:
        for key, value in json.loads(header.metadata.get("lora_adapter_metadata", "{}")).items():
            name, _, field = key.rpartition(".")
            parts.setdefault(name, {})[field] = value
        # Metadata that speaks of one part alone means all of them.
        own = next(iter(parts.values())) if len(parts) == 1 else parts.get(part, {})
        otherwise = own.get("lora_alpha", header.metadata.get("alpha"))
        by_name = matched(_of_encoder(own) if encoder else own, "alpha_pattern", ranks)
        alphas = {
            module: float(by_name.get(module, rank if otherwise is None else otherwise))
            for module, rank in ranks.items()
        }
    except (ValueError, AttributeError, TypeError) as error:
        raise layout(f"its metadata does not say its alpha in numbers: {error}") from error
    if parts and not own:
        raise layout(f"its metadata speaks of {' and '.join(sorted(parts))}, and not of {part}")
    if not all(map(isfinite, alphas.values())):
        raise layout("its metadata does not say its alpha in numbers")
    if own.get("use_dora") and not dora:
        raise layout("its metadata says use_dora, and it holds no lengths")
    return common(ranks, alphas, rank_stabilised=bool(own.get("use_rslora", False)))


def in_config(path: Path, modules: Collection[str], *, encoder: bool, dora: bool) -> Scales:
    """The scales of `modules`, those of a text encoder or of the denoiser, as PEFT's configuration says them, which
    must say as well whether there are lengths beside their pairs (`dora`)."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict) or config.get("peft_type", "LORA") != "LORA" or "r" not in config:
        raise layout(f"{path.name} describes no LoRA")
    if not config.get("target_modules"):
        raise layout(f"{path.name} names no layers (target_modules)")
    if bool(config.get("use_dora")) != dora:
        raise layout(
            f"{path.name} says nothing of use_dora, and the tensors hold its lengths"
            if dora
            else f"{path.name} says use_dora, and the tensors hold none of its lengths"
        )
    try:
        return told(_of_encoder(config) if encoder else config, modules)
    except ValueError as error:
        raise layout(f"{path.name}: {error}") from error


def _of_encoder(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of a text encoder that names layers as all versions of a library do (`encoders.layer_path`)."""
    patterns = {
        field: {layer_path(name.replace("\\", "").removeprefix("^")): value for name, value in config[field].items()}
        for field in ("rank_pattern", "alpha_pattern")
        if isinstance(config.get(field), dict)
    }
    return {**config, **patterns}
