"""Low-rank adapters: W' = W + weight · (α/r) · B·A with B = 0 at the start (arXiv 2106.09685).

With DoRA it learns lengths beside them (`adapter.dora`).

On disk an adapter is what PEFT writes: `adapter_model.safetensors` with keys
`base_model.model.<module>.lora_{A,B}.weight` (and `.lora_magnitude_vector`), and `adapter_config.json`. Those of text
encoders lie likewise in folders named as the base's, beside that of the denoiser. Layers may have
a rank and an alpha of their own (`adapter.scales`). Injection goes through `peft.inject_adapter_in_model`, which every
torch module supports.
"""

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open

from marsam.core.errors import Corrupt, Invalid
from marsam.diffusion.adapter.dora import net as dora
from marsam.diffusion.adapter.scales import Scales, told
from marsam.diffusion.dialects import MAGNITUDE
from marsam.diffusion.weights import net as weights

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True, slots=True)
class LowRank(Scales):
    """The shape of an adapter. `targets` are module-name suffixes, `left_out` modules that bear one all the same. With
    `dora` lengths are learnt too."""

    targets: tuple[str, ...]
    dropout: float = 0.0
    dora: bool = False
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter in memory: per module path, A (r, in, …) and B (out, r, …) as fp32, and the lengths (out,) or
    (1, out, 1, 1) where it has them; `nbytes` of all. `text` holds the adapters of text encoders that belong to it, by
    folder."""

    shape: LowRank
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    metadata: Mapping[str, str]
    magnitudes: Mapping[str, torch.Tensor] = field(default_factory=dict)
    text: Mapping[str, "Adapter"] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        own = sum(a.nbytes + b.nbytes for a, b in self.pairs.values())
        own += sum(value.nbytes for value in self.magnitudes.values())
        return own + sum(adapter.nbytes for adapter in self.text.values())

    @property
    def tensors(self) -> int:
        """How many tensors all parts are made of."""
        own = 2 * len(self.pairs) + len(self.magnitudes)
        return own + sum(adapter.tensors for adapter in self.text.values())

    def every_pair(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The pairs of all parts."""
        return [*self.pairs.values(), *(pair for adapter in self.text.values() for pair in adapter.every_pair())]


def inject(denoiser: Any, shape: LowRank, *, seed: int, name: str = "default") -> dict[str, torch.nn.Parameter]:
    """Put a fresh adapter on the denoiser in place, freeze the rest, and return what trains by name. Output is
    unchanged to the bit: B = 0, and lengths are those that the same device finds in the first step.

    Raises `Invalid` when no module bears a target's name.
    """
    for parameter in denoiser.parameters():
        parameter.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(_config(shape), denoiser, adapter_name=name)
        except ValueError as error:
            raise Invalid(
                f"no layer of the denoiser bears a target's name: {error}", field="targets", reason="TARGETS_UNMATCHED"
            ) from error
    for path, parameter in denoiser.named_parameters():
        if _is_part(path, name):
            parameter.data = parameter.data.float()
    if shape.dora:
        for layer in _layers(denoiser, name):
            dora.measure(layer, name)
    trained = {path: parameter for path, parameter in denoiser.named_parameters() if _is_part(path, name)}
    for parameter in trained.values():
        parameter.requires_grad_(True)
    return trained


def _is_part(path: str, name: str) -> bool:
    """Whether a parameter belongs to the adapter `name`."""
    return any(f".{part}.{name}." in path for part in ("lora_A", "lora_B", MAGNITUDE))


def _layers(module: Any, name: str) -> list[Any]:
    """The layers that bear the adapter `name`."""
    return [layer for layer in module.modules() if isinstance(layer, LoraLayer) and name in layer.lora_A]


def save(denoiser: Any, folder: Path, *, metadata: Mapping[str, str], name: str = "default") -> tuple[str, ...]:
    """Write the adapter `name` under `folder`; return the relative paths. rank and alpha are in the header too."""
    # Injection leaves PEFT's own configuration on the module.
    config = denoiser.peft_config[name].to_dict()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        _stored_name(path, name): value.detach().to("cpu", torch.float32).contiguous()
        for path, value in denoiser.state_dict().items()
        if _is_part(path, name)
    }
    header = {**metadata, "format": "pt", "rank": str(config["r"]), "alpha": str(config["lora_alpha"])}
    weights.save(tensors, folder / WEIGHTS, metadata=header)
    for names in ("target_modules", "exclude_modules"):
        config[names] = sorted(config[names]) if config[names] else None
    (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True, default=str) + "\n", encoding="utf-8")
    return (CONFIG, WEIGHTS)


def _stored_name(path: str, name: str) -> str:
    """What PEFT calls a parameter in a file: lengths without `.weight`."""
    stored = _PREFIX + path.replace(f".{name}.weight", ".weight")
    return stored.removesuffix(".weight") if stored.endswith(f".{MAGNITUDE}.weight") else stored


