"""To which size each picture is brought for training, and how it is cut. Standard library only.

Sizes are (width, height) in pixels. With aspect buckets a picture goes to the size whose aspect is nearest to its own;
all of them have about the area of the square, never more, so a batch of any of them fits where one of squares does.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from marsam.diffusion.spec import BaseFacts, FamilyFacts

Size = tuple[int, int]

MOST_ASPECT = 4
"""Longer side over shorter one of the longest size: as far as SDXL's makers went (arXiv 2307.01952, appendix I)."""

LEAST_AREA = 0.75
"""A size's share of the square's area at least, which sides in coarse steps would else fall below."""

CUT_BOUND = 0.15
"""Share of a picture that may be cut away without a word."""

ENLARGED_BOUND = 1.5
"""How far a picture may be enlarged without a word. Beyond, what is learnt is partly the blur."""


def of(family: "FamilyFacts", facts: "BaseFacts", resolution: int, *, bucketed: bool) -> tuple[Size, ...]:
    """The sizes that pictures may become: the square alone, or with `bucketed` all that the base can draw."""
    if not bucketed:
        return ((resolution, resolution),)
    return sizes(resolution, facts.side_multiple, smallest=family.min_side, largest=family.max_side)


def sizes(resolution: int, multiple: int, *, smallest: int, largest: int) -> tuple[Size, ...]:
    """The square of side `resolution`, and all sizes of about its area: sides are multiples of `multiple` between
    `smallest` and `largest`, for each shorter side the longest that the area allows, and the same upright."""
    area = resolution * resolution
    low = -(-smallest // multiple) * multiple
    found = {(resolution, resolution)}
    for one in range(low, largest + 1, multiple):
        other = min(largest, area // one) // multiple * multiple
        if other < low or one * other < LEAST_AREA * area or max(one, other) > MOST_ASPECT * min(one, other):
            continue
        found |= {(one, other), (other, one)}
    return tuple(sorted(found))


def nearest(width: int, height: int, among: Sequence[Size]) -> Size:
    """The size with the aspect nearest to the picture's, as a ratio; of two the larger one, then the one less long."""
    aspect = _aspect((width, height))
    return min(among, key=lambda size: (abs(aspect - _aspect(size)), -size[0] * size[1], abs(_aspect(size))))


def _aspect(size: Size) -> float:
    # A difference of logarithms, so that a picture and the same one upright are equally far from everything.
    return math.log(size[0]) - math.log(size[1])


@dataclass(frozen=True, slots=True)
class Cut:
    """How a picture of one size becomes one of another: scaled until it covers it, and cut at the centre."""

    picture: Size
    size: Size

    @property
    def box(self) -> tuple[float, float, float, float]:
        """What is left of the picture, in its own pixels: left, top, right, bottom."""
        (width, height), (across, down) = self.picture, self.size
        wide, tall = min(width, height * across / down), min(height, width * down / across)
        left, top = (width - wide) / 2, (height - tall) / 2
        return left, top, left + wide, top + tall

    @property
    def frame(self) -> tuple[int, int, int, int, int, int]:
        """Height and width of the picture, top and left of the cut, its height and width. Top and left are pixels of
        the scaled picture, as diffusers' SDXL training script counts them."""
        (width, height), (across, down) = self.picture, self.size
        if across * height >= down * width:
            scaled = across, across * height // width
        else:
            scaled = down * width // height, down
        return height, width, round((scaled[1] - down) / 2), round((scaled[0] - across) / 2), down, across

    @property
    def lost(self) -> float:
        """The share of the picture that is cut away."""
        left, top, right, bottom = self.box
        return 1.0 - (right - left) * (bottom - top) / (self.picture[0] * self.picture[1])

    @property
    def enlarged(self) -> float:
        """How many times longer its sides become; below 1 it is made smaller."""
        return max(self.size[0] / self.picture[0], self.size[1] / self.picture[1])

    def label(self) -> str:
        """The same in a word, for keys: two cuts with one label give the same pixels of the same picture."""
        return f"{','.join(f'{edge:g}' for edge in self.box)}>{self.size[0]}x{self.size[1]}"


def cut(width: int, height: int, among: Sequence[Size]) -> Cut:
    """How a picture becomes the nearest of some sizes."""
    return Cut((width, height), nearest(width, height, among))


class Picture(NamedTuple):
    """A picture that is to be cut, by its name."""

    name: str
    cut: Cut


class Remark(NamedTuple):
    """Something worth knowing of how pictures are cut, and what can be done."""

    reason: str
    message: str
    remedy: str


def counts(pictures: Sequence[Picture]) -> dict[Size, int]:
    """How many pictures each size has, those with most first."""
    found = Counter(picture.cut.size for picture in pictures)
    return dict(sorted(found.items(), key=lambda entry: (-entry[1], entry[0])))


def dealt(count: int, batch_size: int) -> list[int]:
    """How many of `count` pictures of one size each batch of an epoch has: as few batches as hold them, as even as can
    be."""
    batches = -(-count // batch_size)
    return [count * (i + 1) // batches - count * i // batches for i in range(batches)]


def summary(pictures: Sequence[Picture], *, batch_size: int) -> str:
    """Sizes with their pictures, how much is cut away at most, and the steps of an epoch, in one line."""
    by_size = counts(pictures)
    found = ", ".join(f"{width}×{height}: {count}" for (width, height), count in by_size.items())
    most = max(picture.cut.lost for picture in pictures)
    steps = [rows for count in by_size.values() for rows in dealt(count, batch_size)]
    fewer = sum(rows < batch_size for rows in steps)
    return (
        f"pictures by size: {found}; at most {most:.0%} of one is cut away; an epoch is {len(steps)} steps, "
        f"{fewer} of them of fewer than {batch_size} pictures"
    )


def remarks(pictures: Sequence[Picture], *, smallest: int, bucketed: bool, most: int) -> list[Remark]:
    """The pictures, up to `most` by name, of which more than a bound is cut away, and those that are enlarged more than
    a bound or have a side below `smallest`. All are used."""
    lossy = sorted((one for one in pictures if _loses(one.cut)), key=lambda one: -one.cut.lost)
    small = sorted((one for one in pictures if _grows(one.cut, smallest)), key=lambda one: -one.cut.enlarged)
    found = []
    if lossy:
        named = [f"{one.name} ({_size(one.cut.picture)}) loses {one.cut.lost:.0%}" for one in lossy[:most]]
        found.append(
            Remark(
                "PICTURES_CUT",
                f"more than {CUT_BOUND:.0%} is cut away of {_number(lossy)}, or the picture is longer than "
                f"{MOST_ASPECT}:1: {_list(named, len(lossy))}",
                "crop them yourself to what matters" if bucketed else "set aspect_buckets, or crop them yourself",
            )
        )
    if small:
        named = [f"{one.name} ({_size(one.cut.picture)}) {one.cut.enlarged:.1f} times" for one in small[:most]]
        found.append(
            Remark(
                "PICTURES_ENLARGED",
                f"{_number(small)} are smaller than what is trained on and are enlarged: {_list(named, len(small))}",
                "lower the resolution, or leave them out",
            )
        )
    return found


def _loses(cut: Cut) -> bool:
    return cut.lost > CUT_BOUND or max(cut.picture) > MOST_ASPECT * min(cut.picture)


def _grows(cut: Cut, smallest: int) -> bool:
    return cut.enlarged > ENLARGED_BOUND or min(cut.picture) < smallest


def _size(size: Size) -> str:
    return f"{size[0]}×{size[1]}"


def _number(pictures: Sequence[Picture]) -> str:
    return "1 picture" if len(pictures) == 1 else f"{len(pictures)} pictures"


def _list(named: Sequence[str], count: int) -> str:
    rest = count - len(named)
    return ", ".join(named) + (f" and {rest} more" if rest else "")
