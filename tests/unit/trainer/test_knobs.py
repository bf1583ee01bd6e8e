"""The table of an order's fields, and what a run takes where it says nothing."""

from dataclasses import fields, replace
from datetime import UTC, datetime
from math import nan
from typing import Any

import pytest
from marsam_trainer import times
from marsam_trainer.defaults import defaults, taken
from marsam_trainer.explain import explained
from marsam_trainer.knobs import KNOBS, VISIBLE
from marsam_trainer.orders import Order, range_faults

from marsam.api.trainer.v1 import trainer_pb2
from marsam.catalog.datasets import DatasetVersion, Item
from marsam.catalog.files import FileRef
from marsam.catalog.runs import RunSpec
from marsam.core.errors import Invalid
from marsam.diffusion import registry
from marsam.diffusion.schedule import Flow, Times
from marsam.diffusion.spec import BaseFacts
from tests.unit.trainer.test_past_runs import SPEC

DIGEST = "sha256:" + "0" * 64
VERSION = DatasetVersion(
    name="projects/p/datasets/d/versions/1",
    create_time=datetime(2026, 1, 1, tzinfo=UTC),
    items=tuple(
        Item(
            id=f"01arz3ndektsv4rrffq69g5f{row:02d}", file_name=f"{row}.png",
            image=FileRef(path=f"{row}.png", digest=DIGEST, size=1, media_type="image/png"), original_digest=DIGEST,
            pixel_digest=DIGEST, width=8, height=8, phash=row, dhash=row, captions=(),
        )
        for row in range(20)
    ),
)  # fmt: skip


def facts(family: str = "sd1", **more: Any) -> BaseFacts:
    given: dict[str, Any] = {
        "family": family, "objective": "epsilon", "latent_channels": 4, "latent_factor": 8, "side_multiple": 8,
        "default_side": 512, "text_length": 77, "conditioning": {}, "train_steps": 1000, "scheduler": {},
    }  # fmt: skip
    return BaseFacts(**{**given, **more})


def order(method: str = "lora", **fields: Any) -> Order:
    return Order(base="b", dataset_version="v", method=method, **fields)


def test_the_table_has_every_field_of_an_order_and_no_other() -> None:
    names = [knob.name for knob in KNOBS]
    assert sorted(names) == sorted(field.name for field in trainer_pb2.RunSpec.DESCRIPTOR.fields)
    assert sorted(names) == sorted(field.name for field in fields(Order))
    parameters = {s.name for name in registry.methods() for s in registry.method(name).facts.settings}
    assert set(VISIBLE) <= {*names, *parameters}
    assert len(VISIBLE) == 5
    assert all(knob.help for knob in KNOBS)


def test_every_number_refuses_what_is_none() -> None:
    numbers = [knob.name for knob in KNOBS if knob.holds is not None]
    assert [fault.field for fault in range_faults(order(**dict.fromkeys(numbers, nan)))] == numbers
    assert range_faults(order()) == []


@pytest.mark.parametrize("method", registry.methods())
@pytest.mark.parametrize("family", registry.families())
def test_a_default_is_within_bounds_and_says_where_it_comes_from(family: str, method: str) -> None:
    found = defaults(order(method), facts(family), VERSION)
    assert set(found) <= {field.name for field in fields(RunSpec)}
    assert all(default.origin for default in found.values())
    said = order(method, **{name: default.value for name, default in found.items()})
    assert range_faults(said) == []
    assert taken(said, found) == taken(order(method), found)


@pytest.mark.parametrize(
    ("family", "method", "rate", "optimiser", "again"),
    [
        ("sd1", "lora", 1e-4, "adamw", False),
        ("sd1", "full", 1e-5, "adamw", False),
        ("sana", "qlora", 2e-5, "adamw", False),
        ("sdxl", "full", 5e-6, "adamw_8bit", False),
        ("sdxl", "lora", 1e-4, "adamw", False),
        ("flux", "lora", 1e-4, "adamw", True),
        ("flux2", "full", 1e-5, "adamw_8bit", True),
    ],
)
def test_defaults_are_those_of_family_and_method(
    family: str, method: str, rate: float, optimiser: str, again: bool
) -> None:
    chosen = taken(order(method), defaults(order(method), facts(family), VERSION))
    assert (chosen["learning_rate"], chosen["optimiser"], chosen["gradient_checkpointing"]) == (rate, optimiser, again)
    assert (chosen["steps"], chosen["warmup_steps"], chosen["resolution"]) == (800, 40, 512)


