"""What of a base's text encoders can be tuned, and what other programs call them. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TunedEncoder:
    """What is true of a text encoder that can be tuned.

    `targets` are the module-name suffixes that an adapter is put on. `whole` says whether full tuning takes it too.
    `idle` names modules that no caption's encoding depends on, so that they never train: by their path, or, as
    `<list>.<first>:`, all modules of a list from one on (-1: the last); what an encoder lacks is passed over. `prefix`
    begins its layers' names in the one-file adapters of other programs; '' where none reads an adapter of it.
    """

    targets: tuple[str, ...]
    whole: bool
    idle: tuple[str, ...] = ()
    prefix: str = ""


def clip(prefix: str, *, idle: tuple[str, ...] = ()) -> TunedEncoder:
    """A CLIP text encoder, whose adapters other programs read, as sd-scripts names their layers."""
    return TunedEncoder(targets=("q_proj", "k_proj", "v_proj", "out_proj"), whole=True, idle=idle, prefix=prefix)


def language_model(*, idle: tuple[str, ...] = ()) -> TunedEncoder:
    """A language model of billions of parameters that its makers left as it was: adapters alone are trained on it."""
    return TunedEncoder(targets=("q_proj", "k_proj", "v_proj", "o_proj"), whole=False, idle=idle)


def layer_path(module: str) -> str:
    """What all versions of a library call a layer of a text encoder: its path from the list of layers on. What comes
    before (`text_model`, `language_model`) depends on the version that wrote it."""
    return module[max(0, module.find("layers.")) :]
