"""The image coder beside the step loop: from a picture to the latents that others start from, and from latents to
pictures. Runs on threads of its own, never inside a tick.
"""

import copy
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from marsam.core.errors import Internal
from marsam.diffusion.parts.net import image_coder
from marsam.diffusion.sampling import Ground
from marsam.diffusion.spec import Components, Family
from marsam.telemetry import Log

_log = Log(__name__)


@dataclass(frozen=True, kw_only=True)
class Start:
    """A picture that others start from, of the size that is drawn: `pixels` (H, W, 3) uint8. `mask` (H, W) uint8 is 255
    where it is drawn anew and 0 where it stays; what lies between is mixed. None: all of it is drawn anew."""

    pixels: torch.Tensor
    mask: torch.Tensor | None = None


class Coder:
    """One image coder. Its methods may be called on any thread.

    A coder that is held in half precision and leaves its range is asked again in fp32, for that picture alone: what a
    picture becomes does not depend on those before it.
    """

    def __init__(self, family: Family, parts: Components) -> None:
        self.parts = parts
        self._family = family
        self._copying = threading.Lock()
        self._whole: Callable[[], Components | None] = lambda: None

    def ground(self, start: Start) -> Ground:
        """What the step loop needs of a start: its latent, and the cells in which anything is drawn anew."""
        pixels = start.pixels.permute(2, 0, 1).unsqueeze(0).to(torch.float32) / 127.5 - 1.0
        clean = self._finite(lambda parts: self._family.encode_image(parts, pixels), "ENCODED_NOT_FINITE")
        mask = None
        if start.mask is not None:
            side = self.parts.facts.latent_factor
            asked = (start.mask > 0).to(torch.float32).unsqueeze(0).unsqueeze(0)
            mask = torch.nn.functional.max_pool2d(asked, side)
        return Ground(clean=clean, mask=mask)

    def decoded(self, latent: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) → (B, 3, H, W) float32 in [-1, 1] on the CPU.

        Raises `Internal` (DECODED_NOT_FINITE) rather than return what is no picture.
        """
        return self._finite(lambda parts: self._family.decode(parts, latent), "DECODED_NOT_FINITE")

    def picture(self, latent: torch.Tensor, start: Start | None) -> torch.Tensor:
        """The pixels (H, W, 3) uint8 of a clean latent (1, C, h, w). Where the start's mask is 0 they are the start's,
        exactly. Raises as `decoded`.
        """
        image = self.decoded(latent)[0]
        drawn = ((image + 1.0) * 127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous()
        return drawn if start is None else laid_in(start, drawn)

    def _finite(self, code: Callable[[Components], torch.Tensor], reason: str) -> torch.Tensor:
        with torch.no_grad():
            found = code(self.parts)
            if not bool(torch.isfinite(found).all()) and self._is_half():
                _log.warning("engine.coder_overflowed", reason=reason)
                found = code(self._in_fp32())
        if not bool(torch.isfinite(found).all()):
            raise Internal(
                "the image coder left the range of numbers, in fp32 too",
                reason=reason,
                remedy="lower the guidance or the adapters' weights",
            )
        return found.float().cpu()

    def _is_half(self) -> bool:
        return next(image_coder(self.parts).parameters()).dtype != torch.float32

    def _in_fp32(self) -> Components:
        """The same coder in fp32, which goes when nobody codes with it: no budget counts it. Those who need it at the
        same time share one."""
        with self._copying:
            whole = self._whole()
            if whole is None:
                whole = replace(self.parts, image_coder=copy.deepcopy(image_coder(self.parts)).float())
                self._whole = weakref.ref(whole)
            return whole


def laid_in(start: Start, drawn: torch.Tensor) -> torch.Tensor:
    """The start's pixels with what was drawn laid in as far as its mask says; all of what was drawn without one."""
    if start.mask is None:
        return drawn
    # In whole numbers, so that 0 and 255 leave either side as it is.
    share = start.mask.to(torch.int32).unsqueeze(-1)
    mixed = (drawn.to(torch.int32) * share + start.pixels.to(torch.int32) * (255 - share) + 127) // 255
    return mixed.to(torch.uint8)
