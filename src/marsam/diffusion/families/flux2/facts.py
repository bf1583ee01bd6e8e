"""What is true of FLUX.2 bases (klein and dev), and how a base's own JSON files are read. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from marsam.diffusion import basefiles
from marsam.diffusion.encoders import language_model
from marsam.diffusion.onefile.facts import OneFile
from marsam.diffusion.schedule import Flow
from marsam.diffusion.spec import BaseFacts, Default, FamilyFacts

_ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.to_qkv_mlp_proj")

_MOST_SINGLE_BLOCKS = 48
"""Blocks with one stream in the largest base, dev."""

_REST = (
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    *("ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out"),
    # By its whole name: in blocks with two streams `attn.to_out` is a list, which takes no adapter.
    *(f"single_transformer_blocks.{block}.attn.to_out" for block in range(_MOST_SINGLE_BLOCKS)),
)

_PATCH = 2
"""A cell of a latent is a square of 2×2 cells of the image coder (its `patch_size`, which FLUX.2's pipelines take for
granted)."""

_LONGEST = 512
"""Tokens of a caption with its template (both pipelines' `tokenizer_max_length`)."""

FACTS = FamilyFacts(
    name="flux2",
    title="FLUX.2 (transformer, Qwen3 or Mistral 3 text encoder)",
    objectives=("flow",),
    side_multiple=16,
    min_side=32,
    max_side=2048,
    targets={"attention": _ATTENTION, "all": (*_ATTENTION, *_REST)},
    default_targets="all",
    # Embedders, the modulation that all blocks share, the way in and the way out.
    keep=("time_guidance_embed", "modulation", "x_embedder", "context_embedder", "norm_out", "^proj_out"),
    config_files=(
        "transformer/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "model_index.json",
    ),
    denoiser_folder="transformer",
    text_folders=("text_encoder", "tokenizer"),
    encoders={
        # Klein's Qwen3 and dev's Mistral: nothing is asked of what comes after the last layer that is read.
        "text_encoder": language_model(
            idle=("model.layers.27:", "model.language_model.layers.30:", "model.vision_tower")
        )
    },
    recipes={
        "*": {"gradient_checkpointing": Default(True, "a large base: its activations would not fit beside it")},
        "full": {"optimiser": Default("adamw_8bit", "a large base: moments in 32 bits are twice its weights")},
    },
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """How a language model is made to read a caption: the template around it, the layers whose states are taken, and
    words that are struck out of it."""

    before: str
    after: str
    layers: tuple[int, ...]
    struck: tuple[str, ...] = ()

    def prompt(self, caption: str) -> str:
        """The whole of what the language model reads."""
        for word in self.struck:
            caption = caption.replace(word, "")
        return f"{self.before}{caption}{self.after}"


READERS: Mapping[str, Reader] = {
    # One turn of the user's and the beginning of an answer whose thoughts are already over (`enable_thinking=False`).
    "qwen3": Reader(
        before="<|im_start|>user\n",
        after="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        layers=(9, 18, 27),
    ),
    # The system message is the maker's (its `system_messages.py`), line break and all. [IMG] would stand for a picture.
    "mistral3": Reader(
        before=(
            "<s>[SYSTEM_PROMPT]You are an AI that reasons about image descriptions. You give structured responses "
            "focusing on object relationships, object\nattribution and actions without speculation.[/SYSTEM_PROMPT]"
            "[INST]"
        ),
        after="[/INST]",
        layers=(10, 20, 30),
        struck=("[IMG]",),
    ),
}
"""By the `model_type` of the text encoder: klein's and dev's."""


def empirical_mu(tokens: int, steps: int) -> float:
    """The maker's shift of times (its `compute_empirical_mu`), as logarithm: two lines over tokens, fitted for 200 and
    for 10 steps, and between them a line over steps. Large pictures take the first alone."""
    many, few = 0.00016927 * tokens + 0.45666666, 8.73809524e-05 * tokens + 1.89833333
    if tokens > 4300:
        return many
    slope = (many - few) / 190.0
    return slope * steps + (many - 200.0 * slope)


ONE_FILE = OneFile(has=("double_blocks.0.img_attn.norm.key_norm.scale", "single_stream_modulation.lin.weight"))


def read_base(configs: Mapping[str, basefiles.Config]) -> BaseFacts:
    """Read a base's facts from its parsed JSON files, keyed by relative path (`FACTS.config_files`).

    Raises `Invalid` with one violation per fault when this is no base of the family.
    """
    return basefiles.read(FACTS, configs, _read)


def _read(
    transformer: basefiles.Config,
    vae: basefiles.Config,
    text: basefiles.Config,
    scheduler: basefiles.Config,
    tokenizer: basefiles.Config,
    index: basefiles.Config,
) -> BaseFacts:
    channels = int(vae.get("latent_channels", 32)) * _PATCH**2
    faults = basefiles.class_fault("transformer", transformer, "Flux2Transformer2DModel")
    faults += basefiles.class_fault("vae", vae, "AutoencoderKLFlux2")
    faults += basefiles.class_fault("scheduler", scheduler, "FlowMatchEulerDiscreteScheduler")
    reader = READERS.get(str(text.get("model_type")))
    words = text.get("text_config", text)
    hidden = 0
    if reader is None:
        faults.append((f"text_encoder is a {text.get('model_type')}, not one of {', '.join(READERS)}", "BASE_FAMILY"))
    else:
        hidden = len(reader.layers) * int(words.get("hidden_size", 0))
        if int(words.get("num_hidden_layers", 0)) < max(reader.layers):
            faults.append((f"text_encoder has fewer than {max(reader.layers)} layers", "BASE_CHANNELS"))
        if hidden != int(transformer.get("joint_attention_dim", 15360)):
            faults.append(("text_encoder is not as wide as the transformer expects", "BASE_CHANNELS"))
    if int(transformer.get("in_channels", 128)) != channels:
        faults.append(("the transformer's channels are not the VAE's", "BASE_CHANNELS"))
    basefiles.refuse(faults)
    factor = basefiles.image_factor(vae) * _PATCH
    length = basefiles.text_length(tokenizer, _LONGEST)
    dynamic = bool(scheduler.get("use_dynamic_shifting", False))
    distilled = bool(index.get("is_distilled", False))
    return BaseFacts(
        family=FACTS.name,
        objective="flow",
        latent_channels=channels,
        latent_factor=factor,
        side_multiple=factor,
        default_side=int(vae.get("sample_size") or 1024),
        text_length=length,
        conditioning={"hidden": (length, hidden)},
        train_steps=int(scheduler.get("num_train_timesteps", 1000)),
        scheduler=dict(scheduler),
        flow=Flow(
            shift=float(scheduler.get("shift", 1.0)),
            mu=empirical_mu if dynamic else None,
            exponential=scheduler.get("time_shift_type", "exponential") == "exponential",
            even=True,
        ),
        embedded_guidance=bool(transformer.get("guidance_embeds", True)),
        distilled=distilled,
        default_steps=4 if distilled else 50,
        default_guidance=1.0 if distilled else 4.0,
        preamble=reader.before if reader is not None else "",
    )
