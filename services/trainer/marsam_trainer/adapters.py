"""Low-rank adapters in the layouts people have them in, recognised by their keys and turned into PEFT's.

PEFT's layout is the one Marsam stores: `adapter_model.safetensors` with `base_model.model.<module>.lora_{A,B}.weight`,
and `adapter_config.json`. One-file adapters (`marsam.diffusion.dialects`) hold the same tensors under other names. A
pair on a layer that is several of ours is cut along its rows: into pairs of a smaller rank where it is nothing but
those side by side, else each of ours gets the whole lower half. A scale that is kept in tensors goes into the
configuration.
"""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from math import isclose, isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any

from marsam.core.errors import Invalid
from marsam.diffusion import registry
from marsam.diffusion.dialects import PEFT as PREFIX
from marsam.diffusion.spec import FamilyFacts
from marsam_trainer import tensorfile
from marsam_trainer.adapter_keys import Layer, layers_of
from marsam_trainer.adapter_keys import layout as _layout
from marsam_trainer.tensorfile import Made, Stored
from marsam_trainer.weights import Content, Header, Tensor

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def read_adapter(
    files: Mapping[str, Path],
    contents: Mapping[str, Content],
    *,
    family: str,
    denoiser: Mapping[str, Tensor],
    encoders: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({}),
    scratch: Path,
) -> tuple[dict[str, Any], dict[str, Path] | None]:
    """Check an adapter of a base of `family` whose denoiser has the tensors `denoiser`, and its text encoders those of
    `encoders`, by folder.

    Returns its parameters (rank, alpha, rank_stabilised, modules: how many, text_modules: how many of text encoders
    where it changes one, keys: how many the file has), and, when its layout had to be changed, the files to store
    instead, written under `scratch`. Every key is of the adapter then. Raises `Invalid`.
    """
    facts, base = registry.family_facts(family), {"": denoiser, **encoders}
    if CONFIG in files:
        return _as_stored(files, contents, facts, base), None
    weights = [path for path, content in contents.items() if content is Content.SAFETENSORS]
    if len(weights) != 1:
        raise _layout(f"an adapter is one .safetensors file, this has {len(weights)}")
    source = Stored(files[weights[0]], name=weights[0])
    layers = layers_of(source.header.tensors, facts=facts, base=_layers(base))
    pairs, shares = _pairs(source, layers, base)
    rank = _rank(pairs)
    alpha = _alpha(source, layers, shares)
    rewritten = {path: files[path] for path, content in contents.items() if content is Content.TEXT}  # its card
    if "" not in pairs:
        raise _layout("it changes nothing of the denoiser")
    for folder, own in pairs.items():
        config = _made_up(source.header, sorted(own), rank=rank, alpha=alpha)
        into = scratch / folder
        into.mkdir(parents=True, exist_ok=True)
        (into / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        named = {f"{PREFIX}{module}.lora_{half}.weight": pair[half] for module, pair in own.items() for half in "AB"}
        tensorfile.write(into / WEIGHTS, named, metadata=source.header.metadata)
        rewritten |= {place(folder, name): into / name for name in (CONFIG, WEIGHTS)}
    return _parameters(config, pairs, rank=rank, keys=len(source.header.tensors)), rewritten


def place(folder: str, name: str) -> str:
    """Where a file of the denoiser's ('') or a text encoder's adapter is in a stored one."""
    return f"{folder}/{name}" if folder else name


def _as_stored(
    files: Mapping[str, Path],
    contents: Mapping[str, Content],
    facts: FamilyFacts,
    base: Mapping[str, Mapping[str, Tensor]],
) -> dict[str, Any]:
    """The parameters of an adapter in PEFT's own layout, the text encoders' in folders named as the base's."""
    folders = ["", *(folder for folder in facts.encoders if place(folder, CONFIG) in files)]
    weights = {path for path, content in contents.items() if content is Content.SAFETENSORS}
    if weights != {place(folder, WEIGHTS) for folder in folders}:
        raise _layout(f"beside {CONFIG} belongs {WEIGHTS} with PEFT's own names, and nothing else")
    every: dict[str, dict[str, dict[str, Made]]] = {}
    keys = 0
    for folder in folders:
        source = Stored(files[place(folder, WEIGHTS)], name=place(folder, WEIGHTS))
        layers = layers_of(source.header.tensors, facts=facts, base=_layers(base), folder=folder)
        pairs, _ = _pairs(source, layers, base)
        own = pairs.get(folder, {})
        theirs = {f"{PREFIX}{module}.lora_{half}.weight" for module in own for half in "AB"}
        if set(pairs) != {folder} or (not folder and theirs != set(source.header.tensors)):
            raise _layout(f"beside {CONFIG} belongs {WEIGHTS} with PEFT's own names")
        config = _config(files[place(folder, CONFIG)])
        parameters = _parameters(config, {"": own}, rank=_rank(pairs), keys=0)
        every[folder], keys = own, keys + len(source.header.tensors)
        if not folder:
            first, told = config, parameters
        elif any(told[name] != parameters[name] for name in ("rank", "alpha", "rank_stabilised")):
            raise _layout(f"the adapter of {folder} has another rank or alpha than the denoiser's")
    return _parameters(first, every, rank=told["rank"], keys=keys)


def _layers(base: Mapping[str, Mapping[str, Tensor]]) -> dict[str, set[str]]:
    """The paths of all layers, by part."""
    return {
        part: {key.removesuffix(".weight") for key in tensors if key.endswith(".weight")}
        for part, tensors in base.items()
    }


def _pairs(
    source: Stored, layers: Sequence[Layer], base: Mapping[str, Mapping[str, Tensor]]
) -> tuple[dict[str, dict[str, dict[str, Made]]], list[int]]:
    """Both halves on every layer of the base, by part, and into how many pairs of a smaller rank each of `layers` came
    apart. The halves must be there, fit each other, and fit the base's layers."""
    pairs: dict[str, dict[str, dict[str, Made]]] = {}
    shares = []
    for layer in layers:
        name = " with ".join(layer.parts)
        if set(layer.halves) != {"A", "B"}:
            raise _layout(f"{name} lacks one half of its pair")
        down, up = (source.header.tensors[layer.halves[half]].shape for half in "AB")
        if min(len(down), len(up)) < 2 or down[0] != up[1] or not down[0]:
            raise _layout(f"the halves of {name} do not fit")
        shapes = [base[layer.folder][f"{part}.weight"].shape for part in layer.parts]
        if up[0] != sum(shape[0] for shape in shapes) or any(shape[1:2] != down[1:2] for shape in shapes):
            raise Invalid(
                f"the base has no layer {name} of that size",
                field="base",
                reason="BASE_MISMATCH",
                remedy="name the base that the adapter was trained on",
            )
        cut, share = _cut(source, layer, [shape[0] for shape in shapes], rank=down[0])
        own = pairs.setdefault(layer.folder, {})
        if not own.keys().isdisjoint(cut):
            raise _layout(f"two pairs are of {name}")
        own |= cut
        shares.append(share)
    return pairs, shares


def _cut(source: Stored, layer: Layer, heights: Sequence[int], *, rank: int) -> tuple[dict[str, dict[str, Made]], int]:
    """The pairs of a layer's parts, `heights` rows each, and how many they share the rank of the whole with: all where
    the upper half is zero beside its diagonal; parts that are zero altogether are then left out."""
    down, up = layer.halves["A"], layer.halves["B"]
    if len(layer.parts) == 1:
        return {layer.parts[0]: {"A": source.whole(down), "B": source.whole(up)}}, 1
    ends = [sum(heights[: place + 1]) for place in range(len(heights))]
    rows = [(end - height, end) for end, height in zip(ends, heights, strict=True)]
    count = len(layer.parts)
    own, rest = divmod(rank, count)
    apart = not rest and all(
        tensorfile.is_zero(source.block(up, rows[place], columns))
        for place in range(count)
        for columns in ((0, place * own), ((place + 1) * own, rank))
        if columns[0] < columns[1]
    )
    if not apart:
        whole = source.whole(down)
        return {
            part: {"A": whole, "B": source.rows(up, first, end - first)}
            for part, (first, end) in zip(layer.parts, rows, strict=True)
        }, 1
    pairs = {}
    for place, part in enumerate(layer.parts):
        lower = source.rows(down, place * own, own)
        upper = source.block(up, rows[place], (place * own, (place + 1) * own))
        if not (tensorfile.is_zero(lower) and tensorfile.is_zero(upper)):
            pairs[part] = {"A": lower, "B": upper}
    return pairs, count


_FLOATS: Mapping[str, Callable[[bytes], float]] = {
    "F64": lambda raw: float(struct.unpack("<d", raw)[0]),
    "F32": lambda raw: float(struct.unpack("<f", raw)[0]),
    "F16": lambda raw: float(struct.unpack("<e", raw)[0]),
    "BF16": lambda raw: float(struct.unpack("<f", b"\0\0" + raw)[0]),
}


def _alpha(source: Stored, layers: Sequence[Layer], shares: Sequence[int]) -> float | None:
    """The one alpha of all pairs, None where the file holds none. Every pair has one, or none has.

    The scale is alpha / rank: of a layer that came apart into several pairs, each has its share of both.
    """
    alphas = {layer.alpha: share for layer, share in zip(layers, shares, strict=True)}
    if set(alphas) == {""}:
        return None
    if "" in alphas:
        raise _layout("some of its pairs have an alpha, and others have none")
    values = []
    for key, share in sorted(alphas.items(), key=lambda item: item[1]):
        tensor = source.header.tensors[key]
        if tensor.dtype not in _FLOATS:
            raise _layout(f"{key} is of type {tensor.dtype}")
        values.append(_FLOATS[tensor.dtype](b"".join(source.whole(key).pieces())) / share)
    if not all(isclose(value, values[0], rel_tol=1e-6) for value in values):  # shares are rounded to fp32
        raise _layout(f"the adapter mixes alphas {sorted(set(values))[:5]}")
    return values[0]


def _rank(pairs: Mapping[str, Mapping[str, Mapping[str, Made]]]) -> int:
    """The one rank of all pairs."""
    ranks = {pair["A"].shape[0] for own in pairs.values() for pair in own.values()}
    if len(ranks) > 1:
        raise _layout(f"the adapter mixes ranks {sorted(ranks)}")
    if not ranks:
        raise _layout("all its tensors are zero")
    return ranks.pop()


def _config(path: Path) -> Mapping[str, Any]:
    config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict) or config.get("peft_type", "LORA") != "LORA" or "r" not in config:
        raise _layout(f"{CONFIG} describes no LoRA")
    if not config.get("target_modules"):
        raise _layout(f"{CONFIG} names no layers (target_modules)")
    if _by_layer(config):
        raise _layout(f"{CONFIG} gives some layers a rank or an alpha of their own")
    if config.get("use_dora"):
        raise Invalid(
            "DoRA adapters cannot be applied here", field="files", reason="ADAPTER_KIND", remedy="train a LoRA"
        )
    return config


