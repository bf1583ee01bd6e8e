"""What a model in memory is, and what it takes."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from marsam.catalog.models import Model
from marsam.diffusion import registry
from marsam.diffusion.spec import Components
from marsam.diffusion.weights.net import bytes_at_rest
from marsam_generator.engine.engine import Engine


@dataclass(eq=False, kw_only=True)
class Resident:
    """One model in memory, `size` in bytes; of an adapter its own tensors, of which the bank's stack may hold more."""

    model: Model
    size: int
    engine: Engine
    drop: Callable[[], Awaitable[None]]
    pins: int = 0
    uses: int = 0
    used_at: float = field(default_factory=time.monotonic)


def size_of(parts: Components) -> int:
    """Bytes of the networks that are loaded."""
    held = (parts.denoiser, *parts.text.values(), parts.image_coder)
    return sum(bytes_at_rest(part) for part in held if hasattr(part, "parameters"))


def reads_otherwise(model: Model, root: Model) -> bool:
    """Whether a tuned model has text encoders of its own."""
    folders = registry.family_facts(model.family).encoders
    ours, theirs = (
        {file.path: file.digest for file in one.files if file.path.split("/")[0] in folders} for one in (model, root)
    )
    return ours != theirs
