"""What an order may be: every fault at once, with names that are near, and what the run would cost."""

import asyncio
import subprocess
import sys
from typing import Any

import grpc
import pytest

from marsam.api.common.v1 import common_pb2
from marsam.api.trainer.v1 import trainer_pb2
from marsam.catalog.aliases import set_alias
from marsam.core.errors import Invalid
from marsam.rpc.wire import error_of
from marsam.store.open import open_store
from tests.integration.trainer.harness import BASE, CLOCK, HELD_OUT, OTHERS, PARENT, VERSION, Service, place_version

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def validate(shared: Service, **fields: Any) -> trainer_pb2.ValidateRunResponse:
    request = trainer_pb2.ValidateRunRequest(parent=PARENT, spec=shared.ordered(**fields))
    return await shared.trainer.ValidateRun(request, timeout=60)


async def test_a_good_order_is_resolved_and_costed_once(shared: Service) -> None:
    found = await validate(shared, steps=10)
    assert list(found.faults) == []
    assert [(term.term, term.bytes) for term in found.plan.memory] == [("base weights", 3900), ("optimiser", 100)]
    assert (found.plan.total_bytes, found.plan.seconds, found.plan.fits) == (4000, 20.0, True)
    resolved = found.resolved
    assert (resolved.batch_size, resolved.resolution, resolved.seed, resolved.snr_gamma) == (4, 64, 0, 5.0)
    assert (resolved.optimiser, resolved.accumulate, resolved.gradient_checkpointing) == ("adamw", 1, False)
    assert (resolved.processes, resolved.sharding) == (1, "replicated")
    assert (resolved.output_model_id, resolved.precision) == ("", trainer_pb2.PRECISION_FP32)
    assert resolved.base_digest.startswith("sha256:")
    # Other steps need no other plan.
    assert (await validate(shared, steps=20)).plan.seconds == 40.0
    assert (shared.cache / "plans").read_text() == "asked\n"
    # Those that save nothing on the way do: they hold no copy of their state.
    await validate(shared, steps=20, checkpoint_every=20)
    assert (shared.cache / "plans").read_text() == "asked\n" * 2
    assert (await shared.trainer.ListRuns(trainer_pb2.ListRunsRequest(parent=PARENT))).runs == []


async def test_how_pictures_would_be_cut_is_said_before(shared: Service) -> None:
    wide = VERSION.replace("v1", "wide")
    await place_version(open_store(str(shared.store)), wide, items=22, size=(150, 50))
    square = await validate(shared, dataset_version=wide)
    (told,) = (warning for warning in square.warnings if warning.reason.startswith("PICTURES"))
    assert (told.field, told.reason) == ("spec.aspect_buckets", "PICTURES_CUT")
    assert "of 22 pictures" in told.message
    assert "0.png (150×50) loses 67%" in told.message
    assert told.message.endswith("and 2 more")
    assert "aspect_buckets" in told.remedy
    assert not square.resolved.aspect_buckets
    bucketed = await validate(shared, dataset_version=wide, aspect_buckets=True)
    (told,) = (warning for warning in bucketed.warnings if warning.reason.startswith("PICTURES"))
    assert (told.reason, told.message) == (
        "PICTURES_BY_SIZE",
        "pictures by size: 96×32: 22; at most 0% of one is cut away; "
        "an epoch is 6 steps, 2 of them of fewer than 4 pictures",
    )
    assert bucketed.resolved.aspect_buckets
    assert bucketed.plan.total_bytes == square.plan.total_bytes
    beside = await validate(shared, regularisation=wide)
    assert [w.message.split(": ")[0] for w in beside.warnings if w.reason == "PICTURES_CUT"] == [wide]


