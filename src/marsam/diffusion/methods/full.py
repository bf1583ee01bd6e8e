"""Full tuning: every parameter of the denoiser trains, in fp32, and by choice those of the text encoders and of the
image coder's decoder. Importing this imports no torch.

The artifact is what was tuned, in diffusers' and transformers' layout, to be laid over the base's own folders.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marsam.diffusion import tuned
from marsam.diffusion.method import Kind, MethodFacts
from marsam.diffusion.precision import Quantisation
from marsam.diffusion.spec import Default, FamilyFacts
from marsam.diffusion.tuned import IMAGE_DECODER, TEXT_ENCODERS

if TYPE_CHECKING:
    from torch.nn import Module, Parameter

FACTS = MethodFacts(
    name="full",
    title="Full: every parameter of the denoiser",
    kind=Kind.FULL,
    settings=(TEXT_ENCODERS, IMAGE_DECODER),
    recipe={"learning_rate": Default(1e-5, "published recipes: OneTrainer, SimpleTuner")},
)

WEIGHTS = "diffusion_pytorch_model.safetensors"
ENCODER_WEIGHTS = "model.safetensors"


class FullTuning:
    """See `marsam.diffusion.method.Method`."""

    facts = FACTS

    def quantisation(self, params: Mapping[str, Any]) -> Quantisation | None:
        return None

    def attach(
        self, modules: "Mapping[str, Module]", family: FamilyFacts, params: Mapping[str, Any], *, seed: int
    ) -> "dict[str, Parameter]":
        from marsam.diffusion.adapter.parts.net import idle

        trained: dict[str, Parameter] = {}
        for folder, module in modules.items():
            # The master copy is fp32 whatever the base came in: bf16 steps of 1e-5 would round to nothing.
            module.float().requires_grad_(True)
            if folder in family.image_folders:
                for name, value in module.named_parameters():
                    value.requires_grad_(tuned.decodes(family, name))
            else:
                for name in idle(module, tuned.idle_names(family, folder)):
                    module.get_submodule(name).requires_grad_(False)
            trained |= {
                tuned.named(family, folder, name): value
                for name, value in module.named_parameters()
                if value.requires_grad
            }
        return trained

    def save(
        self, modules: "Mapping[str, Module]", family: FamilyFacts, folder: Path, *, metadata: Mapping[str, str]
    ) -> tuple[str, ...]:
        from marsam.diffusion.weights.net import save

        paths = []
        for part, module in modules.items():
            (folder / part).mkdir(parents=True, exist_ok=True)
            weights = ENCODER_WEIGHTS if part in family.encoders else WEIGHTS
            tensors = {name: value.detach().to("cpu").contiguous() for name, value in module.state_dict().items()}
            save(tensors, folder / part / weights, metadata={**metadata, "format": "pt"})
            if part in family.encoders:
                module.config.dtype = module.dtype
                module.config.save_pretrained(folder / part)
            else:
                module.save_config(folder / part)
            paths += [f"{part}/config.json", f"{part}/{weights}"]
        return tuple(paths)


METHOD = FullTuning()