def test_what_the_caller_says_counts_and_zero_turns_off() -> None:
    found = defaults(order(), facts(), VERSION)
    assert taken(order(), found)["snr_gamma"] == 5.0
    said = taken(order(snr_gamma=0.0, caption_dropout=0.0, gradient_checkpointing=False), found)
    assert (said["snr_gamma"], said["caption_dropout"], said["gradient_checkpointing"]) == (None, 0.0, False)


@pytest.mark.parametrize(
    ("objective", "zero_terminal", "gamma"),
    [("epsilon", False, 5.0), ("v", False, 5.0), ("v", True, None), ("flow", False, None)],
)
def test_min_snr_is_the_default_only_where_it_helps(objective: str, zero_terminal: bool, gamma: float | None) -> None:
    base = facts(objective=objective, scheduler={"rescale_betas_zero_snr": zero_terminal})
    assert taken(order(), defaults(order(), base, VERSION))["snr_gamma"] == gamma


def test_times_of_a_flow_are_the_bases_own_unless_another_law_is_asked_for() -> None:
    flow = facts("sd3", objective="flow", flow=Flow(shift=3.0))
    found = defaults(order(), flow, VERSION)
    assert found["timestep_sampling"].origin == "the base's own: logit-normal times as of arXiv 2403.03206"
    assert found["shift"].origin == "the base's own: 3 at 512 px"
    spec = replace(SPEC, **{name: taken(order(), found)[name] for name in ("timestep_mean", "timestep_std", "shift")})
    assert (times.asked(spec), times.of(spec)) == ((), Times())
    mine = order(timestep_sampling="logit_normal", timestep_mean=-0.5, timestep_std=0.7, shift=2.0)
    chosen = taken(mine, defaults(mine, flow, VERSION))
    law = times.of(replace(SPEC, **{name: chosen[name] for name in times.asked(mine)}))
    assert law == Times(mean=-0.5, spread=0.7, shift=2.0)
    assert times.faults(mine, flow) == []
    even = order(timestep_sampling="uniform", timestep_mean=0.0, timestep_std=0.7, shift=2.0)
    assert [(fault.field, fault.reason) for fault in times.faults(even, flow)] == [("timestep_std", "TIMES_UNIFORM")]
    with pytest.raises(Invalid, match="timestep_std"):
        replace(SPEC, timestep_sampling="uniform", timestep_std=0.7)


def test_every_field_is_explained_once() -> None:
    asked = order(batch_size=8, snr_gamma=0.0, gradient_checkpointing=False, method_params={"rank": 4})
    spec = RunSpec(
        **{**vars(SPEC), "batch_size": 8, "snr_gamma": None, "method_params": registry.method_params(
            "lora", {"rank": 4}, family="sd1")}
    )  # fmt: skip
    told = {entry.name: entry for entry in explained(asked, spec, defaults(asked, facts(), VERSION))}
    assert {*told} == {knob.name for knob in KNOBS} - {"method_params"} | set(spec.method_params)
    assert [name for name, entry in told.items() if entry.visible] == [
        "rank", "steps", "batch_size", "learning_rate", "resolution"
    ]  # fmt: skip
    assert told["gradient_checkpointing"].value == "false"
    given = {name for name, entry in told.items() if entry.given}
    assert given == {"base", "dataset_version", "method", "rank", "batch_size", "snr_gamma", "gradient_checkpointing"}
    assert (told["rank"].value, told["rank"].rule) == ("4", "between 1 and 512")
    assert told["learning_rate"].origin.startswith("published recipes")
    assert told["publish"].origin.startswith("both where pictures are held out")
    assert (told["regularisation_share"].value, told["regularisation_share"].origin) == ("0", "left out")
    apart = replace(spec, regularisation=f"{VERSION.name}2", regularisation_digest=DIGEST, regularisation_share=0.2)
    said = {entry.name: entry for entry in explained(asked, apart, defaults(asked, facts(), VERSION))}
    assert "recipes against forgetting" in said["regularisation_share"].origin
    assert all(entry.given or entry.origin for entry in told.values())
