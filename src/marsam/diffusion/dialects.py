"""How other programs name an adapter's tensors. Standard library only.

PEFT's names, the ones Marsam stores, are `base_model.model.<module>.lora_{A,B}.weight`. One-file dialects:

* `diffusers`: `<part>.<module>.lora_{A,B}.weight`, what `load_lora_weights` reads; its scale is in the header.
* `kohya`: `lora_unet_<module, dots as underscores>.lora_{down,up}.weight` and `.alpha`, as sd-scripts writes it for
  Stable Diffusion 1 and 2; ComfyUI, the web UIs and diffusers read it too. Of SDXL sd-scripts calls the layers by the
  names of the original code, which this is not.
* `comfyui`: for UNets the same names as kohya's; for transformers `transformer.<module>.lora_{A,B}.weight` and
  `.alpha`, which ComfyUI maps onto its own layers (fused ones included) for the families that `FamilyFacts.comfyui`
  marks.

In the last two the scale is alpha / rank, whatever rule it was trained with.
"""

from collections.abc import Iterable, Mapping

from marsam.core.errors import Invalid, did_you_mean
from marsam.diffusion.spec import FamilyFacts

DIALECTS = ("comfyui", "diffusers", "kohya", "peft")
PEFT = "base_model.model."
_KOHYA = "lora_unet_"
_HALVES = {"A": "down", "B": "up"}


def check(dialect: str, facts: FamilyFacts) -> None:
    """Raise `Invalid` (UNKNOWN_DIALECT, DIALECT_UNSUITED) unless adapters of the family can be told in `dialect`."""
    if dialect not in DIALECTS:
        raise Invalid(
            f"unknown dialect '{dialect}'", reason="UNKNOWN_DIALECT", field="dialect",
            remedy=did_you_mean(dialect, DIALECTS),
        )  # fmt: skip
    unet = facts.denoiser_folder == "unet"
    if (dialect == "kohya" and not facts.kohya) or (dialect == "comfyui" and not (unet or facts.comfyui)):
        named = facts.comfyui or unet
        told = [name for name in DIALECTS if name in ("diffusers", "peft") or (name == "comfyui" and named)]
        raise Invalid(
            f"the dialect '{dialect}' has no names for the layers of {facts.name}", reason="DIALECT_UNSUITED",
            field="dialect", remedy=f"export as {' or '.join(told)}",
        )  # fmt: skip


def has_alphas(dialect: str) -> bool:
    """Whether the dialect keeps an alpha beside every pair."""
    return dialect in ("comfyui", "kohya")


def pair_key(dialect: str, part: str, module: str, half: str) -> str:
    """The name of half 'A' or 'B' of a module's pair in a one-file dialect."""
    if _flat(dialect, part):
        return f"{flat(module)}.lora_{_HALVES[half]}.weight"
    return f"{part}.{module}.lora_{half}.weight"


def alpha_key(dialect: str, part: str, module: str) -> str:
    """The name of a module's alpha."""
    return f"{flat(module)}.alpha" if _flat(dialect, part) else f"{part}.{module}.alpha"


def _flat(dialect: str, part: str) -> bool:
    return dialect == "kohya" or (dialect == "comfyui" and part == "unet")


def flat(module: str) -> str:
    """A UNet's module as kohya calls it."""
    return _KOHYA + module.replace(".", "_")


def modules_by_flat_name(modules: Iterable[str]) -> Mapping[str, str]:
    """Kohya's name → module, of all modules of a network; names that two modules share are left out."""
    found: dict[str, str] = {}
    twice: set[str] = set()
    for module in modules:
        name = flat(module)
        if found.setdefault(name, module) != module:
            twice.add(name)
    return {name: module for name, module in found.items() if name not in twice}
