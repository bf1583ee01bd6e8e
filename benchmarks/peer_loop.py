"""The peer of `benchmarks.training`: a LoRA loop in the shape of diffusers' `train_text_to_image_lora` example.

Every step opens and prepares its pictures, tokenizes, encodes both with the base's own encoders, adds noise by the
scheduler, and calls the UNet; the batch goes through torch whole, with as many threads as there are cores. Our own
words; what a step is given (samples, captions, noise, timesteps, learning rate) comes from outside, so that both loops
learn the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a step is told: picture files, their captions, noise (B, C, h, w), timesteps (B,), the learning rate."""

    files: Sequence[Path]
    captions: Sequence[str]
    noise: torch.Tensor
    timesteps: torch.Tensor
    rate: float


class PeerLoop:
    """The base at `source` with a LoRA on `targets`; `start` gives the adapter's first values by module path and
    half."""

    def __init__(
        self,
        source: Path,
        *,
        rank: int,
        targets: Sequence[str],
        side: int,
        gamma: float,
        start: Mapping[str, torch.Tensor],
    ) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(source / "tokenizer")
        self.text = CLIPTextModel.from_pretrained(source / "text_encoder").requires_grad_(False)
        self.vae = AutoencoderKL.from_pretrained(source / "vae", torch_dtype=torch.float32).requires_grad_(False)
        self.unet = UNet2DConditionModel.from_pretrained(source / "unet", torch_dtype=torch.float32)
        self.unet.requires_grad_(False)
        self.scheduler = DDPMScheduler.from_pretrained(source / "scheduler")
        self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)))
        with torch.no_grad():
            for name, value in self.unet.named_parameters():
                if value.requires_grad:
                    value.copy_(start[name])
        self.trained = [value for value in self.unet.parameters() if value.requires_grad]
        self.optimiser = torch.optim.AdamW(self.trained, lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
        self.side, self.gamma = side, gamma
        self.unet.train()

    def pictures(self, files: Sequence[Path]) -> torch.Tensor:
        """Opened, resized, cropped, scaled to [-1, 1]."""
        found = []
        for file in files:
            with Image.open(file) as opened:
                picture = opened.convert("RGB")
            short = min(picture.size)
            left, top = (picture.width - short) / 2, (picture.height - short) / 2
            box = (left, top, left + short, top + short)
            picture = picture.resize((self.side, self.side), Image.Resampling.LANCZOS, box=box)
            found.append(torch.from_numpy(np.asarray(picture, dtype=np.float32).copy()).permute(2, 0, 1) / 127.5 - 1.0)
        return torch.stack(found)

    def latents(self, files: Sequence[Path]) -> torch.Tensor:
        """What the image encoder makes of a batch; its mean, so that the two loops can be compared."""
        with torch.no_grad():
            return self.vae.encode(self.pictures(files)).latent_dist.mode() * self.vae.config.scaling_factor

    def texts(self, captions: Sequence[str]) -> torch.Tensor:
        """What the text encoder makes of a batch."""
        tokens = self.tokenizer(
            list(captions),
            max_length=self.tokenizer.model_max_length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            return self.text(tokens.input_ids, return_dict=False)[0]

    def step(self, given: Given) -> float:
        """One step, encoders included."""
        return self.denoise(given, self.latents(given.files), self.texts(given.captions))

    def denoise(self, given: Given, latents: torch.Tensor, texts: torch.Tensor) -> float:
        """The step without the encoders."""
        noisy = self.scheduler.add_noise(latents, given.noise, given.timesteps)
        v = self.scheduler.config.prediction_type == "v_prediction"
        target = self.scheduler.get_velocity(latents, given.noise, given.timesteps) if v else given.noise
        predicted = self.unet(noisy, given.timesteps, texts, return_dict=False)[0]
        products = self.scheduler.alphas_cumprod[given.timesteps]
        snr = products / (1.0 - products)
        weights = torch.stack([snr, self.gamma * torch.ones_like(snr)], dim=1).min(dim=1)[0] / (snr + 1 if v else snr)
        losses = functional.mse_loss(predicted.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))
        loss = (losses * weights).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = given.rate
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(loss.detach())
