"""The words of the diffusion package: what a base and a family are (`method` and `objective` have the other
two axes). Importing this imports no torch.

The training loop, in words: batch → `encode_*` (or the cache) → `Schedule.levels(t)` → `Objective.noisy` →
`Family.predict` → `Objective.target` → weighted squared error → step. Sampling uses the same `predict` and the same
`encode_text`, so a preview never lies.

Time has one convention everywhere outside a family: `t` is a float64 tensor of shape (B,) in (0, 1], 1 is pure noise.
float64 so that a family recovers its own integer or fractional timestep exactly.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from marsam.core.errors import Invalid
from marsam.diffusion.encoders import TunedEncoder
from marsam.diffusion.precision import Precision, Quantisation

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from marsam.diffusion.schedule import Flow


class Part(StrEnum):
    """A separately loadable part of a base. `WORDS` are the tokenizers alone; `TEXT` has them and the encoders."""

    DENOISER = "denoiser"
    TEXT = "text"
    WORDS = "words"
    IMAGE = "image"


ALL_PARTS = frozenset(Part)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kohya:
    """How sd-scripts (kohya) names a denoiser's layers: as the original code does, which may hold several of ours in
    one.

    `network` is its module for adapters. `layers` takes the paths of all layers of a denoiser and gives its path of
    each it knows → ours whose output rows it holds, in that order.
    """

    network: str
    layers: Callable[[Collection[str]], Mapping[str, tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Default:
    """What a run takes when it says nothing, and where that comes from: "measured on …", or who publishes it."""

    value: Any
    origin: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyFacts:
    """What is true of every base of a family.

    `targets` maps a preset's name to the module-name suffixes an adapter is put on; `keep` lists name fragments of
    Linear layers that are never quantised (`^` before one: only where the name begins with it); `idle` names modules
    that no prediction depends on, so that they never train (block `-1` is the last of its list); `side_multiple`,
    `min_side` and `max_side` are in pixels and bound what `BaseFacts` may narrow further.
    """

    name: str
    title: str
    objectives: tuple[str, ...]
    side_multiple: int
    min_side: int
    max_side: int
    targets: Mapping[str, tuple[str, ...]]
    default_targets: str
    keep: tuple[str, ...]
    config_files: tuple[str, ...]
    """Relative paths of the JSON files that `read_base` needs, denoiser's first."""
    denoiser_folder: str
    text_folders: tuple[str, ...]
    """Folders that a caption's encoding depends on."""
    image_folders: tuple[str, ...] = ("vae",)
    """Folders that a picture's encoding depends on."""
    readers: tuple[str, ...] = ()
    """Folders of the tokenizers whose encoders reach the attention layers: a caption is read when one of them reads it.
    All tokenizers when empty; families with an encoder that only gives a pooled vector leave that one's out."""
    kohya: Kohya | None = None
    """How sd-scripts names this family's layers; None where it trains no such denoiser."""
    comfyui: bool = False
    """Whether ComfyUI reads adapters of this transformer by diffusers' names of its layers."""
    idle: tuple[str, ...] = ()
    crowded: tuple[str, ...] = ()
    """Layers of its denoiser that are given the tokens of all pictures in one row: none can have an adapter of its own
    there."""
    still: tuple[str, ...] = ()
    """Names of the layers of its image coder's decoder that only films go through, wherever they are."""
    encoders: Mapping[str, TunedEncoder] = field(default_factory=dict)
    """The text encoders that can be tuned, by their folders."""
    recipes: Mapping[str, Mapping[str, Default]] = field(default_factory=dict)
    """Defaults of a run's fields by method ("*" for all of them), where they are others than the method's own."""

    def __post_init__(self) -> None:
        if self.default_targets not in self.targets:
            raise Invalid(
                f"{self.name}: default targets {self.default_targets!r} are not a preset", field="default_targets"
            )

    def tokenizers(self) -> tuple[str, ...]:
        """Folders of all tokenizers."""
        return tuple(folder for folder in self.text_folders if folder.startswith("tokenizer"))


