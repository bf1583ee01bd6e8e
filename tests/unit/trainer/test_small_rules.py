"""Pages, filters, default steps, which files of a hub make a model, settings."""

from pathlib import Path

import pytest
from marsam_trainer import spread
from marsam_trainer.environment import check_room_here, child_environment, visible_gpus
from marsam_trainer.hub import parse_ref, select
from marsam_trainer.listing import parse_filter
from marsam_trainer.orders import Order, average_warnings, default_steps
from marsam_trainer.settings import TrainerSettings

from marsam.catalog.runs import RunSpec
from marsam.core.cores import available_cores
from marsam.core.errors import Invalid
from marsam.jobs.states import State


def spec(**changes: object) -> RunSpec:
    digest = f"sha256:{'0' * 64}"
    fields: dict[str, object] = {
        "name": "projects/p/runs/01jd0000000000000000000000", "base": "projects/p/models/b", "base_digest": digest,
        "dataset_version": "projects/p/datasets/d/versions/v", "dataset_digest": digest, "method": "lora",
        "output_model_id": "m", "steps": 1, "batch_size": 1, "learning_rate": 1.0, "resolution": 64, "seed": 0,
        **changes,
    }  # fmt: skip
    return RunSpec(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("", True),
        ("state=FAILED", True),
        ("state = RUNNING", False),
        ("method=lora AND label.team=art", True),
        ("label.team=ops", False),
        ('family="sd1"', True),
        ("family=sdxl", False),
    ],
)
def test_filters(text: str, holds: bool) -> None:
    asked = parse_filter(text, family_of=lambda _: "sd1")
    assert (asked.admits(State.FAILED) and asked.fits(spec(labels={"team": "art"}))) is holds


@pytest.mark.parametrize("text", ["state", "state>FAILED", "x=1", "state=FAILED state=FAILED", "state=NOPE", "AND"])
def test_filters_that_say_nothing_are_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_filter(text, family_of=lambda _: "")


def test_default_steps_grow_with_the_set_between_bounds() -> None:
    assert [default_steps(n) for n in (0, 20, 500, 10**7)] == [200, 800, 3000, 10_000]
    assert sorted(map(default_steps, range(1, 2000, 50))) == list(map(default_steps, range(1, 2000, 50)))


def test_of_a_hub_repository_only_what_makes_the_model_is_taken() -> None:
    paths = [
        ".gitattributes", "README.md", "docs/README.md", "sample.txt",
        "model_index.json", "v1-5-pruned.safetensors", "v1-5-pruned.ckpt",
        "unet/config.json", "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors",
        "text_encoder/model.fp16.safetensors", "text_encoder/config.json", "tokenizer/merges.txt",
        "transformer/d.safetensors.index.json", "transformer/d-00001-of-00002.safetensors",
        "transformer/d.fp16-00001-of-00002.safetensors", "vae/model.onnx", "onnx/unet/config.json",
    ]  # fmt: skip
    assert select(paths) == [
        "README.md",
        "model_index.json", "text_encoder/config.json", "text_encoder/model.fp16.safetensors", "tokenizer/merges.txt",
        "transformer/d-00001-of-00002.safetensors", "transformer/d.safetensors.index.json", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    # Without an index it is no pipeline: single files at the root are the model.
    assert select(["adapter_config.json", "adapter_model.safetensors"]) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("ref", ["hub:a", "hub:a/b/c", "a/b", "hub:../b", "hub:a/..", "hub:a/b..c", ""])
def test_strange_refs_are_refused(ref: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_ref(ref)
    assert caught.value.reason == "REF_MALFORMED"
    assert parse_ref("hub:stabilityai/sdxl-1.0") == "stabilityai/sdxl-1.0"


@pytest.mark.parametrize(("decay", "steps", "said"), [(None, 10, False), (0.99, 500, False), (0.999, 500, True)])
def test_an_average_that_is_too_slow_for_its_run_is_told(decay: float | None, steps: int, said: bool) -> None:
    found = average_warnings(spec(ema_decay=decay, steps=steps))
    assert [fault.reason for fault in found] == ["AVERAGE_SLOW"] * said
    for fault in found:
        assert "still is the start by 61%" in fault.message
        assert average_warnings(spec(ema_decay=float(fault.remedy.split()[1]), steps=steps)) == ()


def test_runs_inherit_no_setting_of_the_service() -> None:
    assert child_environment({"PATH": "/bin", "MARSAM_TOKEN_FILE": "x", "HF_HOME": "y"}) == {
        "PATH": "/bin", "HF_HOME": "y",
    }  # fmt: skip


@pytest.mark.parametrize("field", ["max_concurrent_runs", "max_attempts", "poll_s", "stop_grace_s"])
def test_settings_without_sense_are_refused(field: str) -> None:
    with pytest.raises(Invalid) as caught:
        TrainerSettings(store="/s", **{field: -1})
    assert caught.value.field == field
    made = TrainerSettings(store="/s", cache=Path("~/x"))
    assert made.cache == Path.home() / "x"
    assert made.run_command[1:] == ("-m", "marsam_trainer.run")


@pytest.mark.parametrize(
    ("devices", "chosen", "expected"),
    [
        ((), None, 0),
        (("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"), None, 2),
        (("nvidia0", "nvidia1"), "1", 1),
        (("nvidia0", "nvidia1"), "", 0),
        (("nvidia0",), "0,1,2", 1),
    ],
)
def test_gpus_are_counted_without_a_library(
    tmp_path: Path, devices: tuple[str, ...], chosen: str | None, expected: int
) -> None:
    for name in devices:
        (tmp_path / name).touch()
    told = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    assert visible_gpus(told, devices=tmp_path) == expected


def test_each_process_of_a_run_needs_a_gpu_or_a_core(tmp_path: Path) -> None:
    cores = available_cores()
    check_room_here(cores, {}, devices=tmp_path)
    with pytest.raises(Invalid) as caught:
        check_room_here(cores + 1, {}, devices=tmp_path)
    assert (caught.value.field, caught.value.reason) == ("processes", "PROCESSES_UNSUPPORTED")
    assert f"{cores + 1} processes need a core each, and this machine has {cores}" in caught.value.message
    (tmp_path / "nvidia0").touch()
    check_room_here(1, {}, devices=tmp_path)
    with pytest.raises(Invalid, match="2 processes need a GPU each, and this machine has 1"):
        check_room_here(2, {}, devices=tmp_path)


def test_each_process_has_as_many_pictures() -> None:
    asked = {"base": "b", "dataset_version": "d", "method": "lora"}
    assert [spread.batch_size(Order(**asked, processes=count)) for count in (None, 1, 3, 5)] == [4, 4, 6, 5]
