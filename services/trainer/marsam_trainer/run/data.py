"""From samples to what a run trains on: pictures decoded, fitted and encoded once, captions likewise."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from marsam.catalog.files import tree_digest
from marsam.catalog.models import Model
from marsam.core.errors import Corrupt, Unavailable
from marsam.core.records import canonical
from marsam.diffusion import registry
from marsam.diffusion.buckets import Cut, Size
from marsam.diffusion.conditionings import join, trimmed
from marsam.diffusion.lanes.net import Lanes
from marsam.diffusion.precision import Precision
from marsam.diffusion.spec import Components, Conditioning, Family, Part
from marsam.diffusion.text import plain
from marsam_trainer.run.encoded import EncodedCache
from marsam_trainer.run.feed import TrainingSet
from marsam_trainer.run.samples import Sample

T = TypeVar("T")

TOLD = 16
"""Things that are encoded between two words on how far it is.

They go through an encoder one by one: what is kept of one must not depend, not even in its rounding, on what was absent
beside it, or a run killed while it encodes would end in other bits. It also takes the least memory.
"""


def encoder_digest(base: Model, part: Part) -> str:
    """The digest of the files of one of the base's encoders: what its outputs depend on."""
    facts = registry.family_facts(base.family)
    folders = facts.text_folders if part is Part.TEXT else facts.image_folders
    return tree_digest(file for file in base.files if file.path.split("/")[0] in folders)