async def test_masked_loss_needs_masks_and_names_pictures_without(shared: Service) -> None:
    bare = await validate(shared, masked_loss=True)
    assert [(fault.field, fault.reason) for fault in bare.faults] == [("spec.masked_loss", "DATASET_UNMASKED")]
    alone = await validate(shared, masked_loss_floor=0.5)
    assert [(fault.field, fault.reason) for fault in alone.faults] == [("spec.masked_loss_floor", "UNMASKED")]
    masked = VERSION.replace("v1", "masked")
    await place_version(open_store(str(shared.store)), masked, items=5, masked=3)
    wrong = await validate(shared, dataset_version=masked, masked_loss=True, masked_loss_floor=1.0)
    assert [fault.field for fault in wrong.faults] == ["spec.masked_loss_floor"]
    found = await validate(shared, dataset_version=masked, masked_loss=True)
    assert list(found.faults) == []
    told = {warning.reason: warning.message for warning in found.warnings}
    assert told["PICTURES_UNMASKED"] == "pictures without a mask count as a whole: 3.png, 4.png"
    assert (found.resolved.masked_loss, found.resolved.masked_loss_floor) == (True, 0.1)
    free = await validate(shared, dataset_version=masked, masked_loss=True, masked_loss_floor=0.0)
    assert free.resolved.masked_loss_floor == 0.0
    assert not (await validate(shared)).resolved.HasField("masked_loss_floor")


async def test_a_law_of_times_is_for_bases_that_predict_a_flow(shared: Service) -> None:
    asked = await validate(shared, timestep_sampling="logit_norml", timestep_std=0.0, shift=3.0)
    assert [(fault.field, fault.reason) for fault in asked.faults] == [
        ("spec.timestep_sampling", "UNKNOWN_TIMESTEP_SAMPLING"), ("spec.timestep_sampling", "TIMES_FIXED"),
        ("spec.timestep_std", "TIMESTEP_STD_OUT_OF_RANGE"), ("spec.timestep_std", "TIMES_FIXED"),
        ("spec.shift", "TIMES_FIXED"),
    ]  # fmt: skip
    assert "'logit_normal'" in asked.faults[0].remedy
    assert "has no shift" in asked.faults[-1].message
    plain = await validate(shared)
    assert list(plain.faults) == []
    resolved = plain.resolved
    assert (resolved.timestep_sampling, resolved.timestep_mean, resolved.timestep_std, resolved.shift) == ("", 0, 1, 0)
    # What a complete order says is no other law: it can be given again.
    again = {name: getattr(resolved, name) for name in ("timestep_mean", "timestep_std", "shift")}
    assert list((await validate(shared, **again)).faults) == []
    told = {entry.name: entry for entry in plain.settings}
    assert told["shift"].origin == "the base's own: every step of its schedule as often"
    assert told["shift"].rule == "0 (the base's own), or between 0.01 and 100"


async def test_every_fault_is_said_at_once_in_order(shared: Service) -> None:
    fields: dict[str, Any] = {
        "base": "projects/default/models/tinny",
        "dataset_version": "projects/default/datasets/hayy/versions/v2",
        "method": "lora",
        "method_params": {"rnak": float("nan"), "rank": 0, "targets": "of another family, perhaps"},
        "steps": 0,
        "batch_size": 0,
        "learning_rate": float("nan"),
        "seed": -1,
        "caption_dropout": 1.0,
        "ema_decay": 2.0,
        "optimiser": "adamw_8bits",
        "accumulate": 0,
        "processes": 0,
        "sharding": "shardd",
    }
    found = await validate(shared, **fields)
    told = {fault.field: fault for fault in found.faults}
    assert list(told) == [
        "spec.base", "spec.dataset_version", "spec.method_params.rnak", "spec.method_params.rank", "spec.steps",
        "spec.batch_size", "spec.learning_rate", "spec.seed", "spec.caption_dropout", "spec.ema_decay",
        "spec.optimiser", "spec.accumulate", "spec.processes", "spec.sharding",
    ]  # fmt: skip
    assert told["spec.base"].reason == "MODEL_NOT_FOUND"
    assert "'tiny'" in told["spec.base"].remedy
    assert "'v1'" in told["spec.dataset_version"].remedy
    assert "'rank'" in told["spec.method_params.rnak"].message
    assert told["spec.steps"].message == "steps must be between 1 and 10000000, got 0"
    assert not found.HasField("plan")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shared.create(**fields)
    error = error_of(caught.value)
    assert isinstance(error, Invalid)
    assert [violation.field for violation in error.violations] == list(told)


async def test_faults_of_parameters_are_told_with_those_of_the_order(shared: Service) -> None:
    fields: dict[str, Any] = {"resolution": 60, "steps": 0, "method_params": {"text_encoders": "yes"}}
    found = await validate(shared, **fields)
    assert [(fault.field, fault.reason) for fault in found.faults] == [
        ("spec.method_params.text_encoders", "PARAMETER_TYPE"),
        ("spec.steps", "STEPS_OUT_OF_RANGE"),
        ("spec.resolution", "RESOLUTION_UNSUPPORTED"),
    ]


