"""A run's pictures and masks: fetched from the store, and encoded."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from marsam.catalog.files import FileRef
from marsam.core.ids import digest_hex
from marsam.diffusion.buckets import Size
from marsam.store.cache import Cache
from marsam_trainer.run import masks
from marsam_trainer.run.data import Encoder
from marsam_trainer.run.feed import TrainingSet
from marsam_trainer.run.samples import Sample
from marsam_trainer.run.work import Work

NAMED = 10
"""Pictures that a warning names; the others are counted."""


def tell_wordless(work: Work, samples: Sequence[Sample]) -> None:
    """Name the pictures that are learnt without a caption, which are seldom meant to be."""
    names = [sample.file_name for sample in samples if not sample.captions]
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        told = f"{len(names)} of {len(samples)} pictures have no caption that the run may use, and are learnt without"
        work.reporter.event("log", level="warning", message=f"{told}: {', '.join(names[:NAMED])}{more}")


def tell_unasked(work: Work, held_out: int, asked: int) -> None:
    """Say that not all pictures held out are asked for."""
    if asked < held_out:
        message = f"{asked} of {held_out} pictures held out are asked for their loss, the same ones each time"
        work.reporter.event("log", level="info", message=message)


def encode(
    work: Work,
    encoder: Encoder,
    cache: Cache,
    folder: Path,
    sizes: Sequence[Size],
    samples: Sequence[Sample],
    *,
    words: bool,
    pixels: bool,
) -> TrainingSet:
    """Every picture and caption of `samples`, encoded at the nearest of `sizes`, but for captions with `words`;
    with `pixels` pictures are kept as they are too. From the cache where it was before; `folder` holds the files
    meanwhile."""
    files: dict[str, Path] = {}
    for done, sample in enumerate(samples):
        work.caching(done, len(samples))
        for file in _files(work, sample):
            if file.digest not in files:
                place = FileRef(path=digest_hex(file.digest), digest=file.digest, size=file.size)
                laid = work.bridge.call(cache.lay_out(work.jobs.blobs, work.spec.project, [place], folder))
                files[file.digest] = laid / place.path
    try:
        found = encoder.training_set(samples, files, sizes, words=words, pixels=pixels, progress=work.caching)
        return masks.lay_over(work, found, samples, files, sizes, encoder.cache) if work.spec.masked_loss else found
    finally:
        shutil.rmtree(folder)


def _files(work: Work, sample: Sample) -> Iterator[FileRef]:
    yield sample.image
    if work.spec.masked_loss and sample.mask is not None:
        yield sample.mask