@dataclass(kw_only=True)
class Encoder:
    """Encodes with the base's own encoders, which are loaded only when the cache lacks something, and can be let go."""

    family: Family
    base: Model
    source: Path
    cache: EncodedCache
    precision: Precision
    device: str
    lanes: Lanes
    loaded: dict[Part, Components] = field(default_factory=dict)

    def part(self, part: Part) -> Components:
        """The base with `part` loaded."""
        if part not in self.loaded:
            self.loaded[part] = self.family.load(
                self.source, parts=frozenset({part}), precision=self.precision, device=self.device
            )
        return self.loaded[part]

    def release(self, part: Part) -> None:
        """Let a part's memory go; it is loaded again on need."""
        self.loaded.pop(part, None)

    def texts(
        self, captions: Sequence[str], *, progress: Callable[[int, int], None] = lambda done, of: None
    ) -> Conditioning:
        """Conditioning of each caption, on the CPU, in the encoder's precision."""
        key = ("text", self.base.family, encoder_digest(self.base, Part.TEXT), self.precision, self._shapes())
        found: dict[str, Mapping[str, torch.Tensor]] = {}
        for caption in captions:
            entry = self.cache.get(*key, plain(caption))
            if entry is not None:
                found[caption] = entry
        absent = sorted(set(captions) - set(found))
        for done, some in _groups(absent, TOLD * self.lanes.count):
            progress(done, len(absent))
            encode = partial(self._caption, self.part(Part.TEXT))
            for caption, made in zip(some, self.lanes.map(encode, some), strict=True):
                self.cache.put(made, *key, plain(caption))
                found[caption] = made
        rows = [found[caption] for caption in captions]
        return join([Conditioning(row) for row in rows])

    def _caption(self, parts: Components, caption: str) -> Mapping[str, torch.Tensor]:
        """The conditioning of one caption, a batch of one, without what its mask leaves out."""
        with torch.no_grad():
            one = trimmed(self.family.encode_text(parts, [caption]).to("cpu"))
        return {name: value.clone() for name, value in one.tensors.items()}

    def _shapes(self) -> str:
        """What of a caption's encoding the encoders' files do not say: how long a base of the family reads it."""
        facts = registry.read_base_folder(self.base.family, self.source)
        return canonical({name: list(shape) for name, shape in facts.conditioning.items()}).decode()

    def latents(
        self,
        samples: Sequence[Sample],
        files: Mapping[str, Path],
        sizes: Sequence[Size],
        *,
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> list[torch.Tensor]:
        """Latents (C, h, w) of the samples' pictures, each cut to the nearest of `sizes`; `files` gives each image
        digest's local file.

        Raises `Corrupt` naming the picture when one cannot be read, or encodes to what is no number.
        """
        key = ("latent", self.base.family, encoder_digest(self.base, Part.IMAGE))
        found: dict[str, torch.Tensor] = {}
        absent: dict[Size, list[Sample]] = {}
        for sample in samples:
            cut = sample.cut(sizes)
            entry = self.cache.get(*key, cut.label(), sample.image.digest)
            if entry is None:
                absent.setdefault(cut.size, []).append(sample)
            else:
                found[sample.image.digest] = entry["latent"]
        done, missing = 0, sum(len(some) for some in absent.values())
        for some in (few for many in absent.values() for _, few in _groups(many, TOLD * self.lanes.count)):
            progress(done, missing)
            done += len(some)
            encode = partial(self._picture, self.part(Part.IMAGE), files, sizes)
            for sample, latent in zip(some, self.lanes.map(encode, some), strict=True):
                if not bool(torch.isfinite(latent).all()):
                    raise Corrupt(
                        f"{sample.file_name} (item {sample.item}) encodes to numbers that are not finite",
                        reason="LATENT_NOT_FINITE",
                        remedy="leave the picture out of the next version",
                    )
                self.cache.put({"latent": latent}, *key, sample.cut(sizes).label(), sample.image.digest)
                found[sample.image.digest] = latent
        return [found[sample.image.digest] for sample in samples]

    def _picture(
        self, parts: Components, files: Mapping[str, Path], sizes: Sequence[Size], sample: Sample
    ) -> torch.Tensor:
        """The latent (C, h, w) of one picture."""
        pixels = read_picture(files[sample.image.digest], sample.cut(sizes).size, name=sample.file_name)
        with torch.no_grad():
            return self.family.encode_image(parts, pixels.unsqueeze(0)).to("cpu", torch.float32)[0]

    def pixels(
        self, samples: Sequence[Sample], files: Mapping[str, Path], sizes: Sequence[Size]
    ) -> Callable[[int], torch.Tensor]:
        """The samples' pictures by row, each cut to the nearest of `sizes`: levels in the cache, read on need."""
        keys = [("pixels", sample.cut(sizes).label(), sample.image.digest) for sample in samples]
        for key, sample in zip(keys, samples, strict=True):
            if not self.cache.path(*key).is_file():
                read = read_picture(files[sample.image.digest], sample.cut(sizes).size, name=sample.file_name)
                self.cache.put({"levels": ((read + 1.0) * 127.5).round().to(torch.uint8)}, *key)

        def picture(row: int) -> torch.Tensor:
            entry = self.cache.get(*keys[row])
            if entry is None:
                raise Unavailable(
                    f"{samples[row].file_name} is no longer among what was prepared for the run",
                    reason="PICTURE_GONE",
                    remedy="resume the run; if the cache's disk is full, give it room",
                )
            return entry["levels"].float() / 127.5 - 1.0

        return picture

    def training_set(
        self,
        samples: Sequence[Sample],
        files: Mapping[str, Path],
        sizes: Sequence[Size],
        *,
        words: bool = False,
        pixels: bool = False,
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> TrainingSet:
        """Everything a run trains on, each picture at the nearest of `sizes`. Row 0 of the texts is the empty caption.
        With `words` captions stay such: the text encoders are to train. With `pixels` pictures are kept beside their
        latents: the image decoder is."""
        latents = self.latents(samples, files, sizes, progress=progress)
        wordings = ["", *sorted({caption for sample in samples for caption in sample.captions} - {""})]
        place = {caption: row for row, caption in enumerate(wordings)}
        return TrainingSet(
            keys=tuple(sample.key for sample in samples),
            latents=latents,
            texts=Conditioning() if words else self.texts(wordings, progress=progress),
            wordings=tuple(wordings) if words else (),
            captions=tuple(tuple(place[caption] for caption in sample.captions) for sample in samples),
            frames=torch.tensor([sample.cut(sizes).frame for sample in samples], dtype=torch.float32),
            pixels=self.pixels(samples, files, sizes) if pixels else None,
        )


def read_picture(path: Path, size: Size, *, name: str) -> torch.Tensor:
    """A picture as (3, height, width) float32 in [-1, 1]: scaled until it covers `size`, then cropped at the centre."""
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise Corrupt(f"{name} cannot be decoded: {error}", reason="PICTURE_UNREADABLE") from error
    scaled = picture.resize(size, Image.Resampling.LANCZOS, box=Cut(picture.size, size).box)
    return torch.from_numpy(np.asarray(scaled, dtype=np.float32).copy()).permute(2, 0, 1) / 127.5 - 1.0


def _groups(things: Sequence[T], size: int) -> Iterator[tuple[int, Sequence[T]]]:
    """(how many came before, the next at most `size`) until all are gone."""
    for start in range(0, len(things), size):
        yield start, things[start : start + size]
