"""How other programs name an adapter's tensors. Standard library only.

PEFT's names, the ones Marsam stores, are `base_model.model.<module>.lora_{A,B}.weight`. One-file dialects:

* `diffusers`: `<part>.<module>.lora_{A,B}.weight`, what `load_lora_weights` reads; its scale is in the header.
* `kohya`: `lora_unet_<their module, dots as underscores>.lora_{down,up}.weight` and `.alpha`, as sd-scripts writes it
  (`spec.Kohya`): for Stable Diffusion 1 and 2 under diffusers' names, else under those of the original code, where
  one layer may hold several of ours. ComfyUI, the web UIs and diffusers read it too.
* `comfyui`: for UNets kohya's scheme over diffusers' names; for transformers `transformer.<module>.lora_{A,B}.weight`
  and `.alpha`, which ComfyUI maps onto its own layers (fused ones included) for the families that
  `FamilyFacts.comfyui` marks.

In the last two the scale is alpha / rank, whatever rule it was trained with. They have no place for DoRA's lengths:
sd-scripts reads none, and versions of ComfyUI take a `dora_scale` for those of a layer's inputs, not of its outputs.

Layers of CLIP text encoders stand beside the denoiser's in the same file, below `text_model` as the original class has
them: `<folder>.text_model.<module>.…` for diffusers, sd-scripts' own (`lora_te1_text_model_…`) in the other two, which
ComfyUI reads for transformers as well (its `model_lora_keys_clip`). Nobody reads adapters of other encoders.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from marsam.core.errors import Invalid, did_you_mean
from marsam.diffusion.encoders import layer_path
from marsam.diffusion.spec import FamilyFacts

DIALECTS = ("comfyui", "diffusers", "kohya", "peft")
PEFT = "base_model.model."
KOHYA = "lora_unet_"
MAGNITUDE = "lora_magnitude_vector"
_TEXT_MODEL = "text_model."


@dataclass(frozen=True, slots=True)
class Names:
    """What a one-file dialect calls one pair, and DoRA's lengths beside it. `parts` are the layers whose rows it holds,
    in order; mostly one."""

    parts: tuple[str, ...]
    down: str
    up: str
    alpha: str
    magnitude: str = ""


def check(dialect: str, facts: FamilyFacts) -> None:
    """Raise `Invalid` (UNKNOWN_DIALECT, DIALECT_UNSUITED) unless adapters of the family can be told in `dialect`."""
    if dialect not in DIALECTS:
        raise Invalid(
            f"unknown dialect '{dialect}'", reason="UNKNOWN_DIALECT", field="dialect",
            remedy=did_you_mean(dialect, DIALECTS),
        )  # fmt: skip
    if dialect not in suited(facts):
        raise Invalid(
            f"the dialect '{dialect}' has no names for the layers of {facts.name}", reason="DIALECT_UNSUITED",
            field="dialect", remedy=f"export as {' or '.join(suited(facts))}",
        )  # fmt: skip


def suited(facts: FamilyFacts, *, dora: bool = False) -> tuple[str, ...]:
    """The dialects that an adapter of the family's denoiser can be told in."""
    able = {"comfyui": facts.comfyui or facts.denoiser_folder == "unet", "kohya": facts.kohya is not None}
    return tuple(name for name in DIALECTS if able.get(name, True) and not (dora and has_alphas(name)))


def has_alphas(dialect: str) -> bool:
    """Whether the dialect keeps an alpha beside every pair."""
    return dialect in ("comfyui", "kohya")


def check_dora(dialect: str) -> None:
    """Raise `Invalid` (DIALECT_UNSUITED) unless a DoRA adapter can be told in `dialect`."""
    if has_alphas(dialect):
        raise Invalid(
            f"the dialect '{dialect}' has no place for what DoRA learns beside its pairs", reason="DIALECT_UNSUITED",
            field="dialect", remedy="export as diffusers or peft",
        )  # fmt: skip


def needs_base(dialect: str) -> bool:
    """Whether the names depend on all layers of the base, not on the adapter's alone."""
    return dialect == "kohya"


