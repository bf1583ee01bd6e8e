"""Draws a grid of fixed prompts at fixed seeds, to see what the base has learned."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from hayy.training.model import LATENT, new_scheduler

STEPS = 15
GUIDANCE = 3.0
COLUMNS = 8
PROMPTS = (
    "an Egyptian scientist in a laboratory",
    "an Emirati woman doctor in a hospital",
    "an Arab engineer on a building site",
    "a Moroccan chef in a kitchen",
    "عالم مصري في مختبر",
    "طبيبة إماراتية في مستشفى",
    "مهندس عربي في موقع بناء",
    "طباخة مغربية في مطبخ",
    "a French scientist wearing a white lab coat holding a flask in a laboratory",
    "a Japanese woman doctor wearing scrubs holding a clipboard in a hospital",
    "a Brazilian engineer wearing a hard hat holding a wrench on a building site",
    "a Kenyan painter wearing a red beret holding a palette in an art studio",
    "معلمة فرنسية تحمل كتابا في فصل دراسي",
    "طباخ ياباني يرتدي قبعة طباخ ويحمل مقلاة في مطبخ",
    "عازف برازيلي يرتدي بدلة رسمية ويحمل عودا على مسرح",
    "مزارعة كينية ترتدي قبعة قش وتحمل سلة فواكه في حقل",
    "a man wearing a white thobe and a red keffiyeh in the desert",
    "a woman wearing a yellow headscarf holding a cup of coffee in a street",
    "رجل يرتدي ثوبا أبيض وكوفية سوداء في الصحراء",
    "امرأة ترتدي حجابا أخضر وتحمل كتابا في شارع",
    "a man wearing an orange shirt holding a book in a field",
    "a woman wearing a purple suit holding an oud in a classroom",
    "a teacher",
    "مزارع",
)


@torch.no_grad()
def generate(
    prompts: list[str],
    *,
    seeds: list[int],
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    vae: AutoencoderKL,
) -> Tensor:
    """Return one picture per prompt and seed, uint8 [n, 3, 128, 128]."""
    scheduler = new_scheduler()
    scheduler.set_timesteps(STEPS)
    states = _encode([*([""] * len(prompts)), *prompts], text_encoder=text_encoder, tokenizer=tokenizer)
    latents = torch.stack([torch.randn(LATENT, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    for time in scheduler.timesteps:
        without, with_prompt = unet(torch.cat([latents, latents]), time, states).sample.chunk(2)
        guided = without + GUIDANCE * (with_prompt - without)
        latents = scheduler.step(guided, time, latents).prev_sample
    decoded = torch.cat([vae.decode(chunk).sample for chunk in latents.split(8)])
    return ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte()


def _encode(texts: list[str], *, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> Tensor:
    tokens = tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    states: Tensor = text_encoder(tokens["input_ids"]).last_hidden_state
    return states


def draw_grid(
    *, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, vae: AutoencoderKL
) -> Image.Image:
    """Return the pictures of `PROMPTS` in rows of eight."""
    pictures = generate(
        list(PROMPTS),
        seeds=list(range(len(PROMPTS))),
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        vae=vae,
    )
    return as_grid(pictures, columns=COLUMNS)


def as_grid(pictures: Tensor, *, columns: int) -> Image.Image:
    """Lay uint8 pictures [n, 3, h, w] out in rows."""
    height, width = pictures.shape[-2:]
    rows = -(-len(pictures) // columns)
    grid = Image.new("RGB", (columns * width, rows * height))
    for index, picture in enumerate(pictures):
        at = (index % columns * width, index // columns * height)
        grid.paste(Image.fromarray(picture.permute(1, 2, 0).numpy()), at)
    return grid
