"""Full tuning: every parameter of the denoiser trains, in fp32. Importing this imports no torch.

The artifact is a denoiser in diffusers layout, to be laid over the base's own folder.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marsam.diffusion.spec import FamilyFacts, Kind, MethodFacts, Quantisation

if TYPE_CHECKING:
    from torch.nn import Module, Parameter

FACTS = MethodFacts(
    name="full",
    title="Full: every parameter of the denoiser",
    kind=Kind.FULL,
    settings=(),
    learning_rate=1e-5,
)

WEIGHTS = "diffusion_pytorch_model.safetensors"


class FullTuning:
    """See `marsam.diffusion.spec.Method`."""

    facts = FACTS

    def quantisation(self, params: Mapping[str, Any]) -> Quantisation | None:
        return None

    def attach(
        self, denoiser: "Module", family: FamilyFacts, params: Mapping[str, Any], *, seed: int
    ) -> "dict[str, Parameter]":
        from marsam.diffusion.adapter.net import idle

        # The master copy is fp32 whatever the base came in: bf16 steps of 1e-5 would round to nothing.
        denoiser.float().requires_grad_(True)
        for module in idle(denoiser, family):
            denoiser.get_submodule(module).requires_grad_(False)
        return {name: value for name, value in denoiser.named_parameters() if value.requires_grad}

    def save(self, denoiser: "Module", folder: Path, *, metadata: Mapping[str, str]) -> tuple[str, ...]:
        from marsam.diffusion.weights.net import save

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().to("cpu").contiguous() for name, value in denoiser.state_dict().items()}
        save(tensors, folder / WEIGHTS, metadata={**metadata, "format": "pt"})
        denoiser.save_config(folder)
        return ("config.json", WEIGHTS)


METHOD = FullTuning()
