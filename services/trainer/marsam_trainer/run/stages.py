"""What the stages of a run take."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a run: bytes by term, those that are in the host's memory beside a GPU's apart in `aside`,
    arithmetic operations."""

    name: str
    terms: Mapping[str, int]
    flops: float = 0.0
    aside: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes at its largest moment."""
        return sum(self.terms.values())

    @property
    def host(self) -> int:
        """Bytes in the host's memory beside a GPU's."""
        return sum(self.aside.values())


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

    @property
    def fullest(self) -> Stage:
        """The stage that needs most of the host's memory beside a GPU's."""
        return max(self.stages, key=lambda stage: stage.host)

    def on_one_host(self, count: int, *, once: Collection[str]) -> "Footprint":
        """Of `count` processes alike that share one host: its memory holds everything so often, but for the terms
        `once`. GPUs are each process' own."""

        def all_of(terms: Mapping[str, int]) -> dict[str, int]:
            return {term: size if term in once else count * size for term, size in terms.items()}

        if any(stage.aside for stage in self.stages):
            stages = tuple(replace(stage, aside=all_of(stage.aside)) for stage in self.stages)
        else:
            stages = tuple(replace(stage, terms=all_of(stage.terms)) for stage in self.stages)
        return replace(self, stages=stages)

    def beside_gpus(self, term: str, size: int) -> "Footprint":
        """The same with `size` more bytes in the host's memory in every stage."""
        return replace(self, stages=tuple(replace(stage, aside={**stage.aside, term: size}) for stage in self.stages))

    def beside(self, term: str, size: int) -> "Footprint":
        """The same with `size` more bytes in every stage."""
        stages = tuple(replace(stage, terms={**stage.terms, term: size}) for stage in self.stages)
        return replace(self, stages=stages)


def spread(count: int, lanes: int, most: int) -> tuple[int, int]:
    """(lanes at work, rows of each at once) of `count` things, at most `most` at once."""
    used = max(1, min(lanes, count))
    return used, max(1, min(most, -(-count // used)))
