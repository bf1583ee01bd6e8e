"""Predict the velocity of a straight path (rectified flow, arXiv 2209.03003; as trained in arXiv 2403.03206)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class RectifiedFlow:
    """noisy = signal·clean + noise_level·noise with signal + noise_level = 1; the target is noise - clean."""

    name = "flow"

    def noisy(self, clean: "Tensor", noise: "Tensor", signal: "Tensor", noise_level: "Tensor") -> "Tensor":
        return signal * clean + noise_level * noise

    def target(self, clean: "Tensor", noise: "Tensor", signal: "Tensor", noise_level: "Tensor") -> "Tensor":
        return noise - clean

    def clean(self, noisy: "Tensor", predicted: "Tensor", signal: float, noise_level: float) -> "Tensor":
        return noisy - noise_level * predicted

    def weight(self, signal: "Tensor", noise_level: "Tensor", gamma: float | None) -> "Tensor":
        """min(SNR, γ) of the clean picture's error, which is noise_level times the velocity's: min(signal²,
        γ·noise_level²)."""
        if gamma is None:
            return signal.new_ones(signal.shape)
        return (signal**2).minimum(gamma * noise_level**2)


OBJECTIVE = RectifiedFlow()
