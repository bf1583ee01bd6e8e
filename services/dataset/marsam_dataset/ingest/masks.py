"""Pictures that say where other pictures count: `cat-masklabel.png` or `cat.mask.png` beside `cat.jpg`; without them,
what of a picture is opaque."""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from marsam.catalog.datasets import Finding, Mask
from marsam.catalog.files import FileRef
from marsam.catalog.imports import Received
from marsam.imaging.pool import Decoded, DecodePool, Rejected
from marsam.store.blobs import Blobs
from marsam.store.content import put_blob, read_blob
from marsam_dataset.ingest.records import Verdict
from marsam_dataset.ingest.sidecars import Problem

ENDINGS = ("-masklabel", ".mask")
"""What stands between the name of the picture and the mask's own extension; the first is OneTrainer's."""


def sort(pictures: Mapping[str, Received]) -> tuple[dict[str, Received], dict[str, Received], list[Problem]]:
    """What are pictures, the masks by their pictures' paths, and the masks that belong to none."""
    bare = {stem: path for path in pictures for stem in [_stem(path)] if _of(stem) is None}
    masks: dict[str, Received] = {}
    problems = []
    for path, file in sorted(pictures.items()):
        of = _of(_stem(path))
        if of is None:
            continue
        if of not in bare:
            message = "It is named like a mask, but no picture of that name was sent. Rename it if it is a picture."
            problems.append(Problem(path=path, reason="MASK_WITHOUT_PICTURE", message=message))
        elif bare[of] in masks:
            message = f"'{bare[of]}' has a mask already: '{masks[bare[of]].path}'."
            problems.append(Problem(path=path, reason="MASKED_TWICE", message=message))
        else:
            masks[bare[of]] = file
    return {path: pictures[path] for path in bare.values()}, masks, problems


async def take(
    blobs: Blobs, project: str, pool: DecodePool, file: Received, picture: Decoded, id_: str
) -> tuple[Mask | None, Verdict]:
    """Decode and store the mask of a picture, and say what became of it."""
    decoded = await pool.decode(await read_blob(blobs, project, file.digest))
    if isinstance(decoded, Rejected):
        return None, Verdict(path=file.path, accepted=False, reason=decoded.reason, message=decoded.message)
    if (decoded.width, decoded.height) != (picture.width, picture.height):
        message = (
            f"The mask has {decoded.width}×{decoded.height} pixels, its picture {picture.width}×{picture.height}. "
            "The picture was taken without it."
        )
        return None, Verdict(path=file.path, accepted=False, reason="MASK_SIZE", message=message)
    mask = await _stored(blobs, project, decoded, file.digest, id_)
    return mask, Verdict(path=file.path, accepted=True, reason="BESIDE_PICTURES", message=_share(decoded))


async def of_alpha(
    blobs: Blobs, project: str, pool: DecodePool, original: bytes, digest: str, id_: str
) -> tuple[Mask | None, list[Finding]]:
    """Decode and store how opaque the file of a picture is, whose bytes are `original`, as its mask."""
    decoded = await pool.decode(original, alpha=True)
    if isinstance(decoded, Rejected):
        return None, [Finding(check="mask", severity="warn", reason=decoded.reason, message=decoded.message)]
    mask = await _stored(blobs, project, decoded, digest, id_)
    message = f"Where it is transparent it counts less: {_share(decoded)}"
    return mask, [Finding(check="mask", severity="info", reason="MASKED", message=message)]


async def _stored(blobs: Blobs, project: str, decoded: Decoded, digest: str, id_: str) -> Mask:
    stored = await put_blob(blobs, project, decoded.png)
    image = FileRef(path=f"masks/{id_}.png", digest=stored.digest, size=stored.size, media_type="image/png")
    return Mask(image=image, original_digest=digest)


def _share(decoded: Decoded) -> str:
    return f"{decoded.measures.brightness / 255:.0%} of the picture counts."


def without_picture(file: Received) -> Verdict:
    """The verdict on a mask of which the picture was refused."""
    message = "Its picture was refused."
    return Verdict(path=file.path, accepted=False, reason="MASK_WITHOUT_PICTURE", message=message)


def findings(verdict: Verdict) -> Iterator[Finding]:
    """What the item says of its mask."""
    if verdict.accepted:
        yield Finding(check="mask", severity="info", reason="MASKED", message=verdict.message)
    else:
        yield Finding(check="mask", severity="warn", reason=verdict.reason, message=verdict.message)


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def _of(stem: str) -> str | None:
    """The name of the picture that a mask of this name is of; None for what is no mask."""
    return next((stem[: -len(ending)] for ending in ENDINGS if stem.lower().endswith(ending)), None)