@pytest.mark.parametrize(
    ("fields", "field", "reason", "words"),
    [
        ({"method": "lorra"}, "spec.method", "UNKNOWN_METHOD", "'lora'"),
        ({"method_params": {"rank": 0}}, "spec.method_params.rank", "PARAMETER_RANGE", "between 1 and 512"),
        ({"method_params": {"targets": "atention"}}, "spec.method_params.targets", "PARAMETER_CHOICE", "attention"),
        ({"resolution": 60}, "spec.resolution", "RESOLUTION_UNSUPPORTED", "use 64"),
        ({"resolution": 4096}, "spec.resolution", "RESOLUTION_UNSUPPORTED", "2048"),
        ({"languages": ["en", "arr"]}, "spec.languages[1]", "UNKNOWN_LANGUAGE", "'ar'"),
        ({"base_digest": f"sha256:{'0' * 64}"}, "spec.base_digest", "DIGEST_MISMATCH", "not sha256:0000"),
        ({"dataset_digest": f"sha256:{'0' * 64}"}, "spec.dataset_digest", "DIGEST_MISMATCH", "not sha256:0000"),
        ({"regularisation": f"{OTHERS}0"}, "spec.regularisation", "VERSION_NOT_FOUND", "'v1'"),
        ({"regularisation": f"{OTHERS}-none"}, "spec.regularisation", "DATASET_EMPTY", "train split"),
        ({"regularisation": VERSION}, "spec.regularisation", "REGULARISATION_SAME", "rest of the world"),
        ({"regularisation": f"{OTHERS}-again"}, "spec.regularisation", "REGULARISATION_SAME", "regularises nothing"),
        (
            {"regularisation": OTHERS, "regularisation_digest": f"sha256:{'0' * 64}"},
            "spec.regularisation_digest",
            "DIGEST_MISMATCH",
            "not sha256:0000",
        ),
        (
            {"regularisation": OTHERS, "regularisation_share": 0.01, "steps": 30},
            "spec.regularisation_share",
            "REGULARISATION_IDLE",
            "0.034 or more",
        ),
        (
            {"regularisation": OTHERS, "regularisation_share": 1.0},
            "spec.regularisation_share",
            "REGULARISATION_SHARE_OUT_OF_RANGE",
            "below 1",
        ),
        (
            {"regularisation": OTHERS, "regularisation_weight": float("nan")},
            "spec.regularisation_weight",
            "REGULARISATION_WEIGHT_OUT_OF_RANGE",
            "above 0",
        ),
        ({"publish": "bets"}, "spec.publish", "UNKNOWN_PUBLISH", "'best'"),
        ({"publish": "best"}, "spec.publish", "NOTHING_HELD_OUT", "validation"),
        (
            {"dataset_version": HELD_OUT, "output_model_id": "m" * 60},
            "spec.output_model_id",
            "NAME_NOT_ALLOWED",
            "1 to 63",
        ),
        ({"dataset_version": HELD_OUT, "output_model_id": "had"}, "spec.output_model_id", "MODEL_EXISTS", "had-best"),
        ({"regularisation_share": 0.3}, "spec.regularisation_share", "REGULARISATION_MISSING", "name the version"),
        ({"output_model_id": "tiny"}, "spec.output_model_id", "MODEL_EXISTS", "exists already"),
        ({"base": "tiny"}, "spec.base", "NAME_MALFORMED", "projects/default/models"),
        ({"base": "projects/other/models/tiny"}, "spec.base", "OTHER_PROJECT", "does not exist"),
        ({"base": "projects/default/models/judge"}, "spec.base", "BASE_KIND", "judge"),
        ({"batch_size": 68}, "spec.batch_size", "MEMORY_SHORT", "batch_size=32 accumulate=2 (half) → 0.0 MiB"),
        ({"precision": 7}, "spec.precision", "UNKNOWN_PRECISION", "fp32"),
        ({"processes": 2, "batch_size": 1}, "spec.processes", "PROCESSES_IDLE", "raise batch_size to 2"),
        ({"processes": 1024, "batch_size": 1024}, "spec.processes", "PROCESSES_UNSUPPORTED", "1024 processes need a"),
        ({"processes": 0}, "spec.processes", "PROCESSES_OUT_OF_RANGE", "between 1 and 1024"),
        ({"sharding": "sharded"}, "spec.sharding", "SHARDING_ALONE", "set processes"),
    ],
)
async def test_one_fault(shared: Service, fields: dict[str, Any], field: str, reason: str, words: str) -> None:
    found = await validate(shared, **fields)
    assert [(fault.field, fault.reason) for fault in found.faults] == [(field, reason)]
    assert words in f"{found.faults[0].message} {found.faults[0].remedy}"


