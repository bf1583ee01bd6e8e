"""Stable Diffusion 1 and 2 shapes in torch: load from a diffusers folder, encode, predict, decode."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from marsam.core.errors import Corrupt, Invalid, Missing
from marsam.diffusion import schedule
from marsam.diffusion.families.sd1.facts import FACTS, read_base
from marsam.diffusion.nf4 import net as nf4
from marsam.diffusion.spec import ALL_PARTS, Components, Conditioning, Part, Precision, Quantisation
from marsam.diffusion.text import plain
from marsam.diffusion.weights.net import DTYPES, stream, weight_files


class StableDiffusion1:
    """See `marsam.diffusion.spec.Family`. Text conditioning is the encoder's last hidden state, `hidden` (B, L, W)."""

    facts = FACTS

    def load(
        self,
        source: Path,
        *,
        parts: frozenset[Part] = ALL_PARTS,
        precision: Precision = Precision.FP32,
        device: str = "cpu",
        quantisation: Quantisation | None = None,
    ) -> Components:
        base = read_base({path: _json(source / path) for path in FACTS.config_files if (source / path).is_file()})
        denoiser = tokenizer = text_encoder = image_coder = None
        if Part.DENOISER in parts:
            denoiser = self.empty_denoiser(source)
            place = None
            if quantisation is not None:
                nf4.replace(denoiser, keep=FACTS.keep, quantisation=quantisation, precision=precision)
                place = nf4.placer(device=device)
            stream(
                denoiser, weight_files(source / FACTS.denoiser_folder), precision=precision, device=device, place=place
            )
            denoiser = denoiser.eval()
        if Part.TEXT in parts:
            tokenizer = CLIPTokenizer.from_pretrained(source / "tokenizer", local_files_only=True)
            text_encoder = _ready(CLIPTextModel, source / "text_encoder", precision, device)
        if Part.IMAGE in parts:
            # The image coder stays fp32: SD VAEs overflow in half precision, and black pictures are the result.
            image_coder = _ready(AutoencoderKL, source / "vae", Precision.FP32, device)
        return Components(
            source=source,
            facts=base,
            schedule=schedule.from_config(base.scheduler),
            device=device,
            precision=precision,
            denoiser=denoiser,
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            image_coder=image_coder,
            quantisation=quantisation,
        )

    def empty_denoiser(self, source: Path) -> Any:
        with torch.device("meta"):
            return UNet2DConditionModel.from_config(_json(source / FACTS.denoiser_folder / "config.json"))

    @torch.no_grad()
    def encode_text(self, parts: Components, captions: Sequence[str]) -> Conditioning:
        tokenizer, encoder = _need(parts.tokenizer, Part.TEXT), _need(parts.text_encoder, Part.TEXT)
        tokens = tokenizer(
            [plain(caption) for caption in captions],
            padding="max_length",
            max_length=parts.facts.text_length,
            truncation=True,
            return_tensors="pt",
        )
        return Conditioning({"hidden": encoder(tokens.input_ids.to(parts.device), return_dict=True).last_hidden_state})

    @torch.no_grad()
    def encode_image(self, parts: Components, pixels: torch.Tensor) -> torch.Tensor:
        coder = _need(parts.image_coder, Part.IMAGE)
        mean = coder.encode(pixels.to(parts.device, torch.float32)).latent_dist.mode()
        return (mean - (coder.config.shift_factor or 0.0)) * coder.config.scaling_factor

    @torch.no_grad()
    def decode(self, parts: Components, latents: torch.Tensor) -> torch.Tensor:
        coder = _need(parts.image_coder, Part.IMAGE)
        latents = latents.to(parts.device, torch.float32) / coder.config.scaling_factor + (
            coder.config.shift_factor or 0.0
        )
        return coder.decode(latents, return_dict=False)[0].clamp(-1.0, 1.0)

    def predict(
        self, denoiser: Any, noisy: torch.Tensor, t: torch.Tensor, cond: Conditioning, *, train_steps: int
    ) -> torch.Tensor:
        dtype = denoiser.conv_in.weight.dtype
        # float64 until here, so that the base's own timestep comes back exactly.
        step = (t.to(noisy.device, torch.float64) * train_steps - 1.0).to(torch.float32)
        hidden = cond.tensors["hidden"].to(noisy.device, dtype)
        return denoiser(noisy.to(dtype), step, encoder_hidden_states=hidden, return_dict=False)[0].to(noisy.dtype)


def _ready(cls: Any, folder: Path, precision: Precision, device: str) -> Any:
    try:
        model = cls.from_pretrained(folder, torch_dtype=DTYPES[precision], use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise Corrupt(f"{folder.name} cannot be loaded: {error}", reason="WEIGHTS_UNREADABLE") from error
    return model.to(device).eval().requires_grad_(False)


def _need(part: Any, name: Part) -> Any:
    if part is None:
        raise Missing(f"this needs the base's {name} part, which was not loaded", reason="PART_NOT_LOADED")
    return part


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Invalid(
            f"{path.parent.name}/{path.name} cannot be read: {error}", field="base", reason="BASE_INCOMPLETE"
        ) from error
    if not isinstance(value, dict):
        raise Invalid(f"{path.parent.name}/{path.name} is not a JSON object", field="base", reason="BASE_INCOMPLETE")
    return value


FAMILY = StableDiffusion1()
