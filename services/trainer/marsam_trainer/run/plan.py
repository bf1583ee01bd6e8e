"""What a run would take, before it is paid for: memory by term from the denoiser's shapes, time from its arithmetic,
and every fault at once.

Nothing is allocated: the denoiser is built on torch's meta device, the method is attached to it, and one forward is
traced for the tensors that autograd would keep. The formulas are those of `optimisers` (two moments) and of NF4
(`nf4_bytes`).
"""

import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from marsam.catalog.models import Model
from marsam.catalog.runs import RunSpec
from marsam.core.cores import computing_cores
from marsam.core.errors import Invalid, MarsamError
from marsam.diffusion import registry, tuned
from marsam.diffusion.spec import (
    BaseFacts,
    Components,
    Conditioning,
    Family,
    FamilyFacts,
    Method,
    Part,
    Precision,
    Quantisation,
    kept,
)
from marsam.store.blobs import Blobs
from marsam.store.cache import Cache
from marsam_trainer.run.bridge import Bridge
from marsam_trainer.run.data import regularisation_of, samples_of
from marsam_trainer.run.optimisers import state_bytes
from marsam_trainer.run.recompute import checkpoint_blocks
from marsam_trainer.run.reporter import device_memory
from marsam_trainer.run.work import load_order

LIBRARIES = {"cpu": 600 << 20, "cuda": 1200 << 20}
"""Resident bytes of torch and its friends before any weight (CPU: measured; CUDA: context and workspaces,
estimated)."""

EFFICIENCY = 0.5
"""Share of a large matrix product's speed that a step reaches (measured on Hayy's base on a CPU: 75 of 150 GFLOP/s)."""

ADMIT = 0.9
"""Share of the memory there is that an estimate may claim."""


def plan(bridge: Bridge, blobs: Blobs, spec: RunSpec, *, cache: Path, device: str = "") -> dict[str, Any]:
    """The plan of a run as plain data: `memory` [{term, bytes}], totals, `seconds`, `fits`, and `faults`, empty when
    it can start."""
    device = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    faults: list[dict[str, str]] = []
    base, version, apart = load_order(bridge, blobs, spec)
    try:
        samples = samples_of(version, spec.languages)
        samples += regularisation_of(apart, spec.languages) if apart is not None else []
    except Invalid as error:
        samples = []
        faults += _faults(error)
    params: dict[str, Any] | None = None
    try:
        params = registry.method_params(spec.method, spec.method_params, family=base.family)
    except Invalid as error:
        faults += _faults(error)
    with tempfile.TemporaryDirectory(prefix="plan-") as folder:
        source = _configs(bridge, blobs, base, cache, Path(folder))
        facts = registry.read_base_folder(base.family, source)
        try:
            facts.check_size(spec.resolution, spec.resolution)
        except Invalid as error:
            faults += _faults(error)
        if faults or params is None:
            return {"faults": faults}
        captions = {caption for sample in samples for caption in sample.captions}
        family, method = registry.family(base.family), registry.method(spec.method)
        found = _measure(family, method, params, source, facts, spec)
    latent = 4 * math.prod(facts.latent_shape(spec.resolution, spec.resolution))
    caption = (2 if spec.precision == "bf16" else 4) * sum(math.prod(shape) for shape in facts.conditioning.values())
    data = len(samples) * latent + (len(captions) + 1) * caption
    terms = {**found["terms"], "encoded data": data, "libraries": LIBRARIES[device.split(":")[0]]}
    total, available = sum(terms.values()), device_memory(device).total
    return {
        "memory": [{"term": term, "bytes": size} for term, size in terms.items()],
        "total_bytes": total,
        "available_bytes": available,
        "trainable_parameters": found["trainable"],
        "quantised_share": found["share"],
        "seconds": spec.steps * found["flops"] / (EFFICIENCY * _machine_flops(device)),
        "fits": total <= ADMIT * available,
        "device": device,
        "faults": [],
    }


def _measure(
    family: Family, method: Method, params: Mapping[str, Any], source: Path, facts: BaseFacts, spec: RunSpec
) -> dict[str, Any]:
    denoiser: Any = family.empty_denoiser(source)
    every = sum(value.numel() for value in denoiser.parameters())
    width = 2 if spec.precision == "bf16" else 4
    quantisation = method.quantisation(params)
    quantised = _linear_sizes(denoiser, family.facts) if quantisation else []
    encoders = family.empty_encoders(source) if Part.TEXT in tuned.parts_of(params) else {}
    parts = Components(
        source=source,
        facts=facts,
        device="meta",
        precision=Precision(spec.precision),
        denoiser=denoiser,
        text=encoders,
    )
    trained = method.attach(
        tuned.modules(parts, family.facts, method.facts, params), family.facts, params, seed=spec.seed
    )
    sizes = [value.numel() for value in trained.values()]
    count = sum(sizes)
    # Buffers too: a table of positions can be hundreds of megabytes.
    held = [value for module in (denoiser, *encoders.values()) for value in (*module.parameters(), *module.buffers())]
    still = [value for value in held if not value.requires_grad]
    frozen = sum(value.numel() for value in still) - sum(quantised)
    base = frozen * width + sum(nf4_bytes(size, quantisation) for size in quantised if quantisation)
    activations, flops = _trace(family, denoiser, facts, spec, width)
    if quantised:
        # One layer at a time is put back to full width for its product.
        activations += max(quantised) * width
    return {
        "terms": {
            "base weights": base,
            "trainable weights": count * 4 * (2 if spec.ema_decay else 1),
            "gradients": count * 4,
            "optimiser": state_bytes(spec.optimiser, sizes),
            "activations": activations,
        },
        "trainable": count,
        "share": sum(quantised) / every,
        # Backward to the inputs costs one forward more, to the weights another for those that train.
        # A block that was not kept is computed twice.
        "flops": spec.accumulate * flops * (2.0 + min(1.0, count / every) + float(spec.gradient_checkpointing)),
    }