def pairs(dialect: str, facts: FamilyFacts, modules: Collection[str], base: Collection[str]) -> list[Names]:
    """The names of the pairs on `modules` in a one-file dialect that suits the family. `base` are the paths of all
    layers of its denoiser (may be empty unless `needs_base`).

    Raises `Invalid` (DIALECT_UNSUITED) when the dialect has no name for one of them.
    """
    if dialect == "kohya" and facts.kohya is not None:
        theirs = {name: parts for name, parts in facts.kohya.layers(base).items() if not set(parts).isdisjoint(modules)}
        nameless = sorted(set(modules).difference(*theirs.values()))
        if nameless:
            raise Invalid(
                f"sd-scripts has no name for {len(nameless)} of the adapter's layers, {nameless[0]} first",
                reason="DIALECT_UNSUITED", field="dialect", remedy="export as diffusers or comfyui",
            )  # fmt: skip
        return [_flat(name, parts) for name, parts in theirs.items()]
    if dialect == "comfyui" and facts.denoiser_folder == "unet":
        return [_flat(module, (module,)) for module in sorted(modules)]
    stems = {module: f"{facts.denoiser_folder}.{module}" for module in sorted(modules)}
    return [
        Names((module,), f"{stem}.lora_A.weight", f"{stem}.lora_B.weight", f"{stem}.alpha", f"{stem}.{MAGNITUDE}")
        for module, stem in stems.items()
    ]


def encoder_pairs(dialect: str, facts: FamilyFacts, folder: str, modules: Collection[str]) -> list[Names]:
    """As `pairs`, of the text encoder in `folder`."""
    prefix = facts.encoders[folder].prefix
    if not prefix:
        raise Invalid(
            f"the adapter changes the {folder} of {facts.name}, for whose layers the dialect '{dialect}' has no names",
            reason="DIALECT_UNSUITED", field="dialect", remedy="export as peft",
        )  # fmt: skip
    if has_alphas(dialect):
        return [_flat(_inner(module), (module,), prefix) for module in sorted(modules)]
    stems = {module: f"{folder}.{_inner(module)}" for module in sorted(modules)}
    return [
        Names((module,), f"{stem}.lora_A.weight", f"{stem}.lora_B.weight", f"{stem}.alpha", f"{stem}.{MAGNITUDE}")
        for module, stem in stems.items()
    ]


def readable_of_encoder(facts: FamilyFacts, folder: str, base: Collection[str]) -> Mapping[str, tuple[str, ...]]:
    """As `readable`, of the text encoder in `folder`, by `encoders.layer_path`."""
    prefix = facts.encoders[folder].prefix
    spelt = {flat(_inner(layer), prefix): (layer,) for layer in base} if prefix else {}
    return {**_unambiguous((layer_path(layer), (layer,)) for layer in base), **spelt}


def _inner(module: str) -> str:
    """A text encoder's module by its path in the original class."""
    return _TEXT_MODEL + module.removeprefix(_TEXT_MODEL)


def readable(facts: FamilyFacts, base: Collection[str]) -> Mapping[str, tuple[str, ...]]:
    """Every name by which a dialect may call layers of a denoiser, without its prefix but kohya's → the layers. `base`
    are the paths of all. What two of them would be called is left out."""
    theirs: dict[str, tuple[str, ...]] = {layer: (layer,) for layer in base}
    if facts.kohya is not None:
        theirs = {**facts.kohya.layers(base), **theirs}
    return {**_unambiguous((flat(name), parts) for name, parts in theirs.items()), **theirs}


def flat(module: str, prefix: str = KOHYA) -> str:
    """A module as kohya's scheme spells it."""
    return prefix + module.replace(".", "_")


def _flat(name: str, parts: tuple[str, ...], prefix: str = KOHYA) -> Names:
    stem = flat(name, prefix)
    return Names(parts, f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", f"{stem}.alpha")


def _unambiguous(names: Iterable[tuple[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    twice: set[str] = set()
    for name, parts in names:
        if found.setdefault(name, parts) != parts:
            twice.add(name)
    return {name: parts for name, parts in found.items() if name not in twice}
