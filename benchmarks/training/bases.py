"""What is trained: two small bases, and pictures with captions.

The UNet is Hayy's own base. The transformer is of FLUX.1's shape with random weights and as many parameters; it stands
on the same image coder and CLIP, with a T5 of the same width that reads as many tokens.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from PIL import Image
from transformers import T5Config, T5EncoderModel, T5TokenizerFast

HAYY = Path(__file__).resolve().parents[2] / "examples" / "hayy" / "base"
PICTURES = 64
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class Data:
    """Pictures on disk, and two captions of each."""

    files: tuple[Path, ...]
    captions: tuple[tuple[str, str], ...]

    @property
    def wordings(self) -> list[str]:
        """Every caption; row 0 is the empty one."""
        return ["", *(text for pair in self.captions for text in pair)]


def make_data(folder: Path) -> Data:
    """Drawings of 256 px, like those of the example sets in size and kind."""
    files = []
    for row in range(PICTURES):
        chance = np.random.default_rng(row)
        picture = Image.fromarray(chance.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((256, 256), 0)
        files.append(folder / f"{row:03d}.png")
        picture.save(files[-1])
    captions = tuple(
        (f"a doctor with a clipboard in hospital {row}", f"طبيبة تحمل لوحا في المستشفى {row}")
        for row in range(PICTURES)
    )
    return Data(files=tuple(files), captions=captions)


def make_transformer(folder: Path) -> Path:
    """A base of FLUX.1's shape, 8 M parameters in its transformer, in diffusers layout."""
    torch.manual_seed(0)
    width = json.loads((HAYY / "text_encoder" / "config.json").read_text())["hidden_size"]
    for part in ("vae", "text_encoder", "tokenizer"):
        shutil.copytree(HAYY / part, folder / part)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in _LETTERS)]
    T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=_TOKENS).save_pretrained(folder / "tokenizer_2")
    T5EncoderModel(
        T5Config(vocab_size=len(pieces), d_model=width, d_kv=32, d_ff=4 * width, num_layers=3, num_heads=6)
    ).save_pretrained(folder / "text_encoder_2")
    FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=64,
        num_attention_heads=4,
        joint_attention_dim=width,
        pooled_projection_dim=width,
        guidance_embeds=True,
        axes_dims_rope=(16, 24, 24),
    ).save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True).save_pretrained(folder / "scheduler")
    return folder
