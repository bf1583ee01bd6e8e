"""The peers of `benchmarks.training`: loops in the shape of diffusers' examples (`train_text_to_image` with and without
LoRA for UNets, `train_dreambooth_lora_flux` for transformers).

Every step opens and prepares its pictures, tokenizes, encodes both with the base's own encoders, adds noise, and calls
the denoiser; the batch goes through torch whole, with as many threads as there are cores. Our own words; what a step is
given (samples, captions, noise, times, learning rate) comes from outside, so that both loops learn the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from diffusers import AutoencoderKL, DDPMScheduler, FluxPipeline, FluxTransformer2DModel, UNet2DConditionModel
from peft import LoraConfig
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from benchmarks.quantised import quantise
from marsam.diffusion.spec import FamilyFacts


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a step is told: picture files, their captions, noise (B, C, h, w), times (B,) in (0, 1], the learning
    rate."""

    files: Sequence[Path]
    captions: Sequence[str]
    noise: torch.Tensor
    times: torch.Tensor
    rate: float


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a peer tunes: the method, the adapter's rank and targets, its first values by path, min-SNR γ."""

    method: str
    rank: int
    targets: Sequence[str]
    start: Mapping[str, torch.Tensor]
    gamma: float


class Peer(ABC):
    """The base at `source`, tuned at `side` px."""

    def __init__(self, source: Path, family: FamilyFacts, tuning: Tuning, *, side: int) -> None:
        self.side, self.tuning = side, tuning
        self.vae = AutoencoderKL.from_pretrained(source / "vae", torch_dtype=torch.float32).requires_grad_(False)
        self.denoiser = self.load(source)
        if tuning.method == "qlora":
            quantise(self.denoiser, keep=family.keep, compute=torch.float32)
        self.denoiser.requires_grad_(tuning.method == "full")
        if tuning.method != "full":
            self.denoiser.add_adapter(
                LoraConfig(r=tuning.rank, lora_alpha=tuning.rank, target_modules=list(tuning.targets))
            )
            with torch.no_grad():
                for name, value in self.denoiser.named_parameters():
                    if value.requires_grad:
                        value.copy_(tuning.start[name])
        self.trained = [value for value in self.denoiser.parameters() if value.requires_grad]
        self.optimiser = torch.optim.AdamW(self.trained, lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
        self.denoiser.train()

    @abstractmethod
    def load(self, source: Path) -> Any:
        """Load the encoders of captions; return the denoiser."""

    @abstractmethod
    def texts(self, captions: Sequence[str]) -> Mapping[str, torch.Tensor]:
        """What the text encoders make of a batch."""

    @abstractmethod
    def loss(self, given: Given, latents: torch.Tensor, texts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The loss of a batch whose encodings are there."""

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
            mean = self.vae.encode(self.pictures(files)).latent_dist.mode()
        return (mean - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    def step(self, given: Given) -> float:
        """One step, encoders included."""
        return self.learn(given, self.latents(given.files), self.texts(given.captions))

    def learn(self, given: Given, latents: torch.Tensor, texts: Mapping[str, torch.Tensor]) -> float:
        """The step without the encoders."""
        loss = self.loss(given, latents, texts)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = given.rate
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(loss.detach())


class UNetPeer(Peer):
    """A UNet that predicts noise or its velocity."""

    def load(self, source: Path) -> Any:
        self.tokenizer = CLIPTokenizer.from_pretrained(source / "tokenizer")
        self.text = CLIPTextModel.from_pretrained(source / "text_encoder").requires_grad_(False)
        self.scheduler = DDPMScheduler.from_pretrained(source / "scheduler")
        return UNet2DConditionModel.from_pretrained(source / "unet", torch_dtype=torch.float32)

    @torch.no_grad()
    def texts(self, captions: Sequence[str]) -> Mapping[str, torch.Tensor]:
        return {"hidden": self.text(_ids(self.tokenizer, captions), return_dict=False)[0]}

    def loss(self, given: Given, latents: torch.Tensor, texts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        steps = (given.times * self.scheduler.config.num_train_timesteps).round().long() - 1
        noisy = self.scheduler.add_noise(latents, given.noise, steps)
        v = self.scheduler.config.prediction_type == "v_prediction"
        target = self.scheduler.get_velocity(latents, given.noise, steps) if v else given.noise
        predicted = self.denoiser(noisy, steps, texts["hidden"], return_dict=False)[0]
        products = self.scheduler.alphas_cumprod[steps]
        snr = products / (1.0 - products)
        bound = torch.stack([snr, self.tuning.gamma * torch.ones_like(snr)], dim=1).min(dim=1)[0]
        losses = functional.mse_loss(predicted.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))
        return (losses * bound / (snr + 1 if v else snr)).mean()


class FluxPeer(Peer):
    """A transformer of FLUX.1's shape."""

    def load(self, source: Path) -> Any:
        self.tokenizer = CLIPTokenizer.from_pretrained(source / "tokenizer")
        self.clip = CLIPTextModel.from_pretrained(source / "text_encoder").requires_grad_(False)
        self.tokenizer_2 = T5TokenizerFast.from_pretrained(source / "tokenizer_2")
        self.t5 = T5EncoderModel.from_pretrained(source / "text_encoder_2").requires_grad_(False)
        return FluxTransformer2DModel.from_pretrained(source / "transformer", torch_dtype=torch.float32)

    @torch.no_grad()
    def texts(self, captions: Sequence[str]) -> Mapping[str, torch.Tensor]:
        return {
            "hidden": self.t5(_ids(self.tokenizer_2, captions))[0],
            "pooled": self.clip(_ids(self.tokenizer, captions)).pooler_output,
        }

    def loss(self, given: Given, latents: torch.Tensor, texts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        count, channels, height, width = latents.shape
        sigmas = given.times.float().view(-1, 1, 1, 1)
        noisy = (1.0 - sigmas) * latents + sigmas * given.noise
        said = self.denoiser(
            hidden_states=FluxPipeline._pack_latents(noisy, count, channels, height, width),
            timestep=given.times.float(),
            guidance=torch.full((count,), 1.0),
            pooled_projections=texts["pooled"],
            encoder_hidden_states=texts["hidden"],
            txt_ids=torch.zeros(texts["hidden"].shape[1], 3),
            img_ids=FluxPipeline._prepare_latent_image_ids(count, height // 2, width // 2, "cpu", torch.float32),
            return_dict=False,
        )[0]
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        predicted = FluxPipeline._unpack_latents(said, height * factor, width * factor, factor)
        squares = (predicted.float() - (given.noise - latents).float()) ** 2
        return squares.reshape(count, -1).mean(1).mean()


PEERS: Mapping[str, type[Peer]] = {"sd1": UNetPeer, "flux": FluxPeer}


def _ids(tokenizer: Any, captions: Sequence[str]) -> torch.Tensor:
    length = tokenizer.model_max_length
    return tokenizer(
        list(captions), max_length=length, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