def _parameters(
    config: Mapping[str, Any], pairs: Mapping[str, Mapping[str, Any]], *, rank: int, keys: int
) -> dict[str, Any]:
    if config["r"] != rank:
        raise _layout(f"{CONFIG} says rank {config['r']}, the tensors say {rank}")
    alpha = config.get("lora_alpha", rank)
    if type(alpha) not in (int, float) or not isfinite(alpha):
        raise _layout(f"{CONFIG} gives no number as lora_alpha")
    text = sum(len(own) for folder, own in pairs.items() if folder)
    return {
        "rank": rank,
        "alpha": float(alpha),
        "rank_stabilised": bool(config.get("use_rslora", False)),
        "modules": len(pairs[""]),
        **({"text_modules": text} if text else {}),
        "keys": keys,
    }


def _made_up(header: Header, modules: Sequence[str], *, rank: int, alpha: float | None) -> dict[str, Any]:
    """The configuration of a one-file adapter: its own alpha, else what its metadata says, else diffusers' reading
    (alpha = rank). Refuses ranks and alphas that differ between layers."""
    stabilised = False
    if alpha is None:
        alpha, stabilised = _told(header, rank=rank)
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": list(modules),
        "lora_dropout": 0.0,
        "use_rslora": stabilised,
        "bias": "none",
    }


