"""From pixels to the file that is kept: encoded, inscribed, signed last; in a few threads of its own."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch

from marsam.core.cores import available_cores
from marsam.imaging.inscription import Inscription
from marsam_generator import pictures
from marsam_generator.pictures import Form


class Signs(Protocol):
    """What signs a file."""

    def sign(
        self, data: bytes, media_type: str, inscription: Inscription, *, generation: str, fingerprint: str
    ) -> bytes:
        """The signed file."""
        ...


class Finishing:
    """Beside the tick and the event loop: what waits here holds up neither."""

    def __init__(self, signer: Signs | None = None) -> None:
        self._signer = signer
        self._pool = ThreadPoolExecutor(min(4, available_cores()), thread_name_prefix="finishing")

    async def finish(
        self, pixels: torch.Tensor, inscription: Inscription, form: Form, *, generation: str, fingerprint: str
    ) -> bytes:
        """The file of pixels (H, W, 3) uint8. The same bytes for the same drawing unless it is signed. Raises what the
        signer does."""
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, self._finish, pixels, inscription, form, generation, fingerprint
        )

    def close(self) -> None:
        """End once what was begun is done."""
        self._pool.shutdown()

    def _finish(
        self, pixels: torch.Tensor, inscription: Inscription, form: Form, generation: str, fingerprint: str
    ) -> bytes:
        data = pictures.encode(pixels, inscription, form)
        if self._signer is None:
            return data
        return self._signer.sign(data, form.media_type, inscription, generation=generation, fingerprint=fingerprint)