def read(folder: Path) -> Adapter:
    """Read an adapter from `folder`. Raises `Invalid` for what this cannot apply, `Corrupt` for half pairs, ranks that
    are not those it says, lengths that are missing or surplus, and numbers that are not finite."""
    halves: dict[str, dict[str, torch.Tensor]] = {}
    try:
        with safe_open(folder / WEIGHTS, framework="pt", device="cpu") as tensors:
            metadata = dict(tensors.metadata() or {})
            for key in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                module, _, half = key.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")
                if half not in ("lora_A", "lora_B", MAGNITUDE):
                    raise Invalid(f"{WEIGHTS} holds {key!r}, which is no part of a LoRA", reason="ADAPTER_KEYS")
                halves.setdefault(module, {})[half] = tensors.get_tensor(key).float()
    except Invalid:
        raise
    except Exception as error:
        raise Corrupt(f"{WEIGHTS} cannot be read: {error}", reason="WEIGHTS_UNREADABLE") from error
    shape = _shape(folder, halves)
    for module, pair in halves.items():
        if set(pair) != {"lora_A", "lora_B"} | ({MAGNITUDE} if shape.dora else set()):
            raise Corrupt(f"{module} has only {', '.join(sorted(pair))}", reason="ADAPTER_INCOMPLETE")
        ranks = {pair["lora_A"].shape[0], pair["lora_B"].shape[1]}
        if len(ranks) > 1:
            raise Corrupt(f"{module}: the ranks of A and B differ", reason="ADAPTER_SHAPE")
        if ranks != {shape.rank_of(module)}:
            raise Corrupt(
                f"{module}: {CONFIG} says rank {shape.rank_of(module)}, its halves have {ranks.pop()}",
                reason="ADAPTER_SHAPE",
            )
        if not all(bool(torch.isfinite(half).all()) for half in pair.values()):
            raise Corrupt(f"{module} holds numbers that are not finite", reason="ADAPTER_NOT_FINITE")
    return Adapter(
        shape=shape,
        pairs={m: (p["lora_A"], p["lora_B"]) for m, p in sorted(halves.items())},
        metadata=metadata,
        magnitudes={m: p[MAGNITUDE] for m, p in sorted(halves.items()) if shape.dora},
        text={path.parent.name: read(path.parent) for path in sorted(folder.glob(f"*/{CONFIG}"))},
    )


def _shape(folder: Path, modules: Collection[str]) -> LowRank:
    """What the configuration in `folder` says of an adapter on `modules`."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        scales = told(config, modules)
        return LowRank(
            rank=scales.rank,
            alpha=scales.alpha,
            rank_stabilised=scales.rank_stabilised,
            ranks=scales.ranks,
            alphas=scales.alphas,
            targets=tuple(config["target_modules"]),
            dora=bool(config.get("use_dora", False)),
            left_out=tuple(config.get("exclude_modules") or ()),
        )
    except (OSError, AttributeError, ValueError, KeyError, TypeError) as error:
        raise Invalid(f"{CONFIG} does not describe a LoRA: {error}", reason="ADAPTER_CONFIG") from error


@contextlib.contextmanager
def muted(modules: Iterable[Any]) -> Iterator[None]:
    """The modules without their adapters, as the base is, for as long as this is entered."""
    layers = [layer for module in modules for layer in module.modules() if isinstance(layer, LoraLayer)]
    try:
        for layer in layers:
            layer.enable_adapters(enabled=False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)


def apply(denoiser: Any, adapter: Adapter, *, name: str = "default", weight: float = 1.0) -> int:
    """Put a read adapter on the denoiser in place at `weight`; return how many layers took it.

    Raises `Corrupt` unless every pair found its layer and every layer its pair: an adapter that loads in part is a
    wrong picture.
    """
    inject(denoiser, adapter.shape, seed=0, name=name)
    taken = set()
    for path, layer in denoiser.named_modules():
        if not isinstance(layer, LoraLayer) or name not in layer.lora_A:
            continue
        halves = adapter.pairs.get(path)
        parts = (*halves, *((adapter.magnitudes[path],) if adapter.shape.dora else ())) if halves else ()
        targets = [layer.lora_A[name].weight, layer.lora_B[name].weight]
        if adapter.shape.dora:
            targets.append(layer.lora_magnitude_vector[name].weight)
        if [have.shape for have in parts] != [want.shape for want in targets]:
            raise Corrupt(
                f"the adapter does not fit layer {path}",
                reason="ADAPTER_MISMATCH",
                remedy="it was trained on another base",
            )
        for have, want in zip(parts, targets, strict=True):
            want.data.copy_(have)
            want.requires_grad_(False)
        taken.add(path)
    left = set(adapter.pairs) - taken
    if left or not taken:
        raise Corrupt(
            f"{len(taken)} of {len(adapter.pairs)} layers of the adapter were applied; not {sorted(left)[:3]}",
            reason="ADAPTER_MISMATCH",
            remedy="it was trained on another base",
        )
    set_weight(denoiser, weight, name=name)
    return len(taken)


def set_weight(denoiser: Any, weight: float, *, name: str = "default") -> None:
    """Set how strongly the adapter `name` acts: 1 as trained, 0 gives the base's output bit for bit."""
    for layer in _layers(denoiser, name):
        if name in layer.lora_magnitude_vector:
            dora.set_weight(layer, weight, name)
        else:
            layer.set_scale(name, weight)


def _config(shape: LowRank) -> LoraConfig:
    return LoraConfig(
        r=shape.rank,
        lora_alpha=shape.alpha,
        target_modules=list(shape.targets),
        exclude_modules=list(shape.left_out) or None,
        lora_dropout=shape.dropout,
        use_rslora=shape.rank_stabilised,
        use_dora=shape.dora,
        bias="none",
        **shape.patterns(),
    )