def _told(header: Header, *, rank: int) -> tuple[float, bool]:
    """Alpha, and whether the scale is that by √rank, as a file's metadata says them of every part (`unet.lora_alpha`,
    `text_encoder.lora_alpha`, …). Refuses what differs between parts or layers."""
    otherwise = header.metadata.get("alpha", rank)
    parts: dict[str, dict[str, Any]] = {}
    try:
        for key, value in json.loads(header.metadata.get("lora_adapter_metadata", "{}")).items():
            part, _, name = key.rpartition(".")
            parts.setdefault(part, {})[name] = value
        said = [
            (float(one.get("lora_alpha", otherwise)), bool(one.get("use_rslora", False)))
            for one in parts.values() or [{}]
        ]
    except (ValueError, AttributeError, TypeError) as error:
        raise _layout("its metadata does not say its alpha in numbers") from error
    if any(map(_by_layer, parts.values())):
        raise _layout("its metadata gives some layers a rank or an alpha of their own")
    if len(set(said)) > 1:
        raise _layout(f"its metadata gives {' and '.join(sorted(parts))} alphas of their own")
    return said[0]


def _by_layer(config: Mapping[str, Any]) -> bool:
    """Whether a configuration gives some layers a rank or an alpha of their own."""
    return bool(config.get("rank_pattern") or config.get("alpha_pattern"))
