"""QLoRA: the base's Linear layers frozen in 4 bits, LoRA beside them (arXiv 2305.14314). Importing this imports no
torch.

Convolutions are not quantised, so a UNet gains less than a transformer; the run reports the share that was. Text
encoders are held as they are where adapters are put on them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marsam.diffusion.adapter.facts import LOW_RANK
from marsam.diffusion.method import Kind, MethodFacts, Setting
from marsam.diffusion.precision import Quantisation
from marsam.diffusion.spec import Default, FamilyFacts
from marsam.diffusion.tuned import TEXT_ENCODERS

if TYPE_CHECKING:
    from torch.nn import Module, Parameter

FACTS = MethodFacts(
    name="qlora",
    title="QLoRA: LoRA on a base held in 4 bits",
    kind=Kind.ADAPTER,
    settings=(
        *LOW_RANK,
        TEXT_ENCODERS,
        Setting(name="double_quantisation", type=bool, default=True, help="quantise the quantisation constants too"),
    ),
    recipe={"learning_rate": Default(1e-4, "published recipes of LoRA, which 4 bits leave as they are")},
)


class QuantisedLowRankAdaptation:
    """See `marsam.diffusion.method.Method`."""

    facts = FACTS

    def quantisation(self, params: Mapping[str, Any]) -> Quantisation | None:
        return Quantisation(kind="nf4", double=bool(params["double_quantisation"]))

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


METHOD = QuantisedLowRankAdaptation()
