"""The run program end to end on a real store: what it publishes, what it tells, and how it ends when something is
wrong."""

import asyncio
import json
import math
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from marsam_trainer.run import codes
from safetensors.torch import load

from marsam.catalog.repository import save_model
from marsam.catalog.runs import Preview
from marsam.core.errors import Missing
from marsam.core.records import dump
from marsam.store.content import read_blob
from tests.integration.run.endings import card, last_state, tensors
from tests.integration.run.store import PROJECT, Shelf, make

Program = Callable[[list[str]], int]


def _failure(shelf: Shelf, job_id: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((shelf.attempt_folder(job_id, 1) / "failure.json").read_text())
    return loaded


def test_a_run_publishes_a_model_with_its_lineage(shelf: Shelf, cache: Path, program: Program) -> None:
    order = {"preview": Preview(prompts=("a kite", "طائرة"), every=3), "labels": {"for": "a test"}, "ema_decay": 0.5}
    job_id = asyncio.run(shelf.order(**order))
    assert program(shelf.arguments(job_id, 1, cache)) == codes.DONE
    model = asyncio.run(shelf.model(job_id))
    assert (model.kind, model.family, model.method, model.base) == ("adapter", "sd1", "lora", shelf.base.name)
    assert (model.base_digest, model.licence, model.labels) == (shelf.base.digest, "Apache-2.0", {"for": "a test"})
    assert model.lineage.dataset_digest == shelf.version.digest
    assert model.lineage.run == f"projects/{PROJECT}/runs/{job_id}"
    assert model.lineage.seed == 5
    assert [file.path for file in model.files] == ["adapter_config.json", "adapter_model.safetensors", "README.md"]
    assert model.metrics["steps"] == 6.0
    assert model.metrics["samples"] == 5.0
    assert model.metrics["trainable_parameters"] > 0
    assert model.metrics["weights_at_rest_bytes"] > model.metrics["artifact_bytes"] > 0
    assert model.metrics["peak_memory_bytes"] > 100 << 20
    assert model.metrics["checkpoint_bytes"] > model.metrics["artifact_bytes"]
    assert model.metrics["checkpoint_pause_seconds"] > 0
    pictures = [sample for sample in model.samples if sample.media_type == "image/png"]
    assert len(pictures) == 2
    for picture in pictures:
        assert asyncio.run(read_blob(shelf.blobs, PROJECT, picture.digest)).startswith(b"\x89PNG")
    drawn = next(sample for sample in model.samples if sample.path == "samples/samples.json")
    again = json.loads(asyncio.run(read_blob(shelf.blobs, PROJECT, drawn.digest)))
    assert [(one["path"], one["prompt"], one["seed"]) for one in again] == [
        (pictures[0].path, "a kite", 5), (pictures[1].path, "طائرة", 6),
    ]  # fmt: skip
    about = ModelCard(asyncio.run(card(shelf.blobs, model)))
    assert [(one["text"], one["output"]["url"]) for one in about.data.widget] == [
        (one["prompt"], one["path"]) for one in again
    ]
    assert (about.data.license, about.data.language) == ("apache-2.0", ["ar", "en"])
    assert shelf.version.digest in about.text
    result = json.loads((shelf.attempt_folder(job_id, 1) / "result.json").read_text())
    assert result["model"] == model.name
    assert [point[0] for point in result["loss_curve"]] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    events = asyncio.run(shelf.events(job_id, 1))
    assert [event["step"] for event in events if event["kind"] == "checkpoint"] == [4]
    previews = [event for event in events if event["kind"] == "preview"]
    assert [(event["step"], len(event["files"])) for event in previews] == [(3, 2)]
    last = [event for event in events if event["kind"] == "progress"][-1]
    assert (last["phase"], last["step"], last["steps"]) == ("publishing", 6, 6)
    assert math.isfinite(last["loss"])
    assert last["memory_peak_bytes"] >= last["memory_used_bytes"] > 0


def test_pictures_held_out_are_asked_and_never_learnt_from(shelf: Shelf, cache: Path, program: Program) -> None:
    some = asyncio.run(shelf.holding_out(2))
    fewer = asyncio.run(shelf.of_items("only", some.version.items[:3]))
    models = []
    for one in (some, fewer):
        job_id = asyncio.run(one.order())
        assert program(one.arguments(job_id, 1, cache)) == codes.DONE
        models.append(asyncio.run(one.model(job_id)))
        told = [event["message"] for event in asyncio.run(one.events(job_id, 1)) if event["kind"] == "log"]
        result = json.loads((one.attempt_folder(job_id, 1) / "result.json").read_text())
        if one is some:
            curve = result["validation_curve"]
            assert [step for step, _ in curve] == [0, 4, 6]
            assert next(text for text in told if "held out" in text).startswith("loss on 2 pictures held out: ")
        else:
            assert result["validation_curve"] == []
    numbers = models[0].metrics
    assert [numbers["samples"], models[1].metrics["samples"]] == [3.0, 3.0]
    assert (numbers["validation_loss_first"], numbers["validation_loss"]) == (curve[0][1], curve[-1][1])
    assert numbers["validation_loss_best"] == min(loss for _, loss in curve)
    assert "validation_loss" not in models[1].metrics
    trained = [asyncio.run(tensors(shelf.blobs, model)) for model in models]
    assert trained[0] == trained[1]


def test_pictures_that_are_learnt_without_words_are_named(shelf: Shelf, cache: Path, program: Program) -> None:
    items = [replace(one, captions=()) if row < 2 else one for row, one in enumerate(shelf.version.items)]
    mute = asyncio.run(shelf.of_items("mute", items))
    job_id = asyncio.run(mute.order(steps=2))
    assert program(mute.arguments(job_id, 1, cache)) == codes.DONE
    told = [event["message"] for event in asyncio.run(mute.events(job_id, 1)) if event["kind"] == "log"]
    (line,) = [message for message in told if "no caption" in message]
    assert line.startswith("2 of 5 pictures have no caption")
    assert sorted(line.rpartition(": ")[2].split(", ")) == ["picture-0.png", "picture-1.png"]


def test_a_full_model_is_a_whole_base_again(shelf: Shelf, cache: Path, program: Program) -> None:
    job_id = asyncio.run(shelf.order(method="full", steps=2))
    assert program(shelf.arguments(job_id, 1, cache)) == codes.DONE
    model = asyncio.run(shelf.model(job_id))
    assert model.kind == "full"
    ours, theirs = ({file.path: file.digest for file in one.files} for one in (model, shelf.base))
    assert set(ours) == {*theirs, "README.md"}
    changed = {path for path in ours if ours[path] != theirs.get(path)}
    assert "unet/diffusion_pytorch_model.safetensors" in changed
    assert all(path.startswith("unet/") or path == "README.md" for path in changed)


@pytest.mark.slow
def test_a_base_that_is_said_to_be_distilled_is_drawn_in_few_steps_and_so_is_what_is_tuned_from_it(
    shelf: Shelf, cache: Path, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    said = replace(shelf.base, name=f"{shelf.base.name}-said", params={"distilled": True})
    asyncio.run(save_model(shelf.blobs, said))
    seconds, prompts = {}, Preview(prompts=("a red kite",) * 4, every=1)
    for base, drawn in ((shelf.base, "15 steps, guidance 3"), (said, "4 steps, guidance 1")):
        job_id = asyncio.run(shelf.order(method="full", steps=1, base=base.name))
        assert program(shelf.arguments(job_id, 1, cache)) == codes.DONE
        model = asyncio.run(shelf.model(job_id))
        assert drawn in asyncio.run(card(shelf.blobs, model))
        assert model.params.get("distilled", False) is (base is said)
        # Planned alike; and a run from that model goes on with it.
        again = shelf.spec(job_id, base=model.name, base_digest=model.digest, method="full", preview=prompts)
        capsys.readouterr()
        arguments = ["plan", "--store", shelf.url, "--cache", str(cache), "--spec-json", dump(again).decode()]
        assert program(arguments) == codes.DONE
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        stages = {stage["name"]: stage["seconds"] for stage in told["stages"]}
        seconds[base.name] = stages["preview"] / stages["train"]
    # 15 guided predictions a picture, against 4 that are not.
    assert seconds[said.name] < 0.5 * seconds[shelf.base.name]


def test_the_cache_is_cut_to_its_budget_but_for_what_trains(shelf: Shelf, program: Program, tmp_path: Path) -> None:
    job_id = asyncio.run(shelf.order(steps=1))
    assert program([*shelf.arguments(job_id, 1, tmp_path), "--cache-bytes", "1"]) == codes.DONE
    # Pictures are not needed once they are encoded; the base's files are laid out until the end.
    cached = {f"sha256:{file.name}" for file in (tmp_path / "sha256").glob("??/*")}
    assert cached == {file.digest for file in shelf.base.files}


def test_equal_material_trains_to_equal_weights(
    shelf: Shelf, cache: Path, program: Program, base_folder: Path, tmp_path: Path
) -> None:
    """Another import of the same pictures has other item ids, and another cache: neither may matter."""
    twin = asyncio.run(make(tmp_path / "store", base_folder))
    assert twin.version.digest == shelf.version.digest
    one, two = asyncio.run(shelf.order(seed=77)), asyncio.run(twin.order(seed=77))
    assert program(shelf.arguments(one, 1, cache)) == codes.DONE
    assert program(twin.arguments(two, 1, tmp_path / "cache")) == codes.DONE
    first, second = asyncio.run(shelf.model(one)), asyncio.run(twin.model(two))
    assert first.metrics["final_loss"] == second.metrics["final_loss"]
    assert [sample.digest for sample in first.samples] == [sample.digest for sample in second.samples]


def test_losses_that_stay_nan_end_the_run_and_keep_the_good_checkpoint(
    shelf: Shelf, cache: Path, program: Program
) -> None:
    job_id = asyncio.run(shelf.order(learning_rate=1e30, warmup_steps=0, steps=50, checkpoint_every=1, method="full"))
    assert program(shelf.arguments(job_id, 1, cache)) == codes.NOT_FINITE
    failure = _failure(shelf, job_id)
    assert failure["reason"] == codes.NOT_FINITE_REASON
    assert failure["message"].endswith("the last checkpoint of finite numbers is that of step 1 of attempt 1")
    step, _, state = last_state(shelf, job_id)
    assert (step, all(value.isfinite().all() for value in load(state).values())) == (1, True)


def test_weights_that_the_last_step_spoilt_are_not_published(shelf: Shelf, cache: Path, program: Program) -> None:
    job_id = asyncio.run(shelf.order(learning_rate=1e39, steps=1))
    assert program(shelf.arguments(job_id, 1, cache)) == codes.NOT_FINITE
    failure = _failure(shelf, job_id)
    assert failure["message"].startswith("step 1 left numbers that are not finite in param/")
    assert failure["message"].endswith("no checkpoint was kept before")
    with pytest.raises(Missing):
        asyncio.run(shelf.model(job_id))


def test_a_picture_that_cannot_be_read_is_named(
    base_folder: Path, cache: Path, program: Program, tmp_path: Path
) -> None:
    spoilt = asyncio.run(make(tmp_path / "store", base_folder, spoilt=True))
    job_id = asyncio.run(spoilt.order())
    assert program(spoilt.arguments(job_id, 1, cache)) == codes.BAD_DATA
    failure = _failure(spoilt, job_id)
    assert failure["reason"] == "PICTURE_UNREADABLE"
    assert "picture-5.png" in failure["message"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"base_digest": "sha256:" + "0" * 64}, "DIGEST_MISMATCH"),
        ({"method": "lroa"}, "UNKNOWN_METHOD"),
        ({"method_params": {"rnk": 4}}, "UNKNOWN_PARAMETER"),
        ({"resolution": 33}, "RESOLUTION_UNSUPPORTED"),
        ({"languages": ("fr",)}, "LANGUAGE_ABSENT"),
    ],
)
def test_a_wrong_order_is_refused(
    shelf: Shelf, cache: Path, program: Program, changes: dict[str, Any], reason: str
) -> None:
    job_id = asyncio.run(shelf.order(**changes))
    assert program(shelf.arguments(job_id, 1, cache)) == codes.BAD_SPEC
    assert _failure(shelf, job_id)["reason"] == reason


