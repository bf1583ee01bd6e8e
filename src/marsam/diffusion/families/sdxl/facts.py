"""What is true of Stable Diffusion XL (arXiv 2307.01952), and how a base's JSON files are read. Imports no torch."""

import re
from collections.abc import Collection, Mapping

from marsam.diffusion import basefiles
from marsam.diffusion.encoders import clip
from marsam.diffusion.onefile.facts import OneFile, Reference
from marsam.diffusion.spec import BaseFacts, Default, FamilyFacts, Kohya

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")

_IN_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_IN_THE_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_IN_RESNET = {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1",
              "conv_shortcut": "skip_connection"}  # fmt: skip
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_out": "out.2",
}


def original(layers: Collection[str]) -> Mapping[str, tuple[str, ...]]:
    """The makers' names (Stability's generative-models): blocks of one list, counted through."""
    pairs = 1 + max(
        (int(found[4]) for layer in layers if (found := _IN_BLOCK.fullmatch(layer)) and found[3] == "resnets"),
        default=0,
    )  # of resnets and attentions in a block on the way up; one less on the way down, where a resizer follows
    named = {}
    for layer in layers:
        theirs = _OUTSIDE.get(layer)
        if (found := _IN_THE_MIDDLE.fullmatch(layer)) is not None:
            kind, number, rest = found.groups()
            place = 1 if kind == "attentions" else 2 * int(number)
            theirs = f"middle_block.{place}.{_IN_RESNET.get(rest, rest)}"
        elif (found := _IN_BLOCK.fullmatch(layer)) is not None:
            way, block, kind, number, rest = found.groups()
            first = int(block) * pairs
            match kind:
                case "downsamplers":
                    theirs = f"input_blocks.{first + pairs}.0.op"
                case "upsamplers":
                    attends = any(one.startswith(f"up_blocks.{block}.attentions.") for one in layers)
                    theirs = f"output_blocks.{first + pairs - 1}.{2 if attends else 1}.{rest}"
                case _:
                    side, at = ("input", first + 1) if way == "down" else ("output", first)
                    inside = "0" if kind == "resnets" else "1"
                    theirs = f"{side}_blocks.{at + int(number)}.{inside}.{_IN_RESNET.get(rest, rest)}"
        if theirs is not None:
            named[theirs] = (layer,)
    return named


