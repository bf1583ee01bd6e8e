"""Loading the parts of a base from a diffusers folder: what every family does alike."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from marsam.core.errors import Corrupt, Missing
from marsam.diffusion import registry
from marsam.diffusion.basefiles import read_json
from marsam.diffusion.held import net as held
from marsam.diffusion.precision import Precision, Quantisation
from marsam.diffusion.spec import ALL_PARTS, Components, Conditioning, FamilyFacts, Part
from marsam.diffusion.weights.net import DTYPES, stream, weight_files


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The classes of a base's parts: of `denoiser` and `image_coder`, and in `text` those of tokenizers and encoders by
    their folders."""

    denoiser: Any
    text: Mapping[str, Any]
    image_coder: Any

    def encoders(self) -> dict[str, Any]:
        """The text encoders alone."""
        return {name: cls for name, cls in self.text.items() if not _is_tokenizer(cls)}


class Assembled(ABC):
    """What every family does alike once it has named the classes of its base's parts: see `Family`."""

    facts: FamilyFacts

    @abstractmethod
    def classes(self, source: Path) -> Classes:
        """The classes of the base in the folder `source`, of which only JSON files are looked at."""

    def load(
        self,
        source: Path,
        *,
        parts: frozenset[Part] = ALL_PARTS,
        precision: Precision = Precision.FP32,
        device: str = "cpu",
        quantisation: Quantisation | None = None,
    ) -> Components:
        """See `Family.load`."""
        facts, classes = self.facts, self.classes(source)
        base = registry.read_base_folder(facts.name, source)
        loaded = coder = None
        words: dict[str, Any] = {}
        if Part.DENOISER in parts:
            loaded = self.empty_denoiser(source)
            place = None
            if quantisation is not None:
                place = held.prepare(
                    loaded, keep=facts.keep, quantisation=quantisation, precision=precision, device=device
                )
            files = weight_files(source / facts.denoiser_folder)
            stream(loaded, files, precision=precision, device=device, place=place)
            loaded = loaded.eval()
        if Part.TEXT in parts or Part.WORDS in parts:
            wanted = {name: cls for name, cls in classes.text.items() if Part.TEXT in parts or _is_tokenizer(cls)}
            words = {name: _text(cls, source / name, precision, device) for name, cls in wanted.items()}
        if Part.IMAGE in parts:
            # The image coder stays fp32: SD VAEs overflow in half precision, and black pictures are the result.
            coder = ready(classes.image_coder, source / facts.image_folders[0], Precision.FP32, device)
        return Components(
            source=source,
            facts=base,
            device=device,
            precision=precision,
            denoiser=loaded,
            text=words,
            image_coder=coder,
            quantisation=quantisation,
        )

    def empty_denoiser(self, source: Path) -> Any:
        """See `Family.empty_denoiser`."""
        return empty(self.classes(source).denoiser, source / self.facts.denoiser_folder)

    def empty_encoders(self, source: Path) -> dict[str, Any]:
        """See `Family.empty_encoders`."""
        return {name: _empty_encoder(cls, source / name) for name, cls in self.classes(source).encoders().items()}

    def empty_image_coder(self, source: Path) -> Any:
        """See `Family.empty_image_coder`."""
        return empty(self.classes(source).image_coder, source / self.facts.image_folders[0])


def empty(cls: Any, folder: Path) -> Any:
    """A model of class `cls` on the meta device, as its config.json describes it."""
    with torch.device("meta"):
        return cls.from_config(read_json(folder / "config.json"))


def _empty_encoder(cls: Any, folder: Path) -> Any:
    config = cls.config_class.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        return cls(config)


