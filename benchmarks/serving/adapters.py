"""Many adapters in one batch, another one in the next, and one more in memory: the bank against PEFT's own layers."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from marsam_generator.engine.bank import AdapterBank
from marsam_generator.engine.mix import Mix
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

from benchmarks.rows import Row, median
from benchmarks.serving.base import RANK, as_diffusers, given, inputs, take, write_adapter
from marsam.diffusion.adapter import net as adapter_net

EIGHT = 8
RESIDENT = 50
ROUNDS = 7
CALLS = 8
MIB = 6.0
HOT_RANK = 40
THEIRS = "theirs.safetensors"
COST_BARS = {8: (1.45, 1.5), 16: (1.3, 1.15)}
"""By the latent's side: what eight adapters may cost over none, and how much faster than PEFT's mixed batch."""


def cpu(work: Callable[[], object], *, calls: int = CALLS) -> float:
    """Seconds of processor time of a call on this thread."""
    began = time.thread_time()
    for _ in range(calls):
        work()
    return (time.thread_time() - began) / calls


def in_turn(works: Mapping[str, Callable[[], object]], *, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of each by round, each round in another order; a round that warms up is not among them."""
    found: dict[str, list[float]] = {name: [] for name in works}
    names = list(works)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds = cpu(works[name])
            if turn:
                found[name].append(seconds)
    return found


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Round by round."""
    return [one / other for one, other in zip(over, under, strict=True)]


def mixed(folder: Path) -> list[Row]:
    """Eight rows, each with an adapter of its own, against eight of the base and PEFT's mixed batch."""
    names = [f"adapter {number}" for number in range(EIGHT)]
    got = given(folder, {name: number for number, name in enumerate(names)})
    bank = AdapterBank(got.denoiser)
    for name, adapter in got.read().items():
        bank.install(bank.prepare(name, adapter))
    theirs = got.bare()
    for name, path in got.adapters.items():
        take(theirs, path, name)
    for layer in theirs.modules():
        if isinstance(layer, LoraLayer):
            layer.register_forward_pre_hook(
                lambda _, args, kwargs: (args, {**kwargs, "adapter_names": names}), with_kwargs=True
            )
    nets = {"base": got.bare(), "bank": got.denoiser, "peft": theirs}
    return [row for side in COST_BARS for row in _mixed(nets, bank, names, side)]


def _mixed(nets: Mapping[str, Any], bank: AdapterBank, names: Sequence[str], side: int) -> list[Row]:
    noisy, times, text = inputs(side, rows=EIGHT)
    each = [{name: 1.0} for name in names]

    def forward(net: str, uses: Sequence[Mapping[str, float]] | None = None) -> torch.Tensor:
        with torch.inference_mode(), nullcontext() if uses is None else bank.rows(uses):
            said: torch.Tensor = nets[net](noisy, times, encoder_hidden_states=text, return_dict=False)[0]
            return said

    off = float((forward("bank", each) - forward("peft")).abs().max())
    assert off <= 1e-4, f"the bank and PEFT differ by {off:.3g}"
    taken = in_turn(
        {
            "base": lambda: forward("base"),
            "one": lambda: forward("bank", [each[0]] * EIGHT),
            "bank": lambda: forward("bank", each),
            "peft": lambda: forward("peft"),
        }
    )
    over_base, over_peft = COST_BARS[side]
    what = f"{side}²: batch of {EIGHT}, {EIGHT} adapters of rank {RANK}"
    return [
        median(f"{side}²: batch of {EIGHT}, no adapter", [1000 * one for one in taken["base"]], "ms"),
        median(f"{side}²: one adapter for all, of no adapter", ratios(taken["one"], taken["base"]), "×"),
        median(f"{what}, of no adapter", ratios(taken["bank"], taken["base"]), "×", at_most=over_base),
        median(f"{what}, times as fast as PEFT", ratios(taken["peft"], taken["bank"]), "×", at_least=over_peft),
    ]


def switching(folder: Path) -> list[Row]:
    """Another adapter for the next forward, fifty in memory: what the bank does before one, against `set_adapters`."""
    names = [f"adapter {number}" for number in range(RESIDENT)]
    got = given(folder, {}, rank=4)
    path = write_adapter(folder / "one", got.folder, seed=1, rank=4)
    bank, read = AdapterBank(got.denoiser), adapter_net.read(path)
    pipe = got.pipeline()
    for name in names:
        bank.install(bank.prepare(name, read))
        take(pipe.unet, path, name)
    ranks = dict.fromkeys(names, 4)
    like = torch.empty(0)
    turn = iter(range(1_000_000))

    def ours() -> None:
        # What a forward of eight rows does once for the adapters that its rows ask for; layers then look it up.
        uses = [{names[next(turn) % RESIDENT]: 0.8}] * EIGHT
        for use in uses:
            bank.check(use)
        mix = Mix(uses, apart=False, like=like)
        for convolution in (False, True):
            mix.batches(ranks, convolution=convolution)

    taken = in_turn({"ours": ours, "theirs": lambda: pipe.set_adapters([names[next(turn) % RESIDENT]], [0.8])})
    return [
        median("switch, ours", [1e6 * one for one in taken["ours"]], "µs"),
        median(f"switch, set_adapters, {RESIDENT} in memory", [1000 * one for one in taken["theirs"]], "ms"),
        median("switch, times as fast", ratios(taken["theirs"], taken["ours"]), "×", at_least=100.0),
    ]


def hot(folder: Path) -> list[Row]:
    """From a file in the cache until the next forward may use it, against `load_lora_weights`."""
    got = given(folder, {}, rank=4)
    path = write_adapter(folder / "hot", got.folder, seed=1, rank=HOT_RANK)
    save_file(as_diffusers(path, prefix="unet."), folder / THEIRS)
    size = (path / adapter_net.WEIGHTS).stat().st_size / (1 << 20)
    assert size >= MIB, f"the adapter has only {size:.1f} MiB"
    bank, pipe = AdapterBank(got.denoiser), got.pipeline()
    seen: dict[str, list[float]] = {"ours": [], "theirs": [], "pause": []}
    for turn in range(ROUNDS + 1):
        began = time.thread_time()
        prepared = bank.prepare("hot", adapter_net.read(path))
        pausing = time.thread_time()
        bank.install(prepared)
        ended = time.thread_time()
        bank.evict("hot")
        theirs = cpu(lambda: pipe.load_lora_weights(folder, weight_name=THEIRS, adapter_name="hot"), calls=1)
        pipe.delete_adapters("hot")
        if turn:
            seen["ours"].append(ended - began)
            seen["pause"].append(ended - pausing)
            seen["theirs"].append(theirs)
    return [
        median(f"hot load of {size:.1f} MiB, ours", [1000 * one for one in seen["ours"]], "ms"),
        Row(name="of that between two ticks", value=1000 * statistics.median(seen["pause"]), unit="ms"),
        median("hot load, load_lora_weights", [1000 * one for one in seen["theirs"]], "ms"),
        median("hot load, times as fast", ratios(seen["theirs"], seen["ours"]), "×", at_least=5.0),
    ]