def test_an_attempt_that_was_replaced_stops(shelf: Shelf, cache: Path, program: Program) -> None:
    job_id = asyncio.run(shelf.order(steps=100_000, checkpoint_every=100_000))
    asyncio.run(shelf.begin(job_id))
    assert program(shelf.arguments(job_id, 1, cache)) == codes.STORE
    assert _failure(shelf, job_id)["reason"] == "JOB_FENCED"


@pytest.mark.slow
def test_metrics_can_be_scraped_while_it_trains(shelf: Shelf, cache: Path) -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job_id = asyncio.run(shelf.order(steps=100_000, checkpoint_every=100_000))
    process = shelf.start(job_id, 1, cache, "--metrics-port", str(port))
    try:
        deadline, text = time.monotonic() + 200.0, ""
        # What is counted is there from the start, at 0; this is not.
        while f'marsam_training_step{{run_id="{job_id}"}}' not in text:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.2)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    text = answer.read().decode()
            except OSError:
                continue
    finally:
        process.kill()
        process.wait(10)
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    run = f'run_id="{job_id}"'
    assert float(lines[f'marsam_training_images_total{{family="sd1",method="lora",{run}}}']) >= 2
    assert float(lines[f'marsam_training_images_per_second{{family="sd1",method="lora",{run}}}']) > 0
    assert float(lines[f'marsam_device_memory_bytes{{device="cpu",kind="peak",{run}}}']) > 100 << 20
    assert {line for line in lines if run not in line} == set()
    phases = [
        float(lines[f'marsam_training_step_phase_seconds_total{{phase="{name}",{run}}}'])
        for name in ("data", "forward", "backward", "optimiser")
    ]
    whole = float(lines[f'marsam_training_step_seconds_sum{{family="sd1",method="lora",{run}}}'])
    assert all(phase > 0 for phase in phases)
    assert sum(phases) == pytest.approx(whole, rel=0.05)