def ready(cls: Any, folder: Path, precision: Precision, device: str) -> Any:
    """A model with its weights, frozen, in eval mode. Raises `Corrupt`."""
    try:
        model = cls.from_pretrained(folder, torch_dtype=DTYPES[precision], use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise Corrupt(f"{folder.name} cannot be loaded: {error}", reason="WEIGHTS_UNREADABLE") from error
    return model.to(device).eval().requires_grad_(False)


def _text(cls: Any, folder: Path, precision: Precision, device: str) -> Any:
    if not _is_tokenizer(cls):
        return ready(cls, folder, precision, device)
    try:
        return cls.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Corrupt(f"{folder.name} cannot be loaded: {error}", reason="TOKENIZER_UNREADABLE") from error


def _is_tokenizer(cls: Any) -> bool:
    return issubclass(cls, PreTrainedTokenizerBase)


def networks(parts: Components) -> list[Any]:
    """The denoiser and the text encoders that are loaded and train."""
    train = (one for one in encoders(parts) if any(value.requires_grad for value in one.parameters()))
    return [parts.denoiser, *train]


def encoders(parts: Components) -> list[Any]:
    """The text encoders that are loaded."""
    return [part for part in parts.text.values() if isinstance(part, torch.nn.Module)]


@contextlib.contextmanager
def at_rest(parts: Components) -> Iterator[None]:
    """What trains in eval mode inside the block, and as it was after it."""
    modes = [(network, network.training) for network in networks(parts)]
    try:
        for network, _ in modes:
            network.eval()
        yield
    finally:
        for network, mode in modes:
            network.train(mode)


def draws(parts: Components) -> bool:
    """Whether a text encoder that trains drops anything of its own, for which it draws from torch's generator."""
    return any(
        float(getattr(encoder.config, name, 0.0)) > 0.0
        for encoder in networks(parts)[1:]
        for name in ("dropout", "attention_dropout")
    )


def text_part(parts: Components, name: str) -> Any:
    """The tokenizer or text encoder `name`. Raises `Missing` (PART_NOT_LOADED)."""
    return _need(parts.text.get(name), Part.TEXT)


def image_coder(parts: Components) -> Any:
    """The image coder. Raises `Missing` (PART_NOT_LOADED)."""
    return _need(parts.image_coder, Part.IMAGE)


def tokens(tokenizer: Any, texts: Sequence[str], length: int) -> Any:
    """Tokens of texts of which only the real ones count: at most `length`, filled up on the right to the longest."""
    return tokenizer(
        list(texts), padding=True, padding_side="right", max_length=length, truncation=True, return_tensors="pt"
    )


def masked(hidden: torch.Tensor, mask: torch.Tensor) -> Conditioning:
    """`hidden` (B, L, W) and `mask` (B, L); what the mask leaves out is zero, so that nothing of it is kept."""
    mask = mask.bool()
    return Conditioning({"hidden": hidden.masked_fill(~mask.unsqueeze(-1), 0.0), "mask": mask})


def unpadded(hidden: torch.Tensor, mask: torch.Tensor | None) -> list[torch.Tensor]:
    """Row by row of `hidden` (B, L, W), the tokens that the mask lets count: all, if there is none."""
    if mask is None:
        return list(hidden)
    return [row[:length] for row, length in zip(hidden, mask.sum(dim=1).tolist(), strict=True)]


def packed(latents: torch.Tensor, side: int) -> torch.Tensor:
    """(B, C, h, w) → tokens (B, h·w / side², C · side²): each holds a square of cells, channel by channel."""
    count, channels, height, width = latents.shape
    squares = latents.reshape(count, channels, height // side, side, width // side, side)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(count, -1, channels * side * side)


def unpacked(tokens: torch.Tensor, side: int, height: int, width: int) -> torch.Tensor:
    """The way back, to (B, C, height, width)."""
    count = tokens.shape[0]
    squares = tokens.reshape(count, height // side, width // side, -1, side, side)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(count, -1, height, width)


def _need(part: Any, name: Part) -> Any:
    if part is None:
        raise Missing(f"this needs the base's {name} part, which was not loaded", reason="PART_NOT_LOADED")
    return part


def scaled_mean(coder: Any, pixels: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) in [-1, 1] → the posterior's mean under an AutoencoderKL, as its configuration shifts and scales
    it."""
    mean = coder.encode(pixels.to(coder.dtype)).latent_dist.mode().float()
    return (mean - (coder.config.shift_factor or 0.0)) * coder.config.scaling_factor


def unscaled_picture(coder: Any, latents: torch.Tensor) -> torch.Tensor:
    """The way back: pixels (B, 3, H, W), float32 in [-1, 1]."""
    latents = latents.to(torch.float32) / coder.config.scaling_factor + (coder.config.shift_factor or 0.0)
    return in_range(coder.decode(latents.to(coder.dtype), return_dict=False)[0])


def in_range(pixels: torch.Tensor) -> torch.Tensor:
    """What an image coder made, float32 in [-1, 1]. What it did not make a number is NaN: an infinity that was cut to 1
    would pass for white."""
    whole = pixels.float()
    return whole.masked_fill(~torch.isfinite(whole), torch.nan).clamp(-1.0, 1.0)


def to_tokens(latents: torch.Tensor, patch: int) -> torch.Tensor:
    """(B, C, h, w) → (B, h/patch · w/patch, C·patch²): squares of cells row by row, each with its channels outermost,
    then its rows."""
    return torch.nn.functional.pixel_unshuffle(latents, patch).flatten(2).transpose(1, 2)


def from_tokens(tokens: torch.Tensor, shape: tuple[int, int], patch: int) -> torch.Tensor:
    """The way back from `to_tokens`; `shape` is (h, w) in cells."""
    squares = tokens.transpose(1, 2).unflatten(2, (shape[0] // patch, shape[1] // patch))
    return torch.nn.functional.pixel_shuffle(squares, patch)