def _linear_sizes(denoiser: Any, facts: FamilyFacts) -> list[int]:
    """Sizes of the weights that would be held in 4 bits."""
    return [
        layer.weight.numel()
        for name, layer in denoiser.named_modules()
        if type(layer) is torch.nn.Linear and not kept(name, facts.keep)
    ]


def nf4_bytes(size: int, quantisation: Quantisation) -> int:
    """Exact bytes of `size` weights in NF4: half a byte each, a scale per block of 64, and the code book of 16 floats.

    With double quantisation a scale is one byte, and 256 of them share an fp32 scale; plus their code book and offset.
    """
    blocks = -(-size // 64)
    packed = -(-size // 2) + 16 * 4
    return packed + (blocks + -(-blocks // 256) * 4 + 256 * 4 + 4 if quantisation.double else blocks * 4)


def _trace(family: Family, denoiser: Any, facts: BaseFacts, spec: RunSpec, width: int) -> tuple[int, float]:
    """(bytes that autograd keeps, arithmetic operations) of one forward of the run's batch, traced on the meta
    device.

    Of blocks that are computed again only the largest one's insides are there at a time.
    """
    dtype = torch.bfloat16 if width == 2 else torch.float32
    # Cast first: on the meta device that gives every weight another storage, which would count as an activation.
    denoiser = denoiser.to(dtype)
    weights = {value.untyped_storage()._cdata for value in denoiser.parameters()}
    kept: dict[int, int] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = value.numel() * value.element_size()
        return value

    shape = (spec.batch_size, *facts.latent_shape(spec.resolution, spec.resolution))
    noisy = torch.empty(shape, device="meta", dtype=dtype)
    t = torch.ones(spec.batch_size, device="meta", dtype=torch.float64)
    cond = Conditioning(
        {
            name: torch.empty(spec.batch_size, *shape, device="meta", dtype=dtype)
            for name, shape in facts.conditioning.items()
        }
    )
    insides: list[int] = []

    def measured(block: Any, *arguments: Any) -> Any:
        outside, before = dict(kept), sum(kept.values())
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            given = block(*arguments)
        insides.append(sum(kept.values()) - before)
        kept.clear()
        kept.update(outside)
        for value in (*arguments, given):
            if isinstance(value, torch.Tensor):
                keep(value)
        return given

    if spec.gradient_checkpointing:
        checkpoint_blocks(denoiser, with_=measured)
        denoiser.train()
    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        family.predict(denoiser, noisy, t, cond, train_steps=facts.train_steps)
    return sum(kept.values()) + max(insides, default=0), float(counter.get_total_flops())


def _machine_flops(device: str) -> float:
    """Operations per second of large fp32 products here and now: a tenth of a second of measuring.

    On a CPU one core is measured, as busy as it is, and counted as often as there are cores: lanes do not share work.
    """
    side = 1024
    cores = computing_cores() if device == "cpu" else 1
    if device == "cpu":
        torch.set_num_threads(1)
    left = torch.randn(side, side, device=device)
    float((left @ left)[0, 0])
    began, rounds = time.monotonic(), 0
    while time.monotonic() - began < 0.1:
        float((left @ left)[0, 0])
        rounds += 1
    return cores * rounds * 2 * side**3 / (time.monotonic() - began)


def _configs(bridge: Bridge, blobs: Blobs, base: Model, cache: Path, into: Path) -> Path:
    """Only the base's JSON files, laid out: a plan does not fetch weights."""
    wanted = set(registry.family_facts(base.family).config_files)
    files = [file for file in base.files if file.path in wanted]
    return bridge.call(Cache(cache).lay_out(blobs, base.project, files, into))


def _faults(error: MarsamError) -> list[dict[str, str]]:
    violations = error.violations if isinstance(error, Invalid) else ()
    return [
        {"field": fault.field, "reason": fault.reason, "message": fault.message, "remedy": error.remedy}
        for fault in violations
    ] or [{"field": error.field or "", "reason": error.reason, "message": error.message, "remedy": error.remedy}]
