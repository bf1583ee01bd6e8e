"""What a model in memory is, and what it takes."""

import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

from marsam.catalog.models import Model
from marsam.diffusion import registry
from marsam.diffusion.spec import Components, Part
from marsam.diffusion.weights.net import bytes_at_rest
from marsam_generator.engine.engine import Engine


@dataclass(eq=False, kw_only=True)
class Resident:
    """One model in memory, `size` in bytes.

    `pins` counts who draws with it, `kept` is the wish that it stays.
    """

    model: Model
    size: int
    engine: Engine
    drop: Callable[[], Awaitable[None]]
    pins: int = 0
    kept: bool = False
    uses: int = 0
    used_at: float = field(default_factory=time.monotonic)


def size_of(parts: Components) -> int:
    """Bytes of the networks that are loaded."""
    held = (parts.denoiser, *parts.text.values(), parts.image_coder)
    return sum(bytes_at_rest(part) for part in held if hasattr(part, "parameters"))


def parts_of_its_own(model: Model, root: Model) -> frozenset[Part]:
    """Which parts of a tuned model are not its root's: the denoiser always, text encoders and image coder where their
    files differ."""
    facts = registry.family_facts(model.family)
    folders = {Part.TEXT: tuple(facts.encoders), Part.IMAGE: facts.image_folders}
    others = (part for part, some in folders.items() if _files(model, some) != _files(root, some))
    return frozenset({Part.DENOISER, *others})


def _files(model: Model, folders: Collection[str]) -> dict[str, str]:
    return {file.path: file.digest for file in model.files if file.path.split("/")[0] in folders}