def kept(name: str, keep: Iterable[str]) -> bool:
    """Whether a Linear layer of this name is never quantised (`FamilyFacts.keep`)."""
    return any(name.startswith(part[1:]) if part.startswith("^") else part in name for part in keep)


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseFacts:
    """What one base says of itself in its JSON files, read without torch.

    `scheduler` is the base's scheduler configuration, untouched. Sides are in pixels, `text_length` in tokens.
    `conditioning` gives the shape of each tensor of a `Conditioning`, without the batch, masks left out. `patch` is the
    side of the square of latent cells that the denoiser takes for one token. `flow` is None for bases that predict
    noise or its velocity. A base with `embedded_guidance` was distilled to take guidance as an input: it needs no
    second prediction. `guidance_keeps_length`: a guided prediction is made as long as the one for the prompt, token by
    token (see `guidance.as_long_as`). A `distilled` base was made to draw in few steps and without guidance, which
    training on pictures undoes; in `few_steps` where its files do not say so (see `as_said`). `zero_empty`: the empty
    caption is zeros, not what the encoders make of no words.
    """

    family: str
    objective: str
    latent_channels: int
    latent_factor: int
    side_multiple: int
    default_side: int
    text_length: int
    conditioning: Mapping[str, tuple[int, ...]]
    train_steps: int
    scheduler: Mapping[str, Any]
    patch: int = 1
    flow: "Flow | None" = None
    embedded_guidance: bool = False
    guidance_keeps_length: bool = False
    distilled: bool = False
    zero_empty: bool = False
    default_steps: int = 20
    default_guidance: float = 5.0
    few_steps: int = 4
    caption_tokens: Mapping[str, int] = field(default_factory=dict)
    """Tokens of a caption's own that the base takes, by the tokenizer's folder, where tokenizers are cut at different
    lengths. Otherwise `text_length` and the tokenizer's own limit decide, less special tokens and `preamble`."""
    preamble: str = ""
    """What a chat template puts before a caption, where its tokens count towards `text_length`."""

    def as_said(self, params: Mapping[str, Any]) -> "BaseFacts":
        """The same with what a model's manifest says of it in its `params` beyond its files: that it is distilled."""
        if not params.get("distilled") or self.distilled:
            return self
        # Guidance that is an input costs nothing, and stays what the base was made with.
        guidance = self.default_guidance if self.embedded_guidance else 1.0
        return replace(self, distilled=True, default_steps=self.few_steps, default_guidance=guidance)

    def check_size(self, width: int, height: int, *, field: str = "resolution") -> None:
        """Raise `Invalid` unless a picture of this size can be made."""
        for side in (width, height):
            if side < self.side_multiple or side % self.side_multiple:
                near = max(self.side_multiple, round(side / self.side_multiple) * self.side_multiple)
                raise Invalid(
                    f"{width}×{height} px does not suit this base: sides must be multiples of {self.side_multiple}",
                    field=field,
                    reason="RESOLUTION_UNSUPPORTED",
                    remedy=f"use {near}; this base was made for {self.default_side}",
                )

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, H, W) of the latent of a picture of this size in pixels."""
        self.check_size(width, height)
        return (self.latent_channels, height // self.latent_factor, width // self.latent_factor)

    def tokens(self, width: int, height: int) -> int:
        """How many tokens the denoiser makes of a picture of this size in pixels."""
        side = self.latent_factor * self.patch
        return (height // side) * (width // side)


@dataclass(frozen=True, kw_only=True)
class Components:
    """A loaded base. Parts that were not asked for are None, or empty. All parts live on `device`, in `precision`, in
    eval mode, frozen. `text` holds tokenizers and text encoders by the names of their folders."""

    source: Path
    facts: BaseFacts
    device: str
    precision: Precision
    denoiser: "Module | None" = None
    text: Mapping[str, Any] = field(default_factory=dict)
    image_coder: "Module | None" = None
    quantisation: Quantisation | None = None


@dataclass(frozen=True)
class Conditioning:
    """Named tensors that steer the denoiser, each with the batch first; sd1 has one: `hidden` (B, L, W).

    Where captions differ in length there is a `mask` (B, L), True for tokens that count, and they come first.

    Two more do not come from a caption: `guidance` (B,) for bases with embedded guidance, and `frame` (B, 6), how the
    picture was cut: height and width of the original, top and left of the cut in the scaled picture, height and width
    of the cut, in pixels. Families that do not know one ignore it.
    """

    tensors: Mapping[str, "Tensor"] = field(default_factory=dict)

    def __len__(self) -> int:
        return next((int(value.shape[0]) for value in self.tensors.values()), 0)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(value.nbytes for value in self.tensors.values())

    def to(self, *args: Any, **kwargs: Any) -> "Conditioning":
        """As `Tensor.to`, for every tensor."""
        return Conditioning({name: value.to(*args, **kwargs) for name, value in self.tensors.items()})

    def plus(self, **tensors: "Tensor") -> "Conditioning":
        """The same with more tensors, which replace those of the same name."""
        return Conditioning({**self.tensors, **tensors})

    def rows(self, index: "Sequence[int] | slice") -> "Conditioning":
        """The rows named by `index`, in that order."""
        chosen = index if isinstance(index, slice) else list(index)
        return Conditioning({name: value[chosen] for name, value in self.tensors.items()})


class Family(Protocol):
    """Tensors and weights of one family. A `net.py` ends with `FAMILY`, an instance of this."""

    facts: FamilyFacts

    def load(
        self,
        source: Path,
        *,
        parts: frozenset[Part] = ALL_PARTS,
        precision: Precision = Precision.FP32,
        device: str = "cpu",
        quantisation: Quantisation | None = None,
    ) -> Components:
        """Load a base from a diffusers folder. `quantisation` acts on the denoiser while its weights arrive.

        Raises `Invalid` for a folder that is no base of this family, `Corrupt` for missing, surplus or misshapen
        tensors.
        """

    def empty_denoiser(self, source: Path) -> "Module":
        """The denoiser on torch's meta device: shapes and names, no memory."""

    def empty_encoders(self, source: Path) -> "Mapping[str, Module]":
        """The text encoders likewise, by their folders."""

    def empty_image_coder(self, source: Path) -> "Module":
        """The image coder likewise."""

    def encode_text(self, parts: Components, captions: Sequence[str]) -> Conditioning:
        """Conditioning of B captions, on the parts' device; marks are stripped (`text.plain`), length is the base's
        own. Gradients go through it to what trains of an encoder, where they are asked for."""

    def encode_image(self, parts: Components, pixels: "Tensor") -> "Tensor":
        """(B, 3, H, W) float in [-1, 1] → latents (B, C, H/f, W/f), float32, scaled: the posterior's mean, so that it
        can be cached."""

    def decode(self, parts: Components, latents: "Tensor") -> "Tensor":
        """Latents (B, C, h, w) → pixels (B, 3, H, W), float32 in [-1, 1], clamped; NaN for what is no number.
        Gradients go through it to what trains of the image coder, where they are asked for."""

    def predict(
        self, denoiser: "Module", noisy: "Tensor", t: "Tensor", cond: Conditioning, *, train_steps: int
    ) -> "Tensor":
        """What the denoiser says of `noisy` (B, C, h, w) at times `t` (B,): same shape and dtype as `noisy`."""
