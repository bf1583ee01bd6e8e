"""What an objective is: what the denoiser is taught to say. Importing this imports no torch."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Objective(Protocol):
    """What the denoiser predicts. `signal` and `noise_level` are (B, 1, 1, 1): noisy = signal·clean +
    noise_level·noise."""

    name: str

    def noisy(self, clean: "Tensor", noise: "Tensor", signal: "Tensor", noise_level: "Tensor") -> "Tensor": ...

    def target(self, clean: "Tensor", noise: "Tensor", signal: "Tensor", noise_level: "Tensor") -> "Tensor": ...

    def clean(self, noisy: "Tensor", predicted: "Tensor", signal: float, noise_level: float) -> "Tensor":
        """The clean latent that a prediction speaks of; the levels are of one time for all rows."""

    def weight(self, signal: "Tensor", noise_level: "Tensor", gamma: float | None) -> "Tensor":
        """Loss weight, shaped as `signal`; min-SNR-γ (arXiv 2303.09556), or ones for None."""
