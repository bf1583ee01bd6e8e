"""Predict the velocity (arXiv 2202.00512): defined at every noise level, zero terminal SNR included."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Velocity:
    """noisy = signal·clean + noise_level·noise; the target is signal·noise - noise_level·clean."""

    name = "v"

    def noisy(self, clean: "Tensor", noise: "Tensor", signal: "Tensor", noise_level: "Tensor") -> "Tensor":
        return signal * clean + noise_level * noise

    def target(self, clean: "Tensor", noise: "Tensor", signal: "Tensor", noise_level: "Tensor") -> "Tensor":
        return signal * noise - noise_level * clean

    def clean(self, noisy: "Tensor", predicted: "Tensor", signal: float, noise_level: float) -> "Tensor":
        return signal * noisy - noise_level * predicted

    def weight(self, signal: "Tensor", noise_level: "Tensor", gamma: float | None) -> "Tensor":
        """min(SNR, γ) / (SNR + 1). With signal² + noise_level² = 1 that is min(signal², γ·noise_level²): finite
        everywhere."""
        if gamma is None:
            return signal.new_ones(signal.shape)
        return (signal**2).minimum(gamma * noise_level**2)


OBJECTIVE = Velocity()
