"""LoRA: the base frozen as it is, small low-rank matrices beside its layers. Importing this imports no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marsam.diffusion.adapter.facts import LOW_RANK
from marsam.diffusion.method import Kind, MethodFacts
from marsam.diffusion.precision import Quantisation
from marsam.diffusion.spec import Default, FamilyFacts
from marsam.diffusion.tuned import TEXT_ENCODERS

if TYPE_CHECKING:
    from torch.nn import Module, Parameter

FACTS = MethodFacts(
    name="lora",
    title="LoRA: low-rank matrices beside frozen layers",
    kind=Kind.ADAPTER,
    settings=(*LOW_RANK, TEXT_ENCODERS),
    recipe={"learning_rate": Default(1e-4, "published recipes: diffusers, SimpleTuner, ai-toolkit")},
)


class LowRankAdaptation:
    """See `marsam.diffusion.method.Method`."""

    facts = FACTS

    def quantisation(self, params: Mapping[str, Any]) -> Quantisation | None:
        return None

    def attach(
        self, modules: "Mapping[str, Module]", family: FamilyFacts, params: Mapping[str, Any], *, seed: int
    ) -> "dict[str, Parameter]":
        from marsam.diffusion.adapter.parts import net

        return net.attach(modules, family, params, seed=seed)

    def save(
        self, modules: "Mapping[str, Module]", family: FamilyFacts, folder: Path, *, metadata: Mapping[str, str]
    ) -> tuple[str, ...]:
        from marsam.diffusion.adapter.parts import net

        return net.save_all(modules, family, folder, metadata=metadata)


METHOD = LowRankAdaptation()
