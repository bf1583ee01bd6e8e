"""The memory and the arithmetic of a run, stage by stage, from the shapes of a base's parts on torch's meta device.

Nothing is allocated. What stands (weights, gradients, the optimiser's moments) is counted by formula, exactly; what
comes and goes is traced (`tracing`). A stage holds what it holds while the others do not, so a run needs the largest of
them and not their sum. A device's own terms end up in `terms`; what a GPU's run keeps in the host's memory beside it,
in `host`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from marsam.catalog.runs import RunSpec
from marsam.diffusion.method import Method
from marsam.diffusion.spec import BaseFacts, Family
from marsam_trainer.run.held import Held
from marsam_trainer.run.shapes import encoded_bytes
from marsam_trainer.run.stages import Amount, Footprint, Stage


def footprint(
    family: Family,
    method: Method,
    params: Mapping[str, Any],
    source: Path,
    facts: BaseFacts,
    spec: RunSpec,
    amount: Amount,
    *,
    device: str,
) -> Footprint:
    """What a run of `spec` takes on `device` ("cpu" or "cuda:N"). `source` need hold no more than the base's JSON
    files.

    Raises Unsupported when the denoiser cannot do what the spec asks for.
    """
    parts = Held(family, method, params, source, facts, spec, amount)
    data = encoded_bytes(facts, spec, amount)
    on_cpu = device == "cpu"
    encoded = {"encoded data": data}
    beside, host = (encoded, {}) if on_cpu else ({}, encoded)
    held, shared = parts.standing(), parts.shared()
    coder = {} if parts.decodes else {"image coder": parts.coder_bytes}
    # Once it has drawn, a run keeps the decoder for the next preview.
    drawn = coder if spec.preview else {}
    train, flops = parts.train()
    if shared > 1:
        # A rank's own part of all that stands, and the blocks that are whole while they compute.
        held = {term: -(-size // shared) for term, size in held.items()} | {"blocks put together": parts.blocks()}
        train["gradients"] = -(-train["gradients"] // shared)
    preview, drawing = parts.preview()
    best = -(-4 * sum(parts.sizes) // shared) if spec.publish != "last" else 0
    saved = held["trainable weights"] + held["moving average"] + held["optimiser"] + best
    # A checkpoint is written beside the steps from a copy of the state, which the writer copies once more.
    kept = 2 * saved if spec.saves else 0
    # They wait on the CPU's side.
    waiting = {"best weights": best, "checkpoint on its way": kept}
    later, aside = ({**beside, **waiting}, {}) if on_cpu else (beside, {**host, **waiting})
    # While the average is in their place, the trained values are kept beside it.
    averaged = {"weights put aside": held["moving average"]} if spec.ema_decay else {}
    stages = (
        *parts.encoding(beside, host),
        Stage(name="train", terms={**held, **train, **drawn, **later}, flops=flops * spec.steps, aside=aside),
        Stage(
            name="preview",
            terms={**held, **averaged, **coder, "activations": preview, **later},
            flops=drawing,
            aside=aside,
        ),
        *parts.validation({**held, **averaged, **drawn, **later}, aside=aside),
        Stage(name="save", terms={**held, **drawn, **later}, aside=aside),
    )
    return Footprint(stages=stages, trainable=sum(parts.sizes), share=sum(parts.quantised) / parts.every)
