"""Predict the noise (arXiv 2006.11239). Cannot learn anything at zero terminal SNR: use v there."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Epsilon:
    """noisy = signal·clean + noise_level·noise; the target is the noise."""

    name = "epsilon"

    def noisy(self, clean: "Tensor", noise: "Tensor", signal: "Tensor", noise_level: "Tensor") -> "Tensor":
        return signal * clean + noise_level * noise

    def target(self, clean: "Tensor", noise: "Tensor", signal: "Tensor", noise_level: "Tensor") -> "Tensor":
        return noise

    def clean(self, noisy: "Tensor", predicted: "Tensor", signal: float, noise_level: float) -> "Tensor":
        # At zero terminal SNR the noise says nothing of the picture.
        return (noisy - noise_level * predicted) / max(signal, 1e-3)

    def weight(self, signal: "Tensor", noise_level: "Tensor", gamma: float | None) -> "Tensor":
        """min(SNR, γ) / SNR, written so that SNR = 0 gives its limit, 1."""
        if gamma is None:
            return signal.new_ones(signal.shape)
        return (gamma * noise_level**2 / signal**2).clamp(max=1.0)


OBJECTIVE = Epsilon()
