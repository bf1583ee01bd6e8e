"""The image coder beside the step loop: from a picture to the latents that others start from, and from latents to
pictures. Runs on threads of its own, never inside a tick.
"""

from dataclasses import dataclass

import torch

from marsam.core.errors import Internal
from marsam.diffusion.sampling import Ground
from marsam.diffusion.spec import Components, Family


@dataclass(frozen=True, kw_only=True)
class Start:
    """A picture that others start from, of the size that is drawn: `pixels` (H, W, 3) uint8. `mask` (H, W) uint8 is 255
    where it is drawn anew and 0 where it stays; what lies between is mixed. None: all of it is drawn anew."""

    pixels: torch.Tensor
    mask: torch.Tensor | None = None


class Coder:
    """One image coder. Its methods may be called on any thread."""

    def __init__(self, family: Family, parts: Components) -> None:
        self._family = family
        self.parts = parts

    def ground(self, start: Start) -> Ground:
        """What the step loop needs of a start: its latent, and the cells in which anything is drawn anew."""
        pixels = start.pixels.permute(2, 0, 1).unsqueeze(0).to(torch.float32) / 127.5 - 1.0
        clean = self._family.encode_image(self.parts, pixels).float().cpu()
        if not bool(torch.isfinite(clean).all()):
            raise Internal("the image coder left the range of numbers on the picture to start from",
                           reason="ENCODED_NOT_FINITE")  # fmt: skip
        mask = None
        if start.mask is not None:
            side = self.parts.facts.latent_factor
            asked = (start.mask > 0).to(torch.float32).unsqueeze(0).unsqueeze(0)
            mask = torch.nn.functional.max_pool2d(asked, side)
        return Ground(clean=clean, mask=mask)

    def picture(self, latent: torch.Tensor, start: Start | None) -> torch.Tensor:
        """The pixels (H, W, 3) uint8 of a clean latent (1, C, h, w). Where the start's mask is 0 they are the start's,
        exactly.

        Raises `Internal` (DECODED_NOT_FINITE) rather than return what is no picture.
        """
        with torch.no_grad():
            image = self._family.decode(self.parts, latent)
        if not bool(torch.isfinite(image).all()):
            raise Internal(
                "the image coder left the range of numbers",
                reason="DECODED_NOT_FINITE",
                remedy="lower the guidance or the adapters' weights",
            )
        drawn = ((image[0] + 1.0) * 127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu()
        return drawn if start is None else laid_in(start, drawn)


def laid_in(start: Start, drawn: torch.Tensor) -> torch.Tensor:
    """The start's pixels with what was drawn laid in as far as its mask says; all of what was drawn without one."""
    if start.mask is None:
        return drawn
    # In whole numbers, so that 0 and 255 leave either side as it is.
    share = start.mask.to(torch.int32).unsqueeze(-1)
    mixed = (drawn.to(torch.int32) * share + start.pixels.to(torch.int32) * (255 - share) + 127) // 255
    return mixed.to(torch.uint8)
