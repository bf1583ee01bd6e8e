"""What every family promises whose text encoders are tuned beside the denoiser, under every method that can."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from marsam_trainer.run import preview
from marsam_trainer.run.loop import Loop
from marsam_trainer.run.recompute import checkpoint_blocks

from marsam.core.errors import Corrupt, Invalid
from marsam.diffusion import registry, tuned
from marsam.diffusion.adapter import net as adapters
from marsam.diffusion.adapter.parts import net as parts_of_adapters
from marsam.diffusion.method import Kind
from marsam.diffusion.precision import Precision
from marsam.diffusion.sampling import Picture, sample
from marsam.diffusion.spec import Components, Conditioning
from tests.contract.families import rig as rigs

ADAPTED = [name for name in registry.methods() if registry.method(name).facts.kind is Kind.ADAPTER]
PAIRS = [
    (family, method)
    for family in registry.families()
    for method in registry.methods()
    if method in ADAPTED or any(encoder.whole for encoder in registry.family_facts(family).encoders.values())
]
every_pair = pytest.mark.parametrize(("family", "method"), PAIRS)


def _load(source: Path, family: str, method: str, **more: Any) -> rigs.Rig:
    return rigs.load(source, family, method, params={**rigs.WITH_TEXT, **more})


@torch.no_grad()
def _read(rig: rigs.Rig, parts: Components) -> Conditioning:
    for part in parts.text.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return rig.family.encode_text(parts, ["", *rigs.PROMPTS])


def _equal(one: Conditioning, other: Conditioning) -> bool:
    return set(one.tensors) == set(other.tensors) and all(
        torch.equal(value, other.tensors[name]) for name, value in one.tensors.items()
    )


def _modules(rig: rigs.Rig) -> dict[str, Any]:
    """The denoiser and all text encoders, by folder."""
    encoders = {name: part for name, part in rig.parts.text.items() if isinstance(part, torch.nn.Module)}
    return {rig.family.facts.denoiser_folder: rig.denoiser, **encoders}


def test_every_family_says_which_of_its_encoders_can_be_tuned() -> None:
    for name in registry.families():
        facts = registry.family_facts(name)
        assert facts.encoders
        assert set(facts.encoders) <= set(facts.text_folders)


@pytest.mark.parametrize("family", ["flux2", "qwen_image", "sana", "z_image"])
def test_a_language_model_takes_adapters_only(family: str) -> None:
    with pytest.raises(Invalid) as caught:
        registry.method_params("full", rigs.WITH_TEXT, family=family)
    assert caught.value.reason == "PARAMETER_UNSUITED"
    assert caught.value.field == "method_params.text_encoders"
    assert "lora" in caught.value.remedy
    assert registry.method_params("lora", rigs.WITH_TEXT, family=family)["text_encoders"] is True


def test_text_encoders_are_left_alone_unless_asked_for(bases: dict[str, Path]) -> None:
    params = registry.method_params("lora", {}, family="sd1")
    assert params["text_encoders"] is False
    rig = rigs.load(bases["sd1"], "sd1", "lora")
    assert not any(value.requires_grad for value in rig.parts.text["text_encoder"].parameters())
    assert not any(name.startswith("text_encoder") for name in rig.trained)


@pytest.mark.slow
@every_pair
def test_what_is_declared_trains_in_all_parts_and_nothing_else(
    bases: dict[str, Path], family: str, method: str
) -> None:
    rig = _load(bases[family], family, method)
    facts = rig.family.facts
    named = {
        tuned.named(facts, folder, name): value
        for folder, module in _modules(rig).items()
        for name, value in module.named_parameters()
    }
    touched = {folder for folder in facts.encoders if any(name.startswith(f"{folder}.") for name in rig.trained)}
    assert touched == {name for name, one in facts.encoders.items() if method != "full" or one.whole}
    rigs.moves_alone(rig, named)


@pytest.mark.slow
@every_pair
def test_nothing_changes_at_first_and_what_is_saved_reads_captions_as_it_was_tuned(
    bases: dict[str, Path], family: str, method: str, tmp_path: Path
) -> None:
    rig = _load(bases[family], family, method)
    untuned = rig.family.load(bases[family], quantisation=rig.method.quantisation(rig.params))
    before, said_before = _read(rig, untuned), rigs.predict(rig.family, untuned)
    assert _equal(_read(rig, rig.parts), before)
    rigs.taught(rig)
    after, said = _read(rig, rig.parts), rigs.predict(rig.family, rig.parts)
    assert (
        max(float((after.tensors[name] - before.tensors[name]).abs().max()) for name in rig.parts.facts.conditioning)
        > 1e-4
    )
    paths = rig.save(tmp_path / "artifact", note="x")
    assert all((tmp_path / "artifact" / path).is_file() for path in paths)
    if rig.method.facts.kind is Kind.FULL:
        shutil.copytree(bases[family], tmp_path / "whole")
        for path in paths:
            shutil.rmtree(tmp_path / "whole" / path.split("/")[0], ignore_errors=True)
        shutil.copytree(tmp_path / "artifact", tmp_path / "whole", dirs_exist_ok=True)
        loaded = rig.family.load(tmp_path / "whole")
        assert _equal(_read(rig, loaded), after)
        assert torch.equal(rigs.predict(rig.family, loaded), said)
        return
    adapter = adapters.read(tmp_path / "artifact")
    assert set(adapter.text) == set(rig.family.facts.encoders)
    assert all(own.metadata["note"] == "x" for own in (adapter, *adapter.text.values()))
    modules = tuned.modules(untuned, rig.family.facts, rig.method.facts, rig.params)
    assert 2 * parts_of_adapters.apply_all(modules, rig.family.facts, adapter) == len(rig.trained)
    assert _equal(_read(rig, untuned), after)
    assert torch.equal(rigs.predict(rig.family, untuned), said)
    for module in modules.values():
        adapters.set_weight(module, 0.0)
    assert _equal(_read(rig, untuned), before)
    assert torch.equal(rigs.predict(rig.family, untuned), said_before)


@pytest.mark.slow
@every_pair
def test_a_resumed_run_ends_in_the_same_bits_previews_or_not(
    bases: dict[str, Path], family: str, method: str, tmp_path: Path
) -> None:
    more = {} if method == "full" else {"dropout": 0.2}

    def draw(loop: Loop) -> None:
        wanted = preview.pictures(["a red kite"], loop.parts.facts, side=rigs.side(loop.parts.facts), seed=1)
        how = {"lanes": loop.lanes, "budget_s": 60.0}
        assert preview.draw(loop.family, loop.parts, wanted, None, **how) is not None
        assert preview.draw(loop.family, loop.parts, wanted, None, **how, stopping=lambda: True) is None

    rigs.goes_on_in_the_same_bits(
        lambda: rigs.loop(_load(bases[family], family, method, **more), steps=6, ema_decay=0.9),
        tmp_path, at=3, meanwhile=draw,
    )  # fmt: skip


@pytest.mark.slow
@every_pair
def test_lanes_and_parts_of_a_batch_only_round_otherwise(bases: dict[str, Path], family: str, method: str) -> None:
    one, two, again, parts = (
        rigs.loop(_load(bases[family], family, method), lanes=lanes, rate=1e-3, accumulate=accumulate)
        for lanes, accumulate in ((1, 1), (2, 1), (2, 1), (1, 4))
    )
    losses = [[loop.step() for _ in range(3)] for loop in (one, two, again, parts)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[3] == pytest.approx(losses[0], rel=1e-3)
    assert losses[1] == losses[2]
    assert rigs.digest(two.state()) == rigs.digest(again.state())


@pytest.mark.slow
@every_pair
def test_blocks_that_are_computed_again_give_the_same(bases: dict[str, Path], family: str, method: str) -> None:
    kept, again = (_load(bases[family], family, method) for _ in range(2))
    for module in tuned.modules(again.parts, again.family.facts, again.method.facts, again.params).values():
        checkpoint_blocks(module)
    loops = [rigs.loop(rig, steps=3) for rig in (kept, again)]
    losses = [[loop.step() for _ in range(3)] for loop in loops]
    assert losses[1] == losses[0]
    assert rigs.digest(loops[1].state()) == rigs.digest(loops[0].state())


@pytest.mark.slow
@pytest.mark.parametrize("method", registry.methods())
def test_bf16_holds_encoders_in_bf16_and_trains_in_fp32(bases: dict[str, Path], method: str) -> None:
    rig = rigs.load(bases["sdxl"], "sdxl", method, params=rigs.WITH_TEXT, precision=Precision.BF16)
    loop = rigs.loop(rig, steps=3)
    losses = [loop.step() for _ in range(3)]
    assert all(value.dtype == torch.float32 for value in rig.trained.values())
    exact = rigs.loop(_load(bases["sdxl"], "sdxl", method), steps=3).step()
    assert losses[0] == pytest.approx(exact, rel=0.05)


@pytest.mark.slow
def test_a_preview_is_drawn_by_the_encoders_as_they_are(bases: dict[str, Path]) -> None:
    rig = rigs.taught(_load(bases["sd1"], "sd1", "lora"))
    wanted = preview.pictures(["a red kite"], rig.parts.facts, side=rig.side, seed=1)
    lanes = rigs.loop(rig).lanes
    tuned_ones = preview.draw(rig.family, rig.parts, wanted, None, lanes=lanes, budget_s=60.0)
    base = rig.family.load(bases["sd1"])
    texts = rig.family.encode_text(base, ["a red kite", ""])
    frozen_ones = preview.draw(rig.family, rig.parts, wanted, texts, lanes=lanes, budget_s=60.0)
    assert tuned_ones is not None
    assert tuned_ones != frozen_ones


@pytest.mark.slow
def test_an_adapter_of_another_bases_encoder_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    _load(bases["sdxl"], "sdxl", "lora").save(tmp_path)
    adapter = adapters.read(tmp_path)
    shutil.rmtree(tmp_path / "text_encoder_2")
    rig = _load(bases["sd1"], "sd1", "lora")
    rig.save(tmp_path / "sd1")
    strange = adapters.Adapter(
        shape=adapter.shape, pairs=adapters.read(tmp_path / "sd1").pairs, metadata={}, text=adapter.text
    )
    parts = rig.family.load(bases["sd1"])
    modules = {"unet": parts.denoiser, "text_encoder": parts.text["text_encoder"]}
    with pytest.raises(Corrupt) as caught:
        parts_of_adapters.apply_all(modules, rig.family.facts, strange)
    assert caught.value.reason == "ADAPTER_MISMATCH"


@pytest.mark.slow
def test_a_picture_changes_by_the_encoders_share_alone(bases: dict[str, Path], tmp_path: Path) -> None:
    rig = rigs.taught(_load(bases["sd1"], "sd1", "lora"))
    rig.save(tmp_path)
    adapter = adapters.read(tmp_path)
    parts = rig.family.load(bases["sd1"])
    picture = Picture(prompt="a red kite", seed=4, width=rig.side, height=rig.side, steps=4)
    adapters.apply(parts.denoiser, adapter)
    without = sample(rig.family, parts, [picture])
    encoder = parts.text["text_encoder"]
    adapters.apply(encoder, parts_of_adapters.named_as(encoder, adapter.text["text_encoder"]))
    assert float((sample(rig.family, parts, [picture]) - without).abs().max()) > 1e-3


@pytest.mark.slow
def test_an_encoder_that_drops_of_its_own_drops_the_same_again(bases: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(bases["sd1"], tmp_path / "base")
    config = tmp_path / "base" / "text_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "attention_dropout": 0.3}))
    first, again = (rigs.loop(_load(tmp_path / "base", "sd1", "full"), lanes=2, steps=3) for _ in range(2))
    still = rigs.loop(_load(bases["sd1"], "sd1", "full"), lanes=2, steps=3)
    losses = [[loop.step() for _ in range(3)] for loop in (first, again, still)]
    assert losses[0] == losses[1] != losses[2]
    assert rigs.digest(first.state()) == rigs.digest(again.state())
