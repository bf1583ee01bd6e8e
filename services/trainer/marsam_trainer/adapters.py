"""Low-rank adapters in the layouts people have them in, recognised by their keys and turned into PEFT's.

PEFT's layout is the one Marsam stores: `adapter_model.safetensors` with `base_model.model.<module>.lora_{A,B}.weight`,
and `adapter_config.json`. One-file adapters (`marsam.diffusion.dialects`) hold the same tensors under other names. A
pair on a layer that is several of ours is cut along its rows: into pairs of a smaller rank where it is nothing but
those side by side, else each of ours gets the whole lower half; DoRA's lengths are cut with it (`adapter_lengths`).
Scales that are kept in tensors go into the configuration, layer by layer where they differ
(`marsam.diffusion.adapter.scales`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from marsam.core.errors import Invalid
from marsam.diffusion import registry
from marsam.diffusion.adapter.scales import Scales, common
from marsam.diffusion.dialects import MAGNITUDE
from marsam.diffusion.dialects import PEFT as PREFIX
from marsam.diffusion.spec import FamilyFacts
from marsam_trainer import adapter_lengths, adapter_scales, tensorfile
from marsam_trainer.adapter_keys import Layer, layers_of
from marsam_trainer.adapter_keys import layout as _layout
from marsam_trainer.tensorfile import Made, Stored
from marsam_trainer.weights import Content, Tensor

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_ENDS = {"A": "lora_A.weight", "B": "lora_B.weight", "lengths": MAGNITUDE}
"""What PEFT calls the tensors of a pair."""


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

    Returns its parameters (rank, alpha, rank_stabilised, ranks and alphas: all of them where layers differ, modules:
    how many, text_modules: how many of text encoders where it changes one, dora: true where it has lengths, keys: how
    many the file has), and, when its layout had to be changed, the files to store instead, written under `scratch`.
    Every key is of the adapter then. Raises `Invalid`.
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
    if not pairs:
        raise _layout("all its tensors are zero")
    dora = adapter_lengths.everywhere(layers)
    alphas = adapter_scales.in_tensors(source, layers, shares)
    rewritten = {path: files[path] for path, content in contents.items() if content is Content.TEXT}  # its card
    if "" not in pairs:
        raise _layout("it changes nothing of the denoiser")
    scales = {}
    for folder, own in pairs.items():
        ranks = {module: pair["A"].shape[0] for module, pair in own.items()}
        part = folder or facts.denoiser_folder
        scales[folder] = (
            adapter_scales.in_metadata(source.header, part, ranks, encoder=bool(folder), dora=dora)
            if alphas is None
            else common(ranks, {module: alphas[folder, module] for module in own})
        )
        config = _config(scales[folder], sorted(own)) | ({"use_dora": True} if dora else {})
        into = scratch / folder
        into.mkdir(parents=True, exist_ok=True)
        (into / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        tensorfile.write(into / WEIGHTS, _named(own), metadata=source.header.metadata)
        rewritten |= {place(folder, name): into / name for name in (CONFIG, WEIGHTS)}
    return _parameters(scales, pairs, dora=dora, keys=len(source.header.tensors)), rewritten


def _named(pairs: Mapping[str, Mapping[str, Made]]) -> dict[str, Made]:
    """The tensors of pairs on modules, under PEFT's names."""
    return {f"{PREFIX}{module}.{_ENDS[part]}": made for module, pair in pairs.items() for part, made in pair.items()}


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
    scales: dict[str, Scales] = {}
    found: list[Layer] = []
    keys = 0
    for folder in folders:
        source = Stored(files[place(folder, WEIGHTS)], name=place(folder, WEIGHTS))
        layers = layers_of(source.header.tensors, facts=facts, base=_layers(base), folder=folder)
        pairs, _ = _pairs(source, layers, base)
        own = pairs.get(folder, {})
        spelt = all(layer.lengths.endswith(f".{MAGNITUDE}") for layer in layers if layer.lengths)
        if set(pairs) != {folder} or not spelt or (not folder and set(_named(own)) != set(source.header.tensors)):
            raise _layout(f"beside {CONFIG} belongs {WEIGHTS} with PEFT's own names")
        scales[folder] = adapter_scales.in_config(
            files[place(folder, CONFIG)], own, encoder=bool(folder), dora=adapter_lengths.everywhere(layers)
        )
        found += layers
        for module, pair in own.items():
            said, rank = scales[folder].rank_of(module), pair["A"].shape[0]
            if said != rank:
                raise _layout(f"{CONFIG} says rank {said}, the tensors say {rank}: {module}")
        every[folder], keys = own, keys + len(source.header.tensors)
    return _parameters(scales, every, dora=adapter_lengths.everywhere(found), keys=keys)


