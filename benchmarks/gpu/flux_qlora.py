"""QLoRA of a base of FLUX.1-dev's size at 512 px on one GPU: our loop against a loop as diffusers' example writes it.

    python -m benchmarks.gpu.flux_qlora [--device cuda:0] [--blocks 19 38] [--side 512] [--rounds 5] [--steps 10]

Both hold the same 11.9 B random weights in NF4 with double quantisation, tune rank 16 on the attention, compute in bf16
with gradient checkpointing and 8-bit AdamW, and are handed the same encodings, noise and times (both cache them: the
T5 of such a base does not fit beside it). They take turns in one process, each alone on the card while it is measured.
No weight is read from disk: every layer is filled and quantised in place. The peer is the loop of
`train_dreambooth_lora_flux` with its Linear layers exchanged for bitsandbytes' own, adapters by `add_adapter`.
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from marsam_trainer.run.feed import Batch, Feed, TrainingSet
from marsam_trainer.run.loop import Loop
from marsam_trainer.run.mixture import Mixture
from marsam_trainer.run.position import Plan
from marsam_trainer.run.recompute import checkpoint_blocks
from peft import LoraConfig

from marsam.diffusion import registry, schedule
from marsam.diffusion.families.flux.facts import FACTS
from marsam.diffusion.lanes.net import Lanes
from marsam.diffusion.nf4 import net as nf4
from marsam.diffusion.precision import Precision, Quantisation
from marsam.diffusion.spec import BaseFacts, Components, Conditioning
from marsam.diffusion.weights.net import bytes_at_rest, quieten

RANK, RATE, SEED = 16, 1e-4, 1
MOST_BYTES, MOST_RATIO = 10 * 10**9, 1.1
EQUAL = 0.01
"""How far the two first losses, of the same weights and batch, may be apart: bf16 rounds otherwise in another order."""
PICTURES = 8


def facts_of(blocks: Sequence[int]) -> tuple[dict[str, Any], BaseFacts]:
    """The transformer's configuration, and what the family reads of such a base."""
    transformer = {
        "num_layers": blocks[0],
        "num_single_layers": blocks[1],
        "guidance_embeds": True,
        "in_channels": 64,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
    }
    configs: dict[str, dict[str, Any]] = {
        "transformer/config.json": {"_class_name": "FluxTransformer2DModel", **transformer},
        "vae/config.json": {"_class_name": "AutoencoderKL", "latent_channels": 16, "block_out_channels": [1] * 4},
        "text_encoder/config.json": {"hidden_size": 768},
        "text_encoder_2/config.json": {"d_model": 4096},
        "scheduler/scheduler_config.json": {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "shift": 3.0,
            "use_dynamic_shifting": True,
        },
        "tokenizer_2/tokenizer_config.json": {"model_max_length": 512},
    }
    return transformer, registry.read_base("flux", configs)


