"""A plan's memory and arithmetic are traced on torch's meta device: every family must go through it, however it is
trained."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from marsam_trainer.run import optimisers
from marsam_trainer.run.footprint import footprint
from marsam_trainer.run.shapes import tensors_of
from marsam_trainer.run.stages import Amount, Footprint
from marsam_trainer.run.tracing import trace
from marsam_trainer.run.validation import HeldOut
from peft.tuners.lora import LoraLayer

from marsam.catalog.runs import Optimiser, Precision, RunSpec
from marsam.diffusion import registry, schedule
from marsam.diffusion.spec import Conditioning
from marsam.diffusion.weights.net import bytes_at_rest
from tests.contract.families import rig as rigs


def _spec(method: str, *, side: int, precision: Precision, batch: int) -> RunSpec:
    return RunSpec(
        name="projects/p/runs/01arz3ndektsv4rrffq69g5fav",
        base="projects/p/models/base",
        base_digest="sha256:" + "0" * 64,
        dataset_version="projects/p/datasets/d/versions/1",
        dataset_digest="sha256:" + "0" * 64,
        method=method,
        output_model_id="out",
        steps=10,
        batch_size=batch,
        learning_rate=1e-4,
        resolution=side,
        seed=7,
        precision=precision,
    )


def _planned(base: Path, family: str, method: str, *, lanes: int = 1, more: dict[str, Any] | None = None) -> Footprint:
    facts = registry.read_base_folder(family, base)
    params = registry.method_params(method, {**rigs.PARAMS[method], **(more or {})}, family=family)
    return _of(base, family, method, params, _spec(method, side=facts.default_side, precision="fp32", batch=2), lanes)


def _of(
    base: Path,
    family: str,
    method: str,
    params: Mapping[str, Any],
    spec: RunSpec,
    lanes: int = 1,
    device: str = "cpu",
    held_out: int = 0,
) -> Footprint:
    facts = registry.read_base_folder(family, base)
    amount = Amount(pictures=5, captions=4, lanes=lanes, held_out=held_out)
    return footprint(registry.family(family), registry.method(method), params, base, facts, spec, amount, device=device)


def _stages(found: Footprint) -> dict[str, dict[str, int]]:
    return {stage.name: dict(stage.terms) for stage in found.stages}


@pytest.mark.slow
@pytest.mark.parametrize("method", registry.methods())
@pytest.mark.parametrize("family", registry.families())
def test_what_stands_is_counted_to_the_byte(bases: dict[str, Path], family: str, method: str) -> None:
    stages = _stages(_planned(bases[family], family, method))
    assert list(stages) == ["encode pictures", "encode captions", "train", "preview", "save"]
    rig = rigs.load(bases[family], family, method)
    base = registry.family(family).load(bases[family])
    held = stages["train"]["base weights"] + stages["train"]["trainable weights"]
    assert held == bytes_at_rest(rig.denoiser)
    encoders = [part for part in base.text.values() if isinstance(part, torch.nn.Module)]
    assert stages["encode captions"]["text encoders"] == sum(map(bytes_at_rest, encoders))
    coder = bytes_at_rest(base.image_coder)
    assert [stages[name]["image coder"] for name in ("encode pictures", "encode captions", "preview")] == [coder] * 3
    for kind in get_args(Optimiser):
        loop = rigs.loop(rig, optimiser=kind)
        loop.step()
        moments = sum(
            value.numel() * value.element_size()
            for name, value in optimisers.state(loop.optimiser, loop.trained).items()
            if not name.startswith("optimiser/step/") and name.split("/")[1] not in ("step", "qmap1", "qmap2")
        )
        assert moments == optimisers.state_bytes(kind, [value.numel() for value in rig.trained.values()])
    assert stages["train"]["optimiser"] == 8 * sum(value.numel() for value in rig.trained.values())


@pytest.mark.slow
@pytest.mark.parametrize("method", registry.methods())
@pytest.mark.parametrize("family", registry.families())
def test_what_comes_and_goes_follows_the_order(bases: dict[str, Path], family: str, method: str) -> None:
    base = bases[family]
    params = registry.method_params(method, rigs.PARAMS[method], family=family)
    spec = _spec(method, side=registry.read_base_folder(family, base).default_side, precision="fp32", batch=8)

    def planned(**changes: Any) -> Footprint:
        return _of(base, family, method, params, replace(spec, **changes))

    def moving(found: Footprint, stage: str = "train") -> int:
        terms = _stages(found)[stage]
        return terms["activations"] + terms.get("gradients", 0)

    found = planned()
    rig = rigs.load(base, family, method)
    assert found.trainable == sum(value.numel() for value in rig.trained.values())
    assert (found.share > 0) is (method == "qlora")
    double = planned(batch_size=16)
    assert double.stages[2].flops == pytest.approx(2 * found.stages[2].flops, rel=0.2)
    assert moving(double) > 1.3 * moving(found)
    # Weights are no activations, whatever they were cast to.
    assert moving(planned(precision="bf16")) < moving(found)
    again = planned(gradient_checkpointing=True)
    assert moving(again) < moving(found)
    assert again.stages[2].flops > found.stages[2].flops
    parts = planned(batch_size=2, accumulate=4)
    assert moving(parts) < moving(found) + 4 * found.trainable
    assert parts.stages[2].flops == pytest.approx(found.stages[2].flops, rel=0.2)
    # On a GPU what is encoded waits in the host's memory, and a copy of the state that is being saved.
    there = _of(base, family, method, params, replace(spec, ema_decay=0.9), device="cuda:0")
    assert all("encoded data" not in stage.terms for stage in there.stages)
    train = there.stages[2]
    saving = _of(
        base, family, method, params, replace(spec, ema_decay=0.9, steps=9, checkpoint_every=4), device="cuda:0"
    )
    assert saving.stages[2].host - train.host == 2 * (4 + 8 + 4) * there.trainable
    assert saving.stages[2].terms == train.terms
    beside = _stages(planned(steps=9, checkpoint_every=4))["train"]["checkpoint on its way"]
    assert beside == 2 * (4 + 8) * found.trainable
    # The best weights wait there too.
    kept = _of(base, family, method, params, replace(spec, ema_decay=0.9, publish="both"), device="cuda:0")
    assert kept.stages[2].host - train.host == 4 * there.trainable
    # And are saved with the rest.
    both = _stages(planned(steps=9, checkpoint_every=4, publish="both"))["train"]["checkpoint on its way"]
    assert both == 2 * (4 + 8 + 4) * found.trainable
    assert [term for term in kept.stages[2].terms if term == "best weights"] == []
    assert _stages(planned(publish="best"))["train"]["best weights"] == 4 * found.trainable


@pytest.mark.slow
@pytest.mark.parametrize("method", registry.methods())
def test_asking_what_is_held_out_is_a_stage(bases: dict[str, Path], method: str) -> None:
    params = registry.method_params(method, rigs.PARAMS[method], family="sd1")
    spec = replace(_spec(method, side=32, precision="fp32", batch=8), steps=9, checkpoint_every=4, ema_decay=0.9)
    plain, found = (_of(bases["sd1"], "sd1", method, params, spec, held_out=count) for count in (0, 6))
    names = [stage.name for stage in plain.stages]
    assert [stage.name for stage in found.stages] == [*names[:-1], "validate", names[-1]]
    train, preview, asked = found.stages[2:5]
    # Before the first step, after the fourth and the eighth, and at the end: six pictures at four times each.
    forward = asked.flops / (4 * 6 * 4)
    assert 2 * forward < train.flops / (9 * 8) < 4 * forward
    # The trained values make room for their average, there and while pictures are drawn.
    assert asked.terms["weights put aside"] == preview.terms["weights put aside"] == 4 * found.trainable
    assert 0 < asked.terms["activations"] < train.terms["activations"] + train.terms["gradients"]


@pytest.mark.slow
@pytest.mark.parametrize("decoder", [False, True])
@pytest.mark.parametrize("family", registry.families())
def test_asking_what_is_held_out_takes_what_was_planned(bases: dict[str, Path], family: str, decoder: bool) -> None:
    rig = rigs.load(bases[family], family, "full", params={"image_decoder": decoder})
    spec = _spec("full", side=rig.side, precision="fp32", batch=8)
    stage = next(
        stage
        for stage in _of(bases[family], family, "full", rig.params, spec, held_out=5).stages
        if stage.name == "validate"
    )
    loop = rigs.loop(rig)
    held_out = HeldOut(loop.feed.samples, schedule.by_cells(rig.parts.facts), seed=1, batch_size=8)
    batch, conditioning = next(iter(held_out)), rig.parts.facts.conditioning.items()
    # Captions as long as the base reads them.
    batch = replace(batch, cond=Conditioning({name: torch.randn(8, *shape) for name, shape in conditioning}))
    given = [batch.clean, batch.noise, *batch.cond.tensors.values()]
    pictures = [batch.pixels] if batch.pixels is not None else []
    assert stage.terms.get("pictures", 0) == sum(value.nbytes for value in pictures)
    assert bool(pictures) is decoder
    # Weights stand before, and so do tables of positions that are no buffers.
    held = [*rig.denoiser.modules(), *rig.parts.image_coder.modules()]
    tables = [value for part in held for value in vars(part).values() if isinstance(value, torch.Tensor)]
    there = [*tensors_of(rig.denoiser), *tensors_of(rig.parts.image_coder), *tables, *given, *pictures]
    # Every tensor that the loop makes on the way is weighed.
    taken = trace(lambda: loop.validate([batch], stopping=lambda: False), there=there)
    measured = taken.peak + sum(value.nbytes for value in given)
    # A plan may take those tables for made on the way.
    assert 0.98 * measured <= stage.terms["activations"] <= 1.02 * measured + sum(value.nbytes for value in tables)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", registry.families())
def test_what_an_image_decoder_adds(bases: dict[str, Path], family: str, precision: Precision) -> None:
    rig = rigs.load(bases[family], family, "full", params={"image_decoder": True})
    spec = _spec("full", side=rig.parts.facts.default_side, precision=precision, batch=2)
    params = registry.method_params("full", {}, family=family)
    plain = _of(bases[family], family, "full", params, spec)
    found = _of(bases[family], family, "full", rig.params, spec)
    assert found.trainable == sum(value.numel() for value in rig.trained.values())
    train, alone = _stages(found)["train"], _stages(plain)["train"]
    held = train["base weights"] + train["trainable weights"]
    # All of the coder in fp32, whatever the run computes in.
    assert held == alone["base weights"] + alone["trainable weights"] + bytes_at_rest(rig.parts.image_coder)
    assert train["activations"] + train["gradients"] > alone["activations"] + alone["gradients"]
    assert "image coder" not in _stages(found)["preview"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("family", ["sd1", "flux"])
def test_what_dora_adds(bases: dict[str, Path], family: str, method: str) -> None:
    plain, dora = (_planned(bases[family], family, method, more={"dora": value}) for value in (False, True))
    rig = rigs.load(bases[family], family, method, params={"dora": True})
    train = _stages(dora)["train"]
    assert dora.trainable == sum(value.numel() for value in rig.trained.values()) > plain.trainable
    assert train["base weights"] + train["trainable weights"] == bytes_at_rest(rig.denoiser)
    assert train["activations"] > _stages(plain)["train"]["activations"]
    # In half precision the square of a layer's inputs is made in full all the same.
    tuned = [layer.get_base_layer() for layer in rig.denoiser.modules() if isinstance(layer, LoraLayer)]
    wide = max(layer.in_features for layer in tuned if isinstance(layer, torch.nn.Linear))
    spec = _spec(method, side=rig.parts.facts.default_side, precision="bf16", batch=2)
    half = _stages(_of(bases[family], family, method, rig.params, spec))
    assert half["preview"]["activations"] >= 6 * wide**2


@pytest.mark.slow
@pytest.mark.parametrize("method", registry.methods())
def test_in_parts_a_process_holds_its_share_and_a_block(bases: dict[str, Path], method: str) -> None:
    params = registry.method_params(method, rigs.PARAMS[method], family="z_image")
    spec = replace(_spec(method, side=32, precision="fp32", batch=4), processes=4, ema_decay=0.9)
    whole, parts = (
        _stages(_of(bases["z_image"], "z_image", method, params, replace(spec, sharding=sharding)))["train"]
        for sharding in ("replicated", "sharded")
    )
    for term in ("base weights", "trainable weights", "moving average", "optimiser"):
        assert parts[term] == -(-whole[term] // 4)
    assert parts["activations"] == whole["activations"]
    assert parts["blocks put together"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_text_encoders_that_train_stand_from_the_first_step_on(bases: dict[str, Path], family: str) -> None:
    still, trained = (_planned(bases[family], family, "lora", more={"text_encoders": on}) for on in (False, True))
    assert "encode captions" not in _stages(trained)
    encoders = _stages(still)["encode captions"]["text encoders"]
    more = _stages(trained)["train"]["base weights"] - _stages(still)["train"]["base weights"]
    assert more == encoders
    assert trained.trainable > still.trainable
