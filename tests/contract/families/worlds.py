"""A program for torchrun: what two ranks make of a step, for every way to hold a model, written down for a test.

`python -m torch.distributed.run … -m tests.contract.families.worlds BASES OUT`, where BASES has a tiny base by family.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from marsam_trainer.run.holding import Shards, Whole
from marsam_trainer.run.ranks import joined
from marsam_trainer.run.recompute import checkpoint_blocks
from safetensors.torch import save_file

from marsam.diffusion.precision import Precision
from marsam.diffusion.weights.net import quieten
from tests.contract.families import rig as rigs

STEPS = 4
BATCH, ACCUMULATE = 5, 3
"""Parts of 1, 2 and 2 rows: two ranks cannot share the first."""


class Case(NamedTuple):
    """One way to train a tiny base."""

    family: str
    method: str
    sharding: str
    precision: Precision = Precision.FP32
    again: bool = False
    dora: bool = False

    @property
    def name(self) -> str:
        more = ("again" if self.again else "kept", *(("dora",) if self.dora else ()))
        return "-".join((self.family, self.method, self.sharding, self.precision, *more))


CASES = (
    *(
        Case(family, method, sharding)
        for family in ("sd1", "z_image")
        for method in ("lora", "qlora", "full")
        for sharding in ("replicated", "sharded")
    ),
    *(Case("z_image", "full", sharding, Precision.BF16) for sharding in ("replicated", "sharded")),
    *(Case("z_image", method, "sharded", again=True) for method in ("qlora", "full")),
    *(Case("sd1", "lora", sharding, dora=True) for sharding in ("replicated", "sharded")),
    *(Case("z_image", "qlora", sharding, dora=True) for sharding in ("replicated", "sharded")),
)


def loop_of(case: Case, source: Path, world: Any = None) -> Any:
    """The loop of a case; of one process without a world."""
    params = {"dora": True} if case.dora else {}
    rig = rigs.load(source, case.family, case.method, params=params, precision=case.precision)
    if case.again:
        checkpoint_blocks(rig.denoiser)
    holding: Any = None
    if world is not None and case.sharding == "sharded":
        holding = Shards(world, rig.denoiser, rig.trained, device="cpu", precision=case.precision)
    elif world is not None:
        holding = Whole(world, rig.trained)
    return rigs.loop(rig, steps=STEPS, rate=1e-3, batch=BATCH, holding=holding, accumulate=ACCUMULATE, ema_decay=0.9)


def taken(loop: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The gradients of the first step as they lie on this rank, and what all steps came to."""
    loop.parts.denoiser.train()
    loop._gradients(loop.feed.batch(0))
    gradients = {name: value.grad.detach().clone().contiguous() for name, value in loop.trained.items()}
    norms = []
    while not loop.done:
        loop.step()
        norms.append(loop.norm)
    held_out = loop.validate([loop.feed.batch(100)], stopping=lambda: False)
    return gradients, {"losses": loop.position.losses, "norms": norms, "held_out": held_out}


def main(bases: Path, out: Path) -> None:
    quieten()
    torch.set_num_threads(1)
    with joined(2, device="cpu") as world:
        for case in CASES:
            gradients, numbers = taken(loop_of(case, bases / case.family, world))
            save_file(gradients, out / f"{case.name}-{world.rank}.safetensors")
            (out / f"{case.name}-{world.rank}.json").write_text(json.dumps(numbers))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)  # as the run program leaves