def _config(scales: Scales, modules: Sequence[str]) -> dict[str, Any]:
    """PEFT's configuration of an adapter that has none."""
    return {
        "peft_type": "LORA",
        "r": scales.rank,
        "lora_alpha": scales.alpha,
        "target_modules": list(modules),
        "lora_dropout": 0.0,
        "use_rslora": scales.rank_stabilised,
        "bias": "none",
        **scales.patterns(),
    }


def _layers(base: Mapping[str, Mapping[str, Tensor]]) -> dict[str, set[str]]:
    """The paths of all layers, by part."""
    return {
        part: {key.removesuffix(".weight") for key in tensors if key.endswith(".weight")}
        for part, tensors in base.items()
    }


def _pairs(
    source: Stored, layers: Sequence[Layer], base: Mapping[str, Mapping[str, Tensor]]
) -> tuple[dict[str, dict[str, dict[str, Made]]], list[int]]:
    """Both halves on every layer of the base, and lengths where it has them, by part, and into how many pairs of a
    smaller rank each of `layers` came apart. The halves must be there, fit each other, and fit the base's layers."""
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
        if layer.lengths:
            lengths = adapter_lengths.of_parts(source, layer, shapes)
            cut = {part: {**cut[part], "lengths": own} for part, own in zip(layer.parts, lengths, strict=True)}
        own = pairs.setdefault(layer.folder, {})
        if not own.keys().isdisjoint(cut):
            raise _layout(f"two pairs are of {name}")
        own |= cut
        shares.append(share)
    return pairs, shares


def _cut(source: Stored, layer: Layer, heights: Sequence[int], *, rank: int) -> tuple[dict[str, dict[str, Made]], int]:
    """The pairs of a layer's parts, `heights` rows each, and how many they share the rank of the whole with: all where
    the upper half is zero beside its diagonal; parts that are zero altogether are then left out, unless they have
    lengths."""
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
        if layer.lengths or not (tensorfile.is_zero(lower) and tensorfile.is_zero(upper)):
            pairs[part] = {"A": lower, "B": upper}
    return pairs, count


def _parameters(
    scales: Mapping[str, Scales], pairs: Mapping[str, Mapping[str, Any]], *, dora: bool, keys: int
) -> dict[str, Any]:
    """What the model says of itself: the rank and alpha of most of the denoiser's layers, and all that there are where
    layers differ."""
    ranks = {folder: {module: scales[folder].rank_of(module) for module in own} for folder, own in pairs.items()}
    alphas = {folder: {module: scales[folder].alpha_of(module) for module in own} for folder, own in pairs.items()}
    own = common(ranks[""], alphas[""])
    every_rank = sorted({rank for one in ranks.values() for rank in one.values()})
    every_alpha = sorted({alpha for one in alphas.values() for alpha in one.values()})
    text = sum(len(modules) for folder, modules in pairs.items() if folder)
    return {
        "rank": own.rank,
        "alpha": own.alpha,
        "rank_stabilised": scales[""].rank_stabilised,
        **({"ranks": every_rank} if len(every_rank) > 1 else {}),
        **({"alphas": every_alpha} if len(every_alpha) > 1 else {}),
        "modules": len(pairs[""]),
        **({"text_modules": text} if text else {}),
        **({"dora": True} if dora else {}),
        "keys": keys,
    }