def test_a_plan_names_every_term_and_every_fault(
    shelf: Shelf, cache: Path, program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def plan(**changes: Any) -> dict[str, Any]:
        file = tmp_path / "spec.json"
        file.write_bytes(dump(shelf.spec("01jdfw3e5zk8q6y7v9x0abcdef", **changes)))
        code = program(
            ["plan", "--store", str(shelf.root), "--cache", str(cache), "--spec", str(file), "--device", "cpu"]
        )
        assert code == codes.DONE
        loaded: dict[str, Any] = json.loads(capsys.readouterr().out)
        return loaded

    lora, qlora, full = (plan(method=method) for method in ("lora", "qlora", "full"))
    for found in (lora, qlora, full):
        assert found["faults"] == []
        assert found["total_bytes"] == sum(term["bytes"] for term in found["memory"])
        assert found["fits"] is True
        assert found["seconds"] > 0
    terms = {
        name: {term["term"]: term["bytes"] for stage in found["stages"][2:3] for term in stage["memory"]}
        for name, found in (("lora", lora), ("qlora", qlora), ("full", full))
    }
    assert [stage["name"] for stage in lora["stages"]] == [
        "encode pictures", "encode captions", "train", "preview", "save"
    ]  # fmt: skip
    for found in (lora, qlora, full):
        assert found["total_bytes"] == max(stage["total_bytes"] for stage in found["stages"])
        assert found["remedies"] == []
    assert "base weights" not in terms["full"]
    assert terms["full"]["trainable weights"] == terms["lora"]["base weights"] == 4 * full["trainable_parameters"]
    assert terms["lora"]["optimiser"] == 8 * lora["trainable_parameters"]
    assert terms["qlora"]["base weights"] < terms["lora"]["base weights"]
    assert 0 < qlora["quantised_share"] < 1
    assert lora["quantised_share"] == 0
    faulty = plan(resolution=33, shift=3.0, method_params={"rnk": 4, "rank": 0}, languages=("fr",))
    assert {fault["reason"] for fault in faulty["faults"]} == {
        "RESOLUTION_UNSUPPORTED",
        "UNKNOWN_PARAMETER",
        "PARAMETER_RANGE",
        "LANGUAGE_ABSENT",
        "TIMES_FIXED",
    }


@pytest.mark.slow
def test_what_cannot_fit_says_what_to_change_and_does_not_start(
    shelf: Shelf, cache: Path, program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    huge = {"batch_size": 4096, "resolution": 2048}
    file = tmp_path / "spec.json"
    file.write_bytes(dump(shelf.spec("01jdfw3e5zk8q6y7v9x0abcdef", **huge)))
    arguments = ["plan", "--store", str(shelf.root), "--cache", str(cache), "--spec", str(file), "--device", "cpu"]
    assert program(arguments) == codes.DONE
    found = json.loads(capsys.readouterr().out)
    assert not found["fits"]
    assert (found["peak_stage"], found["total_bytes"] > found["available_bytes"]) == ("train", True)
    changes = [remedy["changes"] for remedy in found["remedies"]]
    assert next(iter(changes[0])) == "gradient_checkpointing"
    (batch,) = [change for change in changes if "batch_size" in change]
    assert batch["batch_size"] * batch["accumulate"] == 4096
    totals = [found["total_bytes"], *(remedy["total_bytes"] for remedy in found["remedies"])]
    assert totals == sorted(totals, reverse=True)
    assert [remedy["fits"] for remedy in found["remedies"]] == [False] * (len(changes) - 1) + [True]
    # Recorded all the same, where nobody could tell in time, it ends before it loads anything.
    job_id = asyncio.run(shelf.order(**huge))
    assert program(shelf.arguments(job_id, 1, cache)) == codes.BAD_SPEC
    failure = json.loads((shelf.attempt_folder(job_id, 1) / "failure.json").read_text())
    assert (failure["reason"], failure["field"]) == ("MEMORY_SHORT", "batch_size")
    assert "activations take" in failure["message"]


@pytest.mark.slow
def test_processes_that_share_a_machine_are_planned_together(
    shelf: Shelf, cache: Path, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    def stages(together: int, processes: int = 2, **changes: Any) -> dict[str, dict[str, int]]:
        order = shelf.spec("01jdfw3e5zk8q6y7v9x0abcdef", **changes, processes=processes, batch_size=4)
        arguments = ["plan", "--store", shelf.url, "--cache", str(cache), "--spec-json", dump(order).decode()]
        assert program([*arguments, "--device", "cpu", "--together", str(together)]) == codes.DONE
        found = json.loads(capsys.readouterr().out)
        assert found["total_bytes"] == max(stage["total_bytes"] for stage in found["stages"])
        return {stage["name"]: {term["term"]: term["bytes"] for term in stage["memory"]} for stage in found["stages"]}

    alone, both = (stages(count)["save"] for count in (1, 2))
    for term in ("base weights", "trainable weights", "optimiser", "encoded data"):
        assert both[term] == 2 * alone[term]
    assert both["libraries"] > 1.9 * alone["libraries"]
    # The first alone writes checkpoints of what all hold whole.
    assert both["checkpoint on its way"] == alone["checkpoint on its way"]
    alone, both = (stages(count, sharding="sharded")["save"] for count in (1, 2))
    assert both["checkpoint on its way"] == 2 * alone["checkpoint on its way"]
    # An order with fewer, as remedies try them, has the machine to those.
    one, fewer = (stages(count, processes=1)["train"] for count in (1, 2))
    assert fewer.pop("libraries") < 1.5 * one.pop("libraries")
    assert fewer == one


@pytest.mark.slow
def test_a_run_is_held_against_its_memory_by_what_past_runs_took(
    shelf: Shelf, cache: Path, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    job_id = asyncio.run(shelf.order(steps=1))
    spec = dump(shelf.spec(job_id, steps=1)).decode()
    assert program(["plan", "--store", shelf.url, "--cache", str(cache), "--spec-json", spec, "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    # A limit that the arithmetic breaks, and three quarters of it do not.
    short = ["--memory-limit", str(0.85 * found["total_bytes"] / found["available_bytes"])]
    assert program([*shelf.arguments(job_id, 1, cache), *short]) == codes.BAD_SPEC
    asyncio.run(shelf.begin(job_id))
    other = ["--memory-correction", "cuda=0.75"]
    assert program([*shelf.arguments(job_id, 2, cache), *short, *other]) == codes.BAD_SPEC
    asyncio.run(shelf.begin(job_id))
    assert (
        program([*shelf.arguments(job_id, 3, cache), *short, *other, "--memory-correction", "cpu=0.75"]) == codes.DONE
    )
    told = [event["message"] for event in asyncio.run(shelf.events(job_id, 3)) if event["kind"] == "log"]
    assert any("by what past runs took" in message for message in told)
    # Kept beside what it takes is the arithmetic: corrections are not corrected.
    kept = asyncio.run(shelf.model(job_id)).metrics["estimated_peak_bytes"]
    assert kept > 0.85 * found["total_bytes"]
