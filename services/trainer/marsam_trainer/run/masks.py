"""Where pictures count: from a mask to what the error in each latent cell weighs.

    m = the mask's mean over the cell, cut as the picture is; 1 counts
    w = floor + (1 - floor) · m
    loss of a picture = Σ w · error² / Σ w, over all cells

So outside of the mask a cell weighs `floor` beside one inside, and a picture counts as much as one without a mask,
however little of it does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from marsam.core.errors import Corrupt
from marsam.diffusion.buckets import Cut, Size
from marsam_trainer.run.encoded import EncodedCache
from marsam_trainer.run.feed import TrainingSet
from marsam_trainer.run.samples import Sample
from marsam_trainer.run.work import Work


def read_mask(path: Path, cut: Cut, cells: Size, *, name: str) -> torch.Tensor:
    """(h, w) float32 in [0, 1]: what counts of each cell of a picture that is cut so; `cells` are (w, h)."""
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            mask = opened.convert("L").convert("F")
    except (OSError, ValueError, SyntaxError) as error:
        raise Corrupt(f"the mask of {name} cannot be decoded: {error}", reason="MASK_UNREADABLE") from error
    if mask.size != cut.picture:
        raise Corrupt(f"the mask of {name} is of another size: {mask.size}, not {cut.picture}", reason="MASK_SIZE")
    # A box filter is the area's mean.
    shares = np.asarray(mask.resize(cells, Image.Resampling.BOX, box=cut.box), dtype=np.float32) / 255.0
    return torch.from_numpy(shares.copy()).clamp_(0.0, 1.0)


def weights(mask: torch.Tensor, floor: float) -> torch.Tensor:
    """What the cells of a picture weigh, 1 on average; all 0 where nothing is left to weigh."""
    found = floor + (1.0 - floor) * mask
    mean = found.mean()
    return found / mean if bool(mean > 0) else found


def lay_over(
    work: Work,
    found: TrainingSet,
    samples: Sequence[Sample],
    files: Mapping[str, Path],
    sizes: Sequence[Size],
    cache: EncodedCache,
) -> TrainingSet:
    """`found`, encoded from `samples`, with what its cells weigh. `files` gives each mask digest's local file.

    Names in the run's log those pictures of which the mask leaves nothing.
    """
    cells = {}
    for row, sample in enumerate(samples):
        if sample.mask is None:
            continue
        cut, (_, height, width) = sample.cut(sizes), found.shape(row)
        key = ("mask", cut.label(), f"{width}x{height}", sample.mask.digest)
        entry = cache.get(*key)
        if entry is None:
            entry = {"mask": read_mask(files[sample.mask.digest], cut, (width, height), name=sample.file_name)}
            cache.put(entry, *key)
        if not bool(entry["mask"].any()):
            floor = work.spec.masked_loss_floor
            taught = "it counts as one without a mask" if floor else "it teaches nothing"
            message = f"the mask of {sample.file_name} leaves nothing of what is trained on: {taught}"
            work.reporter.event("log", level="warning", message=message)
        cells[row] = weights(entry["mask"], work.spec.masked_loss_floor)
    return replace(found, cells=cells)
