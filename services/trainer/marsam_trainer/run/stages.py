"""What the stages of a run take."""

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a run: bytes by term, bytes in the host's memory beside a GPU's, arithmetic operations."""

    name: str
    terms: Mapping[str, int]
    flops: float = 0.0
    host: int = 0

    @property
    def total(self) -> int:
        """Bytes at its largest moment."""
        return sum(self.terms.values())


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much a run has to go through: pictures, of which so many are held out, different captions, and how many it
    does side by side (`lanes`)."""

    pictures: int
    captions: int
    lanes: int
    held_out: int = 0


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """A run's stages in their order; parameters that train; the share of the denoiser's that is quantised."""

    stages: tuple[Stage, ...]
    trainable: int
    share: float

    @property
    def peak(self) -> Stage:
        """The stage that needs most."""
        return max(self.stages, key=lambda stage: stage.total)

    def beside(self, term: str, size: int) -> "Footprint":
        """The same with `size` more bytes in every stage."""
        stages = tuple(replace(stage, terms={**stage.terms, term: size}) for stage in self.stages)
        return replace(self, stages=stages)


def spread(count: int, lanes: int, most: int) -> tuple[int, int]:
    """(lanes at work, rows of each at once) of `count` things, at most `most` at once."""
    used = max(1, min(lanes, count))
    return used, max(1, min(most, -(-count // used)))
