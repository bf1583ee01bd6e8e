"""Adapters on all parts of a base that are tuned: its denoiser, and text encoders beside it."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from marsam.core.errors import Corrupt
from marsam.diffusion import tuned
from marsam.diffusion.adapter import net
from marsam.diffusion.encoders import layer_path
from marsam.diffusion.spec import FamilyFacts


def attach(
    modules: Mapping[str, Any], family: FamilyFacts, params: Mapping[str, Any], *, seed: int
) -> dict[str, torch.nn.Parameter]:
    """See `Method.attach`: an adapter on each of the modules, each with a start of its own."""
    trained: dict[str, torch.nn.Parameter] = {}
    for place, (folder, module) in enumerate(modules.items()):
        own = net.inject(module, _shape(params, family, folder, module), seed=seed + place)
        trained |= {tuned.named(family, folder, path): value for path, value in own.items()}
    return trained


def _shape(params: Mapping[str, Any], family: FamilyFacts, folder: str, module: Any) -> net.LowRank:
    """The shape that a method's checked parameters ask for; `targets` names a preset of the family's denoiser."""
    denoiser = folder == family.denoiser_folder
    targets = family.targets[params["targets"]] if denoiser else family.encoders[folder].targets
    unheard = idle(module, tuned.idle_names(family, folder))
    return net.LowRank(
        rank=params["rank"],
        alpha=params["alpha"],
        targets=targets,
        left_out=tuple(
            name
            for name, _ in module.named_modules()
            if name.endswith(targets) and any(f"{name}.".startswith(f"{one}.") for one in unheard)
        ),
        dropout=params["dropout"],
        rank_stabilised=params["rank_stabilised"],
        dora=params["dora"],
    )


def idle(module: Any, names: Iterable[str]) -> tuple[str, ...]:
    """The paths of the modules that `names` names (`FamilyFacts.idle`, `TunedEncoder.idle`), where `module` has
    them."""
    paths = dict(module.named_modules())
    found: list[str] = []
    for name in names:
        if name.endswith(":"):
            blocks, _, first = name[:-1].rpartition(".")
            count = len(paths.get(blocks, ()))
            found += [f"{blocks}.{place}" for place in range(count)[int(first) :]]
        elif ".-1." in name:
            blocks, _, inside = name.partition(".-1.")
            found.append(f"{blocks}.{len(paths[blocks]) - 1}.{inside}")
        else:
            found.append(name)
    return tuple(name for name in found if name in paths)


def save_all(
    modules: Mapping[str, Any], family: FamilyFacts, folder: Path, *, metadata: Mapping[str, str]
) -> tuple[str, ...]:
    """Write the adapters of all modules: the denoiser's into `folder`, others' each into a folder of its part's name
    below. Returns the relative paths."""
    places = {part: "" if part == family.denoiser_folder else f"{part}/" for part in modules}
    return tuple(
        f"{places[part]}{path}"
        for part, module in modules.items()
        for path in net.save(module, folder / places[part], metadata=metadata)
    )


def apply_all(
    modules: Mapping[str, Any], family: FamilyFacts, adapter: net.Adapter, *, name: str = "default", weight: float = 1.0
) -> int:
    """As `net.apply`, on the denoiser and the text encoders that the adapter changes; `modules` holds all by folder."""
    count = net.apply(modules[family.denoiser_folder], adapter, name=name, weight=weight)
    for folder, own in adapter.text.items():
        if folder not in modules or folder not in family.encoders:
            raise Corrupt(
                f"the adapter changes {folder}, which is no text encoder of the base that takes one",
                reason="ADAPTER_MISMATCH",
                remedy="use it with the base that it was trained on",
            )
        count += net.apply(modules[folder], named_as(modules[folder], own), name=name, weight=weight)
    return count


def named_as(encoder: Any, adapter: net.Adapter) -> net.Adapter:
    """The adapter under the names that its layers have in this text encoder (see `encoders.layer_path`)."""
    paths: dict[str, list[str]] = {}
    for path, _ in encoder.named_modules():
        paths.setdefault(layer_path(path), []).append(path)

    def here(module: str) -> str:
        found = paths.get(layer_path(module), [])
        return found[0] if len(found) == 1 else module

    shape = adapter.shape
    return replace(
        adapter,
        pairs={here(module): pair for module, pair in adapter.pairs.items()},
        magnitudes={here(module): value for module, value in adapter.magnitudes.items()},
        shape=replace(
            shape,
            targets=tuple(map(here, shape.targets)),
            left_out=tuple(map(here, shape.left_out)),
            ranks={here(module): rank for module, rank in shape.ranks.items()},
            alphas={here(module): alpha for module, alpha in shape.alphas.items()},
        ),
    )
