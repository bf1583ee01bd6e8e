"""How a run's pictures are cut, told before it trains and recorded with what it publishes."""

from collections.abc import Sequence

from marsam.diffusion import buckets, registry
from marsam.diffusion.buckets import Picture, Size
from marsam.diffusion.spec import BaseFacts
from marsam_trainer.run.samples import Sample
from marsam_trainer.run.work import Work

NAMED = 200
"""Pictures that the run's log names of each kind, the worst first."""


def sizes(work: Work, facts: BaseFacts) -> tuple[Size, ...]:
    """What the run's pictures may become."""
    family = registry.family_facts(facts.family)
    return buckets.of(family, facts, work.spec.resolution, bucketed=work.spec.aspect_buckets)


def tell(work: Work, samples: Sequence[Sample], among: Sequence[Size], *, of: str = "") -> None:
    """Say in the run's log how pictures are cut, and name those that lose much or are enlarged. `of` says which
    pictures, where there are others."""
    if not samples:
        return
    pictures = _pictures(samples, among)
    smallest = registry.family_facts(work.base.family).min_side
    which = f"{of}: " if of else ""
    if work.spec.aspect_buckets:
        summary = buckets.summary(pictures, batch_size=work.spec.step_size)
        work.reporter.event("log", level="info", message=f"{which}{summary}")
    for remark in buckets.remarks(pictures, smallest=smallest, bucketed=work.spec.aspect_buckets, most=NAMED):
        work.reporter.event("log", level="warning", message=f"{which}{remark.message}; {remark.remedy}")


def numbers(work: Work, samples: Sequence[Sample], among: Sequence[Size]) -> dict[str, float]:
    """The same for the model's metrics: the largest share cut away, and with buckets the pictures of each."""
    pictures = _pictures(samples, among)
    found = {"masked_samples": float(sum(sample.mask is not None for sample in samples))}
    found = found if work.spec.masked_loss else {}
    found |= {"cut_away_most": max(picture.cut.lost for picture in pictures)}
    if work.spec.aspect_buckets:
        found |= {
            f"bucket_{width}x{height}": float(count) for (width, height), count in buckets.counts(pictures).items()
        }
    return found


def _pictures(samples: Sequence[Sample], among: Sequence[Size]) -> list[Picture]:
    return [Picture(sample.file_name, sample.cut(among)) for sample in samples]
