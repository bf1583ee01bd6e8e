"""What a checkpoint in one file holds: of which family it is, and which of its tensors are which part of a base.
Told by names alone. Imports no torch.

Such a file has the denoiser, or that and the VAE and text encoders, under the names that their makers gave the layers;
configurations, tokenizers and the scheduler are never in it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from marsam.core.errors import Invalid
from marsam.diffusion import registry

DENOISER = "model.diffusion_model."
"""What the denoiser's names begin with where the file holds more than it; many files with nothing else leave it out."""

VELOCITY, ZERO_TERMINAL = "v_pred", "ztsnr"
"""Empty tensors by whose presence files say that the denoiser predicts velocities, and that the last of its noise
levels is noise alone (ComfyUI, `model_type` of its SDXL)."""

_IMAGE = ("first_stage_model.", "vae.")
_ENCODERS = "text_encoders."
_OTHERS = (*_IMAGE, _ENCODERS, "cond_stage_model.", "conditioner.", "model_ema.", VELOCITY, ZERO_TERMINAL)
_SHOWN = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A base of a hub that has what a file lacks, where names of the file, `DENOISER` taken off them, begin with each
    of `has`, and none with one of `lacks`."""

    repository: str
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class OneFile:
    """How a family's checkpoints in one file look (`ONE_FILE` in its facts).

    The denoiser has each of the names in `has` and none of those in `lacks`. `encoders` maps folders of text encoders
    to what the names of their tensors may begin with. `references` only names bases that the file itself tells from
    all others of the family.
    """

    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    encoders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    references: tuple[Reference, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """What a file holds: `parts` maps folders of a base, the denoiser's first, to what the names of its tensors begin
    with (nothing, where the denoiser's names have no prefix). `left_out` counts tensors of no part: averages of
    weights, tables of noise."""

    family: str
    parts: Mapping[str, str]
    left_out: int = 0


def recognise(names: Iterable[str], *, family: str = "") -> Held:
    """What a file with tensors of these names holds. `family` is what the caller says of it, or nothing.

    Raises Invalid (MODEL_KIND) for an adapter, (FAMILY_UNKNOWN, FAMILY_AMBIGUOUS, FAMILY_MISMATCH), (ONE_FILE_PART) for
    a part that the family's files have not.
    """
    names = frozenset(names)
    lora = sorted(name for name in names if "lora_" in name or "lora." in name)
    if lora:
        raise Invalid(
            f"the file is an adapter, not a base: it holds {lora[0]}",
            field="kind",
            reason="MODEL_KIND",
            remedy="import it as adapter, with the base it belongs to",
        )
    prefix = DENOISER if any(name.startswith(DENOISER) for name in names) else ""
    bare = {name.removeprefix(prefix) for name in of_part(names, prefix)}
    fitting = [name for name in registry.families() if _fits(registry.one_file(name), bare)]
    if family and fitting and family not in fitting:
        raise Invalid(
            f"the file's layers are those of {', '.join(fitting)}, not of {family}",
            field="family",
            reason="FAMILY_MISMATCH",
            remedy="leave the family out",
        )
    if not family and len(fitting) != 1:
        raise _unclear(fitting, names)
    family = family or fitting[0]
    facts = registry.family_facts(family)
    parts = {facts.denoiser_folder: prefix}
    for folder, begins in {facts.image_folders[0]: _IMAGE, **registry.one_file(family).encoders}.items():
        present = [begin for begin in begins if _count(names, begin)]
        if present:
            parts[folder] = present[0]
    _refuse_strangers(names, parts, family)
    held = sum(len(of_part(names, begin)) for begin in parts.values())
    return Held(family=family, parts=parts, left_out=len(names) - held)


def reference(held: Held, names: Iterable[str]) -> str:
    """The repository of a hub that has what the file lacks; nothing where the file does not tell which one does."""
    names = {name.removeprefix(DENOISER) for name in names}
    found = [
        one.repository
        for one in registry.one_file(held.family).references
        if all(_count(names, begin) for begin in one.has) and not any(_count(names, begin) for begin in one.lacks)
    ]
    return found[0] if len(found) == 1 else ""


def of_part(names: Iterable[str], prefix: str) -> list[str]:
    """The names of a part's tensors, by what they begin with (`Held.parts`)."""
    if prefix:
        return [name for name in names if name.startswith(prefix)]
    return [name for name in names if not name.startswith(_OTHERS)]


def _fits(marks: OneFile, bare: Collection[str]) -> bool:
    return all(name in bare for name in marks.has) and not any(name in bare for name in marks.lacks)


def _count(names: Iterable[str], prefix: str) -> int:
    return sum(name.startswith(prefix) for name in names)


def _unclear(fitting: list[str], names: Collection[str]) -> Invalid:
    shown = ", ".join(sorted(names)[:_SHOWN])
    if fitting:
        return Invalid(
            f"the file's layers fit {' and '.join(fitting)}",
            field="family",
            reason="FAMILY_AMBIGUOUS",
            remedy="say which one it is",
        )
    return Invalid(
        f"the file's layers are of no family known here: {len(names)} tensors, {shown} first",
        field="family",
        reason="FAMILY_UNKNOWN",
        remedy=f"name the family of a denoiser in diffusers' own names; known: {', '.join(registry.families())}",
    )


def _refuse_strangers(names: Collection[str], parts: Mapping[str, str], family: str) -> None:
    """Raise for text encoders that nobody here knows how to read: the base would get others in their place."""
    known = tuple(begin.removesuffix("transformer.") for begin in parts.values() if begin.startswith(_ENCODERS))
    strangers = sorted(name for name in names if name.startswith(_ENCODERS) and not name.startswith(known or ("\0",)))
    if strangers:
        raise Invalid(
            f"the file holds a text encoder that files of {family} do not have: {strangers[0]}",
            field="files",
            reason="ONE_FILE_PART",
            remedy="take the file with the diffusion model alone",
        )