async def test_the_best_weights_are_published_beside_the_last_where_pictures_are_held_out(shared: Service) -> None:
    assert (await validate(shared)).resolved.publish == "last"
    assert (await validate(shared, dataset_version=HELD_OUT)).resolved.publish == "both"
    for asked in ("last", "best", "both"):
        assert (await validate(shared, dataset_version=HELD_OUT, publish=asked)).resolved.publish == asked


async def test_what_must_not_be_forgotten_is_pinned_with_a_share_and_a_weight(shared: Service) -> None:
    plain = (await validate(shared)).resolved
    assert (plain.regularisation, plain.HasField("regularisation_share")) == ("", False)
    found = (await validate(shared, regularisation=OTHERS)).resolved
    assert (found.regularisation, found.regularisation_share, found.regularisation_weight) == (OTHERS, 0.2, 1.0)
    again = await validate(
        shared, regularisation=OTHERS, regularisation_digest=found.regularisation_digest, regularisation_share=0.5,
        regularisation_weight=2.0,
    )  # fmt: skip
    assert list(again.faults) == []
    assert (again.resolved.regularisation_share, again.resolved.regularisation_weight) == (0.5, 2.0)


async def test_a_run_that_may_not_fit_is_warned_of_and_one_that_cannot_is_not_made(shared: Service) -> None:
    found = await validate(shared, batch_size=66)
    assert (list(found.faults), found.plan.fit, found.plan.fits) == ([], trainer_pb2.PLAN_FIT_TIGHT, True)
    assert [warning.reason for warning in found.warnings if warning.reason.startswith("MEMORY")] == ["MEMORY_TIGHT"]
    (remedy,) = found.plan.remedies
    assert dict(remedy.changes) == {"batch_size": 32.0, "accumulate": 2.0}
    assert (remedy.total_bytes, remedy.fits, found.plan.largest_term) == (32_000, True, "base weights")
    assert [(stage.name, stage.total_bytes) for stage in found.plan.stages] == [("train", 66_000)]
    # Nobody asked for its plan before.
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shared.create(batch_size=69)
    error = error_of(caught.value)
    assert (error.reason, error.field) == ("MEMORY_SHORT", "spec.batch_size")
    assert "base weights" in error.message
    assert "batch_size=32" in (error.remedy or "")
    assert (await validate(shared, batch_size=69)).plan.fit == trainer_pb2.PLAN_FIT_SHORT


async def test_processes_that_share_a_machine_share_its_memory(shared: Service) -> None:
    assert list((await validate(shared, batch_size=40)).faults) == []
    found = await validate(shared, batch_size=40, processes=2)
    assert [fault.reason for fault in found.faults] == ["MEMORY_SHORT"]
    assert (found.plan.total_bytes, found.plan.fit) == (80_000, trainer_pb2.PLAN_FIT_SHORT)


async def test_what_waits_beside_a_gpu_is_held_against_the_hosts_memory(shared: Service) -> None:
    order: dict[str, Any] = {"batch_size": 7, "labels": {"host": "68000"}}
    found = await validate(shared, **order)
    assert [(fault.field, fault.reason) for fault in found.faults] == [("spec.optimiser", "HOST_MEMORY_SHORT")]
    assert (found.plan.total_bytes, found.plan.fit) == (7000, trainer_pb2.PLAN_FIT_SHORT)
    assert "0.1 MiB: checkpoint on its way 0.1 MiB, libraries" in found.faults[0].message
    assert "adamw_8bit" in found.faults[0].remedy
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shared.create(**order)
    assert error_of(caught.value).reason == "HOST_MEMORY_SHORT"