FACTS = FamilyFacts(
    name="sdxl",
    title="Stable Diffusion XL (UNet, two CLIP text encoders)",
    objectives=("epsilon", "v"),
    side_multiple=8,
    min_side=32,
    max_side=2048,
    targets={
        "attention": _ATTENTION,
        "all": (*_ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut"),
    },
    default_targets="attention",
    # Small, and every error in them reaches every layer.
    keep=("time_embedding", "time_emb_proj", "add_embedding"),
    config_files=(
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "text_encoder_2/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer_2/tokenizer_config.json",
        basefiles.INDEX,
    ),
    denoiser_folder="unet",
    kohya=Kohya(network="networks.lora", layers=original),
    # The index says what the empty caption is.
    text_folders=("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", basefiles.INDEX),
    encoders={
        # Of the first nothing is asked beyond its last state but one; the second gives the pooled caption too.
        "text_encoder": clip("lora_te1_", idle=("encoder.layers.-1:", "final_layer_norm")),
        "text_encoder_2": clip("lora_te2_"),
    },
    recipes={
        "full": {
            "learning_rate": Default(5e-6, "published recipes: 1e-6 to 5e-6, diffusers takes the lower"),
            "optimiser": Default("adamw_8bit", "a large base: moments in 32 bits are twice its weights"),
        },
    },
)

LATENT_FACTOR = 8
"""Pixels per latent cell along a side. The UNet is told sizes in pixels, and sees only the latent's."""

FRAME = 6
"""Numbers that the UNet is told of how its picture was cut (`Conditioning.tensors["frame"]`)."""

_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
_OTHERS = {
    9: "an inpainting base: its UNet sees a mask and a masked picture too",
    8: "an instruction base: its UNet sees the picture to be changed too",
}

ONE_FILE = OneFile(
    has=("input_blocks.0.0.weight", "label_emb.0.0.weight"),
    encoders={
        "text_encoder": ("conditioner.embedders.0.transformer.",),
        "text_encoder_2": ("conditioner.embedders.1.model.",),
    },
    references=(
        Reference(
            repository="stabilityai/stable-diffusion-xl-base-1.0",
            has=("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
        ),
    ),
)


def read_base(configs: Mapping[str, basefiles.Config]) -> BaseFacts:
    """Read a base's facts from its parsed JSON files, keyed by relative path (`FACTS.config_files`).

    Raises `Invalid` with one violation per fault when this is no base of the family.
    """
    basefiles.refuse(_refiner(configs.get(basefiles.INDEX, {})))
    return basefiles.read(FACTS, configs, _read)


def _refiner(index: basefiles.Config) -> list[basefiles.Fault]:
    """A refiner lacks the files of its first encoder: say what it is, not what it lacks."""
    if not str(index.get("_class_name")).startswith("StableDiffusionXL") or basefiles.present(index, "text_encoder"):
        return []
    return [("a base without its first text encoder is SDXL's refiner, which only finishes pictures", "BASE_FAMILY")]


def _read(
    unet: basefiles.Config,
    vae: basefiles.Config,
    text: basefiles.Config,
    text_2: basefiles.Config,
    scheduler: basefiles.Config,
    tokenizer: basefiles.Config,
    tokenizer_2: basefiles.Config,
    index: basefiles.Config,
) -> BaseFacts:
    prediction = scheduler.get("prediction_type", "epsilon")
    factor = basefiles.image_factor(vae)
    lengths = [
        basefiles.text_length(words, int(encoder.get("max_position_embeddings", 77)))
        for words, encoder in ((tokenizer, text), (tokenizer_2, text_2))
    ]
    width = int(text.get("hidden_size", 512)) + int(text_2.get("hidden_size", 512))
    pooled = int(text_2.get("projection_dim", 512))
    faults = basefiles.class_fault("unet", unet, "UNet2DConditionModel") or _strange(unet, width=width, pooled=pooled)
    faults += basefiles.class_fault("vae", vae, "AutoencoderKL")
    if prediction not in _PREDICTIONS:
        faults.append((f"prediction type {prediction!r} is not known to sdxl", "BASE_OBJECTIVE"))
    if str(scheduler.get("_class_name")).startswith("EDM"):
        faults.append(("the base was trained on EDM's noise levels, which sdxl's table has not", "BASE_OBJECTIVE"))
    if unet.get("in_channels", 4) != vae.get("latent_channels", 4):
        what = _OTHERS.get(unet.get("in_channels", 4), "no base of sdxl")
        faults.append((f"the UNet's channels are not the VAE's: this is {what}", "BASE_CHANNELS"))
    if factor != LATENT_FACTOR:
        faults.append((f"the VAE has {factor} px per latent cell, not {LATENT_FACTOR}", "BASE_CHANNELS"))
    if lengths[0] != lengths[1]:
        faults.append((f"the encoders read {lengths[0]} and {lengths[1]} tokens, not equally many", "BASE_TEXT"))
    basefiles.refuse(faults)
    distilled = basefiles.few_steps(scheduler)
    return BaseFacts(
        family=FACTS.name,
        objective=_PREDICTIONS[prediction],
        latent_channels=int(vae.get("latent_channels", 4)),
        latent_factor=factor,
        side_multiple=factor * 2 ** (len(unet.get("block_out_channels", (1, 1, 1, 1))) - 1),
        default_side=int(unet.get("sample_size") or 128) * factor,
        text_length=lengths[0],
        conditioning={"hidden": (lengths[0], width), "pooled": (pooled,)},
        train_steps=int(scheduler.get("num_train_timesteps", 1000)),
        scheduler=dict(scheduler),
        zero_empty=bool(index.get("force_zeros_for_empty_prompt", True)),
        distilled=distilled,
        # What its makers' own pipeline draws with.
        default_steps=4 if distilled else 50,
        default_guidance=1.0 if distilled else 5.0,
    )


def _strange(unet: basefiles.Config, *, width: int, pooled: int) -> list[basefiles.Fault]:
    """What is not SDXL's about a UNet, given the width of both encoders together and of the pooled caption."""
    if unet.get("addition_embed_type") != "text_time":
        return [("the UNet is not told how its picture was cut: this is not SDXL", "BASE_FAMILY")]
    faults: list[basefiles.Fault] = []
    told, rest = divmod(
        int(unet["projection_class_embeddings_input_dim"]) - pooled, int(unet["addition_time_embed_dim"])
    )
    if (told, rest) != (FRAME, 0):
        what = "an aesthetic score: this is SDXL's refiner" if told == FRAME - 1 else f"{told} numbers, not {FRAME}"
        faults.append((f"the UNet is told {what}", "BASE_FAMILY"))
    if unet.get("time_cond_proj_dim") is not None:
        faults.append(("the UNet takes guidance as an input: a latent consistency model, not SDXL", "BASE_FAMILY"))
    if unet.get("cross_attention_dim", 1280) != width:
        faults.append((f"the UNet does not read captions {width} wide, which its encoders make", "BASE_TEXT"))
    return faults
