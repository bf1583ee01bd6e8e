"""What to change in an order that needs too much memory."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from marsam_trainer.run.remedies import ADMIT, remedies
from marsam_trainer.run.stages import Footprint, Stage

from marsam.catalog.runs import RunSpec
from marsam.core.errors import Unsupported
from marsam.diffusion import registry
from marsam.diffusion.spec import BaseFacts
from tests.unit.trainer.test_past_runs import SPEC

FAMILY = registry.family_facts("sd1")
FACTS = BaseFacts(
    family="sd1", objective="v", latent_channels=4, latent_factor=8, side_multiple=8, default_side=64, text_length=77,
    conditioning={}, train_steps=1000, scheduler={},
)  # fmt: skip


@dataclass
class Formula:
    """Needs that follow an order as real ones do."""

    unable: bool = False
    asked: list[RunSpec] = field(default_factory=list)

    def of(self, spec: RunSpec) -> Footprint:
        self.asked.append(spec)
        if spec.gradient_checkpointing and self.unable:
            raise Unsupported("it cannot", reason="X")
        width = 2 if spec.precision == "bf16" else 4
        weights = {"full": 2000, "lora": 1000, "qlora": 300}[spec.method] * width // 4
        moments = {"adamw": 2000, "adamw_8bit": 500}[spec.optimiser] if spec.method == "full" else 10
        moving = spec.batch_size * spec.resolution * width // (16 if spec.gradient_checkpointing else 4)
        shared = spec.processes if spec.sharding == "sharded" else 1
        terms = {"base weights": weights // shared, "optimiser": moments // shared, "activations": moving}
        return Footprint(stages=(Stage(name="train", terms=terms),), trainable=1, share=0.0)


def asked(available: float, formula: Formula | None = None, **changes: Any) -> list[tuple[dict[str, Any], int, bool]]:
    spec = RunSpec(**{**vars(SPEC), **changes})
    formula = formula or Formula()
    needs = formula.of(spec).peak.total
    found = remedies(spec, formula, needs, FAMILY, FACTS, available=round(available / ADMIT) + 1)
    return [(dict(one.changes), one.total, one.fits) for one in found]


def test_an_order_that_fits_needs_no_change_and_no_further_plan() -> None:
    formula = Formula()
    assert asked(1266, formula) == []
    assert len(formula.asked) == 1


def test_several_processes_are_told_to_hold_a_part_each() -> None:
    found = asked(600, processes=2, batch_size=4)
    assert found[1][0] == {"sharding": "sharded"}
    assert found[0][1] - found[1][1] == 505
    assert all("sharding" not in changes for changes, _, _ in asked(600, batch_size=4))


def test_fewer_processes_are_named_where_they_share_a_memory_and_nowhere_else() -> None:
    class Shared(Formula):
        def of(self, spec: RunSpec) -> Footprint:
            return super().of(spec).on_one_host(spec.processes, once=())

    changed = {"gradient_checkpointing": True, "batch_size": 8, "processes": 8}
    found = asked(4600, Shared(), **changed)
    assert [changes for changes, _, _ in found] == [{"processes": 4}]
    # In parts it would need as much: one process is the last of them, and holds all.
    found = asked(1200, Shared(), sharding="sharded", **changed)
    assert found[0][0] == {"processes": 1, "sharding": "replicated"}
    assert all("processes" not in changes for changes, _, _ in asked(600, **changed))


def test_changes_come_in_order_each_with_those_before_until_it_fits() -> None:
    assert asked(1100) == [({"gradient_checkpointing": True}, 1074, True)]
    assert asked(400) == [({"gradient_checkpointing": True}, 1074, False), ({"method": "qlora"}, 374, True)]
    # 8-bit moments of an adapter save next to nothing: they are not among them.
    names = [next(iter(changes)) for changes, _, _ in asked(180)]
    assert names == ["gradient_checkpointing", "method", "precision", "batch_size"]


def test_a_smaller_batch_is_accumulated_to_the_same_step() -> None:
    found = asked(160, gradient_checkpointing=True, method="qlora", precision="bf16", batch_size=16)
    assert found[0][0] == {"batch_size": 1, "accumulate": 16}
    # No smaller than it has to be.
    assert asked(200, gradient_checkpointing=True, method="qlora", precision="bf16", batch_size=16) == [
        ({"batch_size": 4, "accumulate": 4}, 192, True)
    ]


def test_what_trains_whole_becomes_an_adapter_only_when_nothing_else_helps() -> None:
    found = asked(900, method="full", batch_size=4)
    assert [next(iter(changes)) for changes, _, _ in found] == [
        "gradient_checkpointing", "optimiser", "precision", "method",
    ]  # fmt: skip
    assert found[-1][0]["method"] == "qlora"
    assert found[-1][0]["method_params"] == registry.method_params("qlora", {}, family="sd1")
    assert found[-1][2]


def test_a_change_that_a_base_cannot_do_is_passed_over() -> None:
    assert "gradient_checkpointing" not in asked(400, Formula(unable=True))[0][0]


@pytest.mark.parametrize("side", [64, 512])
def test_fewer_pixels_come_last(side: int) -> None:
    (*_, last) = asked(1, resolution=side)
    assert last[0] == {"resolution": side // 2} or side // 2 < FAMILY.min_side
    assert not last[2]