@pytest.mark.slow
async def test_plans_learn_from_what_past_runs_took(shared: Service) -> None:
    kind: dict[str, Any] = {"gradient_checkpointing": True, "batch_size": 10, "steps": 1}
    arithmetic = (await validate(shared, **kind)).plan
    assert (arithmetic.total_bytes, arithmetic.seconds, arithmetic.past_runs) == (10_000, 2.0, 0)
    for took in ("1.5", "1.4", "9"):
        await shared.until((await shared.create(**kind, labels={"took": took})).name, "SUCCEEDED")
    learnt = (await validate(shared, **kind)).plan
    assert (learnt.total_bytes, learnt.seconds, learnt.past_runs) == (15_000, 6.0, 3)
    assert (learnt.memory_correction, learnt.time_correction) == (1.5, 3.0)
    assert [term.bytes for term in learnt.memory] == [9900, 100]
    # 45 of them need 67,500 of 64,000 now.
    assert [fault.reason for fault in (await validate(shared, **{**kind, "batch_size": 45})).faults] == ["MEMORY_SHORT"]
    other = await validate(shared, **{**kind, "gradient_checkpointing": False})
    assert (other.plan.total_bytes, other.plan.past_runs) == (10_000, 0)


@pytest.mark.slow
async def test_a_run_that_fits_by_what_past_runs_took_does_not_refuse_itself(shared: Service) -> None:
    kind: dict[str, Any] = {"optimiser": "adamw_8bit", "steps": 1}
    large = {**kind, "batch_size": 100}
    assert [fault.reason for fault in (await validate(shared, **large)).faults] == ["MEMORY_SHORT"]
    for took in ("0.5", "0.6", "0.7"):
        await shared.until((await shared.create(**kind, labels={"took": took})).name, "SUCCEEDED")
    found = await validate(shared, **large)
    assert (list(found.faults), found.plan.total_bytes, found.plan.past_runs) == ([], 60_000, 3)
    # 100,000 of 64,000 by its arithmetic alone.
    done = await shared.until((await shared.create(**large)).name, "SUCCEEDED", "FAILED")
    assert (done.state, done.attempt) == (common_pb2.JOB_STATE_SUCCEEDED, 1)


async def test_what_trains_whole_is_sharded_and_what_is_small_is_not(shared: Service) -> None:
    found = {
        (method, asked): (await validate(shared, method=method, processes=2, sharding=asked)).resolved
        for method, asked in (("full", ""), ("lora", ""), ("full", "replicated"), ("lora", "sharded"))
    }
    assert {asked: spec.sharding for asked, spec in found.items()} == {
        ("full", ""): "sharded", ("lora", ""): "replicated", ("full", "replicated"): "replicated",
        ("lora", "sharded"): "sharded",
    }  # fmt: skip
    assert {(spec.processes, spec.batch_size) for spec in found.values()} == {(2, 4)}


RAIL = "projects/default/models/rail"


async def test_a_run_on_a_base_that_restricts_is_made_under_an_acceptance(shared: Service) -> None:
    (fault,) = (await validate(shared, base=RAIL)).faults
    assert (fault.field, fault.reason) == ("spec.accept_licence", "LICENCE_NOT_ACCEPTED")
    assert "openrail++" in fault.message
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shared.create(base=RAIL)
    assert error_of(caught.value).reason == "LICENCE_NOT_ACCEPTED"
    (other,) = (await validate(shared, base=RAIL, accept_licence="mit")).faults
    assert other.reason == "LICENCE_OTHER"
    found = await validate(shared, base=RAIL, accept_licence="OpenRAIL++")
    assert list(found.faults) == []
    assert found.resolved.accept_licence == "openrail++"


@pytest.mark.parametrize(("base", "faults"), [("of-local", []), ("of-mona", ["LICENCE_NOT_ACCEPTED"])])
async def test_an_acceptance_at_the_import_counts_for_whoever_gave_it(
    shared: Service, base: str, faults: list[str]
) -> None:
    found = await validate(shared, base=f"projects/default/models/{base}")
    assert [fault.reason for fault in found.faults] == faults
    assert bool(found.resolved.accept_licence) is not bool(faults)


async def test_a_base_without_a_licence_is_told(shared: Service) -> None:
    found = await validate(shared, base="projects/default/models/plain")
    assert list(found.faults) == []
    assert [warning.reason for warning in found.warnings] == ["LICENCE_UNKNOWN", "CAPTIONS_TRUNCATED"]


