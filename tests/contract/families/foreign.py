"""Adapters that others made: by PEFT itself, with ranks and alphas of their own layer by layer."""

from collections.abc import Collection
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from marsam.diffusion.spec import FamilyFacts
from marsam.store.folder import FolderBlobs
from tests.contract.families import rig as rigs
from tests.contract.families.tuned import Tuned

SCALES, RANKS = (2.0, 0.5, 1.5), (4, 2, 3)


class Foreign(Tuned):
    """A family's tiny base under adapters that PEFT made and saved: its rig holds them where `Tuned` holds ours.

    Layers next to each other have other ranks. So have they scales, but for those that sd-scripts holds in one, whose
    pair has one; with `apart` those too. With `text` the text encoders have adapters as well.
    """

    def __init__(
        self, base: Path, name: str, folder: Path, *, stabilised: bool = False, apart: bool = False, text: bool = False
    ) -> None:
        self.base, self.folder = base, folder
        self.blobs = FolderBlobs(folder / "store")
        rig = rigs.load(base, name, "lora")
        facts, plain = rig.family.facts, rig.family.load(base)
        targets = {folder: encoder.targets for folder, encoder in facts.encoders.items() if text}
        encoders = {part: self._adapted(plain.text[part], part, own, stabilised) for part, own in targets.items()}
        groups = {} if apart else held_in(facts, dict(plain.denoiser.named_modules()))
        denoiser = self._adapted(plain.denoiser, "", facts.targets["all"], stabilised, groups)
        parts = replace(rig.parts, denoiser=denoiser, text={**rig.parts.text, **encoders})
        self.rig = replace(rig, parts=parts)
        self.said = rigs.predict(rig.family, parts)

    def _adapted(
        self, module: Any, part: str, targets: Collection[str], stabilised: bool, groups: dict[str, str] | None = None
    ) -> Any:
        """The module with such an adapter, which is saved where it belongs."""
        layers = [path for path, layer in module.named_modules() if path.endswith(tuple(targets))]
        names = [(groups or {}).get(layer, layer) for layer in layers]
        places = {name: place for place, name in enumerate(dict.fromkeys(names))}
        ranks = {f"^{layer}": RANKS[place % 3] for place, layer in enumerate(layers)}
        alphas = {
            layer: SCALES[places[name] // 3 % 3] * (sqrt(rank) if stabilised else rank)
            for (layer, rank), name in zip(ranks.items(), names, strict=True)
        }
        config = LoraConfig(
            r=7, lora_alpha=5, target_modules=layers, rank_pattern=ranks, alpha_pattern=alphas, use_rslora=stabilised
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(len(layers))
            model = get_peft_model(module, config)
            for path, value in model.named_parameters():
                if ".lora_B." in path:
                    value.data.normal_(0.0, 0.05)
        model.save_pretrained(self.folder / "adapter" / part, save_embedding_layers=False)
        (self.folder / "adapter" / part / "README.md").unlink()
        return model.base_model.model.eval()


def held_in(facts: FamilyFacts, layers: Collection[str]) -> dict[str, str]:
    """A layer → that which holds it in sd-scripts."""
    held = facts.kohya.layers(layers) if facts.kohya is not None else {}
    return {part: name for name, parts in held.items() for part in parts}