def fill(module: Any, device: str) -> Any:
    """Random weights for a transformer on the meta device whose Linear layers were exchanged: each is made, quantised
    and let go before the next."""
    place = nf4.placer(device=device)
    generator = torch.Generator(device).manual_seed(SEED)
    for name, empty in list(module.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        layer = module.get_submodule(owner)
        shape = (layer.out_features, layer.in_features) if _packed(layer, leaf) else empty.shape
        value = torch.randn(shape, device=device, dtype=torch.bfloat16, generator=generator) * 0.02
        if not place(layer, leaf, value):
            layer._parameters[leaf] = torch.nn.Parameter(value, requires_grad=False)
    return module.eval()


def _packed(layer: Any, leaf: str) -> bool:
    return leaf == "weight" and isinstance(layer, bnb.nn.Linear4bit)


def transformer_of(config: dict[str, Any], device: str) -> Any:
    """The transformer in NF4 on `device`."""
    with torch.device("meta"):
        module = FluxTransformer2DModel(**config)
    nf4.replace(module, keep=FACTS.keep, quantisation=Quantisation(), precision=Precision.BF16)
    return fill(module, device)


def samples_of(facts: BaseFacts, side: int) -> TrainingSet:
    """Random encodings of a few pictures and captions."""
    generator = torch.Generator().manual_seed(SEED)
    shapes = facts.conditioning
    texts = {
        name: torch.randn((PICTURES + 1, *shape), generator=generator).to(torch.bfloat16)
        for name, shape in shapes.items()
    }
    return TrainingSet(
        keys=tuple(str(row) for row in range(PICTURES)),
        latents=torch.randn((PICTURES, *facts.latent_shape(side, side)), generator=generator),
        texts=Conditioning(texts),
        captions=tuple((row + 1,) for row in range(PICTURES)),
    )


class Ours:
    """Our loop on a fresh base."""

    def __init__(self, config: dict[str, Any], facts: BaseFacts, samples: TrainingSet, device: str, batch: int) -> None:
        family, method = registry.family("flux"), registry.method("qlora")
        params = registry.method_params(
            "qlora", {"rank": RANK, "alpha": float(RANK), "targets": "attention"}, family="flux"
        )
        denoiser = transformer_of(config, device)
        self.at_rest = bytes_at_rest(denoiser)
        parts = Components(
            source=Path(),
            facts=facts,
            device=device,
            precision=Precision.BF16,
            denoiser=denoiser,
            quantisation=Quantisation(),
        )
        trained = method.attach({FACTS.denoiser_folder: denoiser}, FACTS, params, seed=SEED)
        checkpoint_blocks(denoiser)
        self.start = {name: value.detach().to("cpu", copy=True) for name, value in trained.items()}
        feed = Feed(samples, schedule.by_cells(facts), seed=SEED, batch_size=batch, caption_dropout=0.0)
        plan = Plan(
            steps=10_000,
            learning_rate=RATE,
            warmup_steps=10,
            seed=SEED,
            snr_gamma=None,
            ema_decay=None,
            optimiser="adamw_8bit",
        )
        objective = registry.objective("flow")
        self.loop = Loop(family, parts, objective, trained, feed, plan, lanes=Lanes(1, count=1))

    def step(self) -> float:
        """One step."""
        return self.loop.step()


class Theirs:
    """The peer's loop on a fresh base, with the same first values; it is given the batches that ours makes."""

    def __init__(
        self, config: dict[str, Any], start: dict[str, torch.Tensor], batches: Feed | Mixture, device: str
    ) -> None:
        self.batches, self.device, self.number = batches, device, 0
        self.transformer = transformer_of(config, device)
        self.transformer.requires_grad_(False)
        self.transformer.enable_gradient_checkpointing()
        self.transformer.add_adapter(
            LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(FACTS.targets["attention"]))
        )
        self.trained = []
        with torch.no_grad():
            for name, value in self.transformer.named_parameters():
                if value.requires_grad:
                    value.data = start[name].to(device, torch.float32)
                    self.trained.append(value)
        self.optimiser = bnb.optim.AdamW8bit(self.trained, lr=RATE, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
        self.transformer.train()

    def step(self) -> float:
        """One step."""
        batch: Batch = self.batches.batch(self.number).to(self.device)
        self.number += 1
        count, channels, height, width = batch.clean.shape
        sigmas = batch.t.float().view(-1, 1, 1, 1)
        noisy = ((1.0 - sigmas) * batch.clean + sigmas * batch.noise).to(torch.bfloat16)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            said = self.transformer(
                hidden_states=FluxPipeline._pack_latents(noisy, count, channels, height, width),
                timestep=batch.t.float(),
                guidance=torch.ones(count, device=self.device),
                pooled_projections=batch.cond.tensors["pooled"],
                encoder_hidden_states=batch.cond.tensors["hidden"],
                txt_ids=torch.zeros(batch.cond.tensors["hidden"].shape[1], 3, device=self.device),
                img_ids=FluxPipeline._prepare_latent_image_ids(
                    count, height // 2, width // 2, self.device, torch.float32
                ),
                return_dict=False,
            )[0]
        predicted = FluxPipeline._unpack_latents(said, height * 8, width * 8, 8)
        loss = ((predicted.float() - (batch.noise - batch.clean)) ** 2).reshape(count, -1).mean(1).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(loss.detach())


def measured(step: Callable[[], float], device: str, *, rounds: int, steps: int) -> dict[str, float]:
    """Seconds of a step (median of rounds) and the most memory held, in bytes; two steps before are not counted."""
    gpu = device.startswith("cuda")
    first = step()
    step()
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(rounds):
        began = time.monotonic()
        for _ in range(steps):
            step()
        seconds.append((time.monotonic() - began) / steps)
    return {
        "first_loss": first,
        "seconds": statistics.median(seconds),
        "allocated": float(torch.cuda.max_memory_allocated(device)) if gpu else 0.0,
        "reserved": float(torch.cuda.max_memory_reserved(device)) if gpu else 0.0,
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Both, one after the other, ours first and last."""
    quieten()
    config, facts = facts_of(options.blocks)
    samples = samples_of(facts, options.side)
    found: dict[str, Any] = {"ours": [], "theirs": []}
    start: dict[str, torch.Tensor] = {}
    for name in ("ours", "theirs", "ours"):
        ours = theirs = None
        gc.collect()
        if options.device.startswith("cuda"):
            torch.cuda.empty_cache()
        if name == "ours":
            ours = Ours(config, facts, samples, options.device, options.batch)
            start, feed, found["at_rest"] = ours.start, ours.loop.feed, ours.at_rest
            step = ours.step
        else:
            theirs = Theirs(config, start, feed, options.device)
            step = theirs.step
        found[name].append(measured(step, options.device, rounds=options.rounds, steps=options.steps))
        del step
    return found


def markdown(found: dict[str, Any], options: argparse.Namespace) -> str:
    """The figures as a page."""
    card = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "no GPU"
    lines = [
        f"# FLUX.1-sized QLoRA on {card}",
        "",
        f"{options.side} px, batch {options.batch}, rank {RANK} on the attention, NF4 with double quantisation, bf16,"
        f" 8-bit AdamW, gradient checkpointing; torch {torch.__version__}. Blocks: {options.blocks}."
        f" `python -m benchmarks.gpu.flux_qlora`. Weights at rest: {found['at_rest'] / 1e9:.2f} GB.",
        "",
        "| | seconds a step | most allocated, GB | most reserved, GB | first loss |",
        "|---|---|---|---|---|",
    ]
    for name in ("ours", "theirs"):
        for one in found[name]:
            lines.append(
                f"| {name} | {one['seconds']:.3f} | {one['allocated'] / 1e9:.2f} | {one['reserved'] / 1e9:.2f} |"
                f" {one['first_loss']:.4f} |"
            )
    ratio = min(one["seconds"] for one in found["ours"]) / found["theirs"][0]["seconds"]
    lines += [
        "",
        f"Our step takes {ratio:.2f} of the peer's. Targets: ≤ {MOST_RATIO}, and ≤ 10 GB,"
        f" at first losses that are equal to {EQUAL:.0%}.",
        "",
    ]
    return "\n".join(lines)


def met(found: dict[str, Any]) -> bool:
    """Whether both targets were met, by loops that learn the same."""
    ours, theirs = found["ours"][0]["first_loss"], found["theirs"][0]["first_loss"]
    best = min(found["ours"], key=lambda one: one["seconds"])
    quick = best["seconds"] <= MOST_RATIO * found["theirs"][0]["seconds"]
    return bool(quick and best["reserved"] <= MOST_BYTES and abs(ours - theirs) <= EQUAL * abs(theirs))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write `flux_qlora.md`; the exit status is 1 when a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.flux_qlora")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--blocks", type=int, nargs=2, default=[19, 38], help="of two streams, of one")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "results" / "gpu")
    options = parser.parse_args(argv)
    found = measure(options)
    page = markdown(found, options)
    print(page)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "flux_qlora.md").write_text(page)
    return 0 if met(found) else 1


if __name__ == "__main__":
    sys.exit(main())
