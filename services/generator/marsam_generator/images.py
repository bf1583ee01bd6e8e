"""Uploaded pictures: checked by a process of their own, kept by their content, brought to the size that is drawn."""

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from marsam.api.generator.v1 import generator_pb2
from marsam.core.errors import Deadline, Exhausted, Invalid, Missing
from marsam.core.ids import digest_hex
from marsam.core.names import format_name, parse
from marsam.diffusion.buckets import Cut, Size
from marsam.imaging.limits import MIB, Limits
from marsam.imaging.pool import DecodePool, Rejected
from marsam.store.blobs import Blobs
from marsam.store.content import put_blob, read_blob
from marsam_generator.engine.coder import Start

LIMITS = Limits(max_bytes=100 * MIB, max_pixels=32_000_000)
"""What may be decoded. In normal form 32 million pixels are 92 MiB at most, so what was kept can be read again."""

UPLOADS_AT_ONCE = 8
"""Pictures that may be on their way here at once, each in memory until it is checked."""

ARRIVAL_S = 600.0
"""How long one may be on its way: who stops sending keeps nobody's place."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A picture to start from and the mask of what is drawn anew in it, as they were uploaded: RGB, and grey."""

    picture: Image.Image
    mask: Image.Image | None

    @property
    def size(self) -> Size:
        """Width and height in pixels."""
        return self.picture.size

    def start(self, width: int, height: int) -> Start:
        """Both at the size that is drawn. Blocking. Raises `Invalid` for a mask that keeps everything."""
        cut = Cut(self.size, (width, height))
        picture = self.picture.resize(cut.size, Image.Resampling.LANCZOS, box=cut.box)
        mask = None
        if self.mask is not None:
            mask = torch.from_numpy(np.array(self.mask.resize(cut.size, Image.Resampling.BILINEAR, box=cut.box)))
            if not bool(mask.any()):
                raise Invalid(
                    "the mask is black all over the picture: nothing is to be drawn anew",
                    field="mask_image",
                    reason="MASK_EMPTY",
                    remedy="paint white what is to be drawn anew; what is black stays",
                )
        return Start(pixels=torch.from_numpy(np.array(picture)), mask=mask)

    def remarks(self, width: int, height: int) -> list[str]:
        """What becomes of a picture of another size than is drawn."""
        cut = Cut(self.size, (width, height))
        if self.size == cut.size:
            return []
        lost = f", and {cut.lost:.0%} of it cut away around the centre" if cut.lost >= 0.005 else ""
        return [f"init_image has {self.size[0]}×{self.size[1]} pixels: it was scaled to {width}×{height}{lost}"]


class Images:
    """Takes pictures in and gives them out. Belongs to one event loop."""

    def __init__(self, blobs: Blobs, pool: DecodePool) -> None:
        self._blobs = blobs
        self._pool = pool
        self._arriving = 0

    async def keep(self, parent: str, size: int, chunks: AsyncIterator[bytes]) -> str:
        """Check and keep a picture of `size` bytes, and return its name: the same picture has the same name for ever.

        What is kept is its normal form: upright, sRGB, opaque (on white), without metadata. Raises `Invalid` with the
        decoder's verdict, `Exhausted` while too many arrive, `Deadline` when it does not come in `ARRIVAL_S`.
        """
        project = parse(parent, "project", field="header.parent").project
        if self._arriving == UPLOADS_AT_ONCE:
            raise Exhausted(
                f"{UPLOADS_AT_ONCE} pictures are on their way here already",
                reason="UPLOADS_BUSY",
                retry_after_s=1.0,
                remedy="try again in a moment",
            )
        self._arriving += 1
        try:
            data = await _received(chunks, size)
            if len(data) != size:
                raise Invalid(
                    f"the header says {size} bytes, and {'more' if len(data) > size else len(data)} came",
                    field="header.size_bytes",
                    reason="SIZE_MISMATCH",
                    remedy="send the file again",
                )
            stored = await put_blob(self._blobs, project, await self._normal(data, field="chunk"))
        finally:
            self._arriving -= 1
        return format_name("image", project, digest_hex(stored.digest))

    async def source(self, request: generator_pb2.GenerateRequest, project: str) -> Source | None:
        """What a request starts from; None when from nothing. Both pictures are young again in the store afterwards, so
        that they outlive the drawing. Raises `Missing`, `Invalid`."""
        if not request.init_image:
            return None
        picture = await self._open(request.init_image, project, field="init_image")
        mask = None
        if request.mask_image:
            mask = (await self._open(request.mask_image, project, field="mask_image")).convert("L")
            if mask.size != picture.size:
                raise Invalid(
                    f"the mask has {mask.size[0]}×{mask.size[1]} pixels, its picture "
                    f"{picture.size[0]}×{picture.size[1]}",
                    field="mask_image",
                    reason="MASK_SIZE",
                    remedy="upload a mask of the picture's size",
                )
        return Source(picture=picture, mask=mask)

    async def _open(self, name: str, project: str, *, field: str) -> Image.Image:
        image = parse(name, "image", field=field)
        if image.project != project:
            raise Invalid(
                f"{name} is of another project than the generation",
                field=field,
                reason="IMAGE_OF_ANOTHER_PROJECT",
                remedy=f"upload it to projects/{project}",
            )
        try:
            data = await read_blob(self._blobs, project, f"sha256:{image.id}")
        except Missing as error:
            raise Missing(
                f"{name} is not there",
                field=field,
                reason="IMAGE_NOT_FOUND",
                resource=name,
                remedy="upload it again: pictures that no generation used are cleaned away after a while",
            ) from error
        # Any blob of the project may be named so: what it is, the decoder says again.
        normal = await self._normal(data, field=field)
        await put_blob(self._blobs, project, data)
        return await asyncio.to_thread(_rgb, normal)

    async def _normal(self, data: bytes, *, field: str) -> bytes:
        decoded = await self._pool.decode(data)
        if isinstance(decoded, Rejected):
            raise Invalid(f"the picture is refused: {decoded.message}", field=field, reason=decoded.reason)
        return decoded.png


async def _received(chunks: AsyncIterator[bytes], size: int) -> bytes:
    """What comes, or enough to see that it is more than `size` bytes. Raises `Deadline`."""
    data = bytearray()
    try:
        async with asyncio.timeout(ARRIVAL_S):
            async for chunk in chunks:
                data += chunk
                if len(data) > size:
                    break
    except TimeoutError as error:
        raise Deadline(
            f"{len(data)} of {size} bytes came in {ARRIVAL_S:g} s",
            reason="UPLOAD_TOO_SLOW",
            remedy="send a smaller file",
        ) from error
    return bytes(data)


def _rgb(png: bytes) -> Image.Image:
    with Image.open(io.BytesIO(png), formats=["PNG"]) as opened:
        return opened.convert("RGB")