async def test_a_distilled_base_is_trained_only_when_that_is_meant(shared: Service) -> None:
    fast = "projects/default/models/fast"
    (fault,) = (await validate(shared, base=fast)).faults
    assert (fault.field, fault.reason) == ("spec.base", "DISTILLED_BASE")
    assert "--allow-distilled" in fault.remedy
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shared.create(base=fast)
    assert error_of(caught.value).reason == "DISTILLED_BASE"
    found = await validate(shared, base=fast, allow_distilled=True)
    assert list(found.faults) == []
    assert found.resolved.allow_distilled
    assert not (await validate(shared)).resolved.allow_distilled


async def test_an_alias_stands_for_its_base(shared: Service) -> None:
    await set_alias(open_store(str(shared.store)), "projects/default/aliases/best", BASE, clock=CLOCK, etag="")
    found = await validate(shared, base="projects/default/aliases/best")
    assert list(found.faults) == []
    assert found.resolved.base == BASE
    assert found.resolved.dataset_version == VERSION


async def test_a_run_may_be_created_when_nobody_can_tell_its_cost(shared: Service) -> None:
    found = await validate(shared, batch_size=3, labels={"plan-crash": "1"})
    assert list(found.faults) == []
    assert not found.HasField("plan")
    (unknown,) = [warning for warning in found.warnings if warning.reason == "PLAN_FAILED"]
    assert unknown.message.startswith("what the run needs is not known: ")
    assert "no such library" in unknown.message
    assert "no such library" in shared.log.read_text()


async def test_how_captions_are_read_is_told_once_for_a_base_and_its_captions(shared: Service) -> None:
    found = await validate(shared, languages=["en"])
    assert [(warning.field, warning.reason) for warning in found.warnings] == [("spec.languages", "CAPTIONS_TRUNCATED")]
    (reading,) = found.readings
    assert (reading.language, reading.tokenizer, reading.captions, reading.usable_tokens) == ("en", "tokenizer", 3, 75)
    assert (reading.tokens_per_word, reading.truncation_rate, reading.truncated_captions) == (1.5, 0.25, 0.5)
    assert (reading.unknown_rate, reading.round_trip_rate, reading.reaches_attention) == (0.0, 1.0, True)
    assert (await validate(shared, languages=["en"], batch_size=9, method="full")).readings == found.readings
    assert (shared.cache / "probes").read_text().splitlines().count("en") == 1


async def test_captions_that_are_not_read_are_refused_by_create_too(shared: Service) -> None:
    """Without that anybody asked before: create asks itself."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shared.create(languages=["ar"], labels={"probe-refuses": "1"})
    error = error_of(caught.value)
    assert isinstance(error, Invalid)
    assert (error.reason, error.field, error.remedy) == ("LANGUAGE_UNREADABLE", "spec.languages", "another")
    found = await validate(shared, languages=["ar"])
    assert [fault.reason for fault in found.faults] == ["LANGUAGE_UNREADABLE"]
    assert len(found.readings) == 1


@pytest.mark.parametrize(("label", "said"), [("probe-crash", "no such tokenizer"), ("probe-outage", "store is away")])
async def test_a_probe_that_fails_forbids_nothing_and_is_not_remembered(shared: Service, label: str, said: str) -> None:
    found = await validate(shared, languages=["ar", "en"], labels={label: "1"})
    assert list(found.faults) == []
    assert list(found.readings) == []
    assert said in shared.log.read_text()


async def test_rules_of_the_proto_are_told_by_field(shared: Service) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await validate(shared, method="", preview=trainer_pb2.PreviewSpec(prompts=["x"], every=0))
    error = error_of(caught.value)
    assert isinstance(error, Invalid)
    assert [violation.field for violation in error.violations] == ["spec.method", "spec.preview.every"]


async def test_capabilities_name_families_methods_and_their_parameters(shared: Service) -> None:
    found = await shared.trainer.ListCapabilities(trainer_pb2.ListCapabilitiesRequest())
    assert ("sd1", ["full", "lora", "qlora"]) in [(family.name, list(family.methods)) for family in found.families]
    lora = next(method for method in found.methods if method.name == "lora")
    assert ("rank", "16") in [(parameter.name, parameter.default_value) for parameter in lora.parameters]


async def test_the_service_imports_no_torch() -> None:
    code = (
        "import sys, marsam_trainer.__main__; from marsam.diffusion import registry; "
        "[registry.family_facts(n) for n in registry.families()]; [registry.method(n) for n in registry.methods()]; "
        "import huggingface_hub, huggingface_hub.errors; "
        "heavy = ('torch', 'diffusers', 'transformers', 'peft', 'bitsandbytes', 'numpy'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
