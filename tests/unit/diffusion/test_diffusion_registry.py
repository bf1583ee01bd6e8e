"""Names, parameters and facts: readable without torch, and wrong ones answered with the nearest right ones."""

import subprocess
import sys
from dataclasses import replace

import pytest

from marsam.core.errors import Invalid
from marsam.diffusion import registry

_HEAVY = ("torch", "diffusers", "transformers", "peft", "bitsandbytes", "numpy")


def test_facts_methods_and_objectives_are_read_without_torch() -> None:
    script = f"""
import sys
from marsam.diffusion import registry, schedule, spec, text
for name in registry.families():
    registry.family_facts(name)
for name in registry.methods():
    method = registry.method(name)
    method.quantisation(registry.method_params(name, {{}}, family="sd1"))
for name in registry.objectives():
    registry.objective(name)
sys.stderr.write(" ".join(name for name in {_HEAVY!r} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_there_is() -> None:
    assert registry.methods() == ("full", "lora", "qlora")
    assert registry.objectives() == ("epsilon", "flow", "v")
    assert "sd1" in registry.families()


@pytest.mark.parametrize(
    ("look", "kind", "near"),
    [
        (lambda: registry.family_facts("sdl"), "UNKNOWN_FAMILY", "sd1"),
        (lambda: registry.method("qlroa"), "UNKNOWN_METHOD", "qlora"),
        (lambda: registry.objective("epsilom"), "UNKNOWN_OBJECTIVE", "epsilon"),
    ],
)
def test_an_unknown_name_meets_its_neighbours(look, kind: str, near: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Invalid) as caught:
        look()
    assert caught.value.reason == kind
    assert near in caught.value.remedy


def test_parameters_are_completed() -> None:
    assert registry.method_params("lora", {"rank": 8.0, "alpha": 4}, family="sd1") == {
        "rank": 8,
        "alpha": 4.0,
        "targets": "attention",
        "dropout": 0.0,
        "rank_stabilised": False,
        "dora": False,
        "text_encoders": False,
    }
    assert registry.method_params("full", {}, family="sd1") == {"text_encoders": False, "image_decoder": False}


def test_every_fault_of_parameters_is_told_at_once() -> None:
    given = {"rnk": 3, "rank": 0, "alpha": "much", "targets": "al", "dropout": float("nan"), "rank_stabilised": 1}
    with pytest.raises(Invalid) as caught:
        registry.method_params("lora", given, family="sd1")
    faults = {fault.field: fault.reason for fault in caught.value.violations}
    assert faults == {
        "method_params.rnk": "UNKNOWN_PARAMETER",
        "method_params.rank": "PARAMETER_RANGE",
        "method_params.alpha": "PARAMETER_TYPE",
        "method_params.targets": "PARAMETER_CHOICE",
        "method_params.dropout": "PARAMETER_RANGE",
        "method_params.rank_stabilised": "PARAMETER_TYPE",
    }
    assert "rank" in caught.value.violations[0].message
    assert caught.value.violations[3].message.endswith("(did you mean 'all'?)")


def test_what_a_family_forbids_is_told_with_the_other_faults_of_parameters() -> None:
    given = {"text_encoders": True, "image_decoder": "yes", "rank": 4}
    with pytest.raises(Invalid) as caught:
        registry.method_params("full", given, family="z_image")
    assert {fault.field: fault.reason for fault in caught.value.violations} == {
        "method_params.rank": "UNKNOWN_PARAMETER",
        "method_params.image_decoder": "PARAMETER_TYPE",
        "method_params.text_encoders": "PARAMETER_UNSUITED",
    }
    assert "method lora" in caught.value.violations[2].message


def test_parameters_are_checked_as_far_as_they_can_be_where_no_family_is_known() -> None:
    given = {"targets": "every-layer", "rank": 0, "text_encoders": True}
    with pytest.raises(Invalid) as caught:
        registry.method_params("lora", given, family=None)
    assert [(fault.field, fault.reason) for fault in caught.value.violations] == [
        ("method_params.rank", "PARAMETER_RANGE")
    ]
    assert registry.method_params("full", {"text_encoders": True}, family=None)["text_encoders"] is True


@pytest.mark.parametrize(("width", "height", "fits"), [(64, 64, True), (96, 64, True), (63, 64, False), (0, 64, False)])
def test_sizes_a_base_can_draw(width: int, height: int, fits: bool) -> None:
    facts = registry.read_base("sd1", _configs())
    if fits:
        assert facts.latent_shape(width, height) == (4, height // 4, width // 4)
    else:
        with pytest.raises(Invalid) as caught:
            facts.check_size(width, height)
        assert caught.value.reason == "RESOLUTION_UNSUPPORTED"
        assert "64" in caught.value.remedy


def _configs(**unet: object) -> dict[str, dict[str, object]]:
    return {
        "unet/config.json": {
            "_class_name": "UNet2DConditionModel",
            "in_channels": 4,
            "sample_size": 16,
            "block_out_channels": [8, 16, 16, 16],
            **unet,
        },
        "vae/config.json": {"latent_channels": 4, "block_out_channels": [8, 8, 8]},
        "text_encoder/config.json": {"max_position_embeddings": 77, "hidden_size": 24},
        "scheduler/scheduler_config.json": {"prediction_type": "v_prediction", "num_train_timesteps": 1000},
        "tokenizer/tokenizer_config.json": {"model_max_length": 32},
    }


def test_a_base_says_what_it_is() -> None:
    facts = registry.read_base("sd1", _configs())
    assert (facts.objective, facts.latent_factor, facts.side_multiple, facts.default_side) == ("v", 4, 32, 64)
    assert (facts.text_length, facts.conditioning, facts.train_steps) == (32, {"hidden": (32, 24)}, 1000)


def test_a_tokenizer_without_limit_is_bounded_by_the_encoder() -> None:
    configs = _configs()
    configs["tokenizer/tokenizer_config.json"] = {"model_max_length": 10**30}
    assert registry.read_base("sd1", configs).text_length == 77


@pytest.mark.parametrize(
    ("unet", "words"),
    [
        ({"addition_embed_type": "text_time"}, "SDXL"),
        ({"in_channels": 9}, "inpainting"),
        ({"_class_name": "FluxTransformer2DModel"}, "FluxTransformer2DModel"),
    ],
)
def test_another_familys_base_is_refused(unet: dict[str, object], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        registry.read_base("sd1", _configs(**unet))


@pytest.mark.parametrize(
    "unet",
    [{"sample_size": [64, 64]}, {"sample_size": "big"}, {"block_out_channels": 4}, {"sample_size": float("inf")}],
)
def test_what_diffusers_never_writes_is_refused(unet: dict[str, object]) -> None:
    with pytest.raises(Invalid) as caught:
        registry.read_base("sd1", _configs(**unet))
    assert caught.value.reason == "BASE_MALFORMED"


def test_a_missing_file_is_named() -> None:
    configs = _configs()
    del configs["vae/config.json"]
    with pytest.raises(Invalid, match=r"vae/config\.json"):
        registry.read_base("sd1", configs)


def test_a_base_is_distilled_where_its_manifest_says_so_and_its_files_do_not() -> None:
    facts = registry.read_base("sd1", _configs())
    assert facts.as_said({"rank": 4}) is facts
    said = facts.as_said({"distilled": True})
    assert (said.distilled, said.default_steps, said.default_guidance) == (True, 4, 1.0)
    # Files that say it themselves know their steps.
    fast = replace(registry.read_base("sd1", _configs(time_cond_proj_dim=256)), default_steps=2)
    assert fast.as_said({"distilled": True}).default_steps == 2
    # One that is told its guidance, as FLUX.1 [dev] and what is distilled from it, still is told its own.
    told = replace(facts, embedded_guidance=True, default_guidance=3.5).as_said({"distilled": True})
    assert (told.default_steps, told.default_guidance) == (4, 3.5)


def test_a_consistency_model_is_distilled() -> None:
    configs = _configs()
    assert not registry.read_base("sd1", configs).distilled
    assert registry.read_base("sd1", _configs(time_cond_proj_dim=256)).distilled
    scheduler = configs["scheduler/scheduler_config.json"]
    quick = {**configs, "scheduler/scheduler_config.json": {**scheduler, "_class_name": "LCMScheduler"}}
    facts = registry.read_base("sd1", quick)
    assert (facts.distilled, facts.default_steps, facts.default_guidance) == (True, 4, 1.0)
