"""What every family promises under every method, on real classes at tiny sizes."""

from pathlib import Path

import pytest
import torch
from marsam_trainer.run import preview

from marsam.diffusion import registry
from marsam.diffusion.adapter import net as adapters
from marsam.diffusion.method import Kind
from marsam.diffusion.precision import Precision
from marsam.diffusion.sampling import Picture, sample
from tests.contract.families import rig as rigs
from tests.contract.families.bases import BUILDERS

PAIRS = [(family, method) for family in registry.families() for method in registry.methods()]
# One family is in the fast suite; the others make the same promises in the whole one.
_FAST = "sd1"
every_pair = pytest.mark.parametrize(
    ("family", "method"),
    [pytest.param(*pair, marks=() if pair[0] == _FAST else pytest.mark.slow) for pair in PAIRS],
)
every_family = pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name == _FAST else pytest.mark.slow) for name in registry.families()]
)


def test_every_family_has_a_tiny_base_and_every_method_its_parameters() -> None:
    assert set(BUILDERS) == set(registry.families())
    assert set(rigs.PARAMS) == set(registry.methods())


@every_family
def test_names_are_the_modules_names(family: str) -> None:
    assert registry.family(family).facts is registry.family_facts(family)
    assert registry.family_facts(family).name == family


@pytest.mark.parametrize("method", registry.methods())
def test_a_method_bears_its_modules_name(method: str) -> None:
    assert registry.method(method).facts.name == method


@every_family
def test_encodings_have_the_declared_shapes(bases: dict[str, Path], family: str) -> None:
    rig = rigs.load(bases[family], family, "lora")
    facts = rig.parts.facts
    texts = rig.family.encode_text(rig.parts, rigs.PROMPTS)
    assert len(texts) == len(rigs.PROMPTS)
    assert {name: tuple(texts.tensors[name].shape[1:]) for name in facts.conditioning} == {
        name: tuple(min(have, want) for have, want in zip(texts.tensors[name].shape[1:], shape, strict=True))
        for name, shape in facts.conditioning.items()
    }
    if "mask" not in texts.tensors:
        assert {name: tuple(value.shape[1:]) for name, value in texts.tensors.items()} == dict(facts.conditioning)
    latents = rig.family.encode_image(rig.parts, torch.zeros(2, 3, rig.side, rig.side))
    assert latents.shape == (2, *facts.latent_shape(rig.side, rig.side))
    pixels = rig.family.decode(rig.parts, latents)
    assert pixels.shape == (2, 3, rig.side, rig.side)
    assert pixels.dtype == torch.float32
    assert float(pixels.abs().max()) <= 1.0


@every_family
def test_vowel_marks_and_tatweel_do_not_change_a_conditioning(bases: dict[str, Path], family: str) -> None:
    rig = rigs.load(bases[family], family, "lora")
    bare, marked = (rig.family.encode_text(rig.parts, [text]) for text in ("عالمة في مختبر", "عالِمَة في مُخـــتبر"))
    assert set(bare.tensors) == set(marked.tensors)
    assert all(torch.equal(bare.tensors[name], marked.tensors[name]) for name in bare.tensors)


@every_pair
def test_attaching_a_method_changes_nothing_yet(bases: dict[str, Path], family: str, method: str) -> None:
    rig = rigs.load(bases[family], family, method)
    before = rigs.predict(rig.family, rigs.plain(rig))
    after = rigs.predict(rig.family, rig.parts)
    assert after.shape == (3, *rig.parts.facts.latent_shape(rig.side, rig.side))
    assert torch.equal(before, after)


@every_pair
def test_the_same_seed_gives_the_same_start(bases: dict[str, Path], family: str, method: str) -> None:
    torch.manual_seed(1)
    first = rigs.load(bases[family], family, method)
    torch.manual_seed(2)
    second = rigs.load(bases[family], family, method)
    assert rigs.digest(first.trained) == rigs.digest(second.trained)


@every_pair
def test_what_is_declared_trains_and_nothing_else(bases: dict[str, Path], family: str, method: str) -> None:
    rig = rigs.load(bases[family], family, method)
    named = dict(rig.denoiser.named_parameters())
    assert set(rig.trained) == {name for name, value in named.items() if value.requires_grad}
    rigs.moves_alone(rig, named)


@pytest.mark.slow
@every_pair
def test_one_batch_can_be_learnt_by_heart(bases: dict[str, Path], family: str, method: str) -> None:
    rig = rigs.load(bases[family], family, method, params={} if method == "full" else {"rank": 16, "alpha": 32.0})
    loop = rigs.loop(rig, steps=70, rate=1e-2, snr_gamma=None)
    batch = loop.feed.batch(0)
    loop.feed.batch = lambda step: batch  # type: ignore[method-assign]
    losses = [loop.step() for _ in range(70)]
    assert losses[-1] < 0.5 * losses[0]


@every_pair
def test_a_resumed_run_ends_in_the_same_bits(bases: dict[str, Path], family: str, method: str, tmp_path: Path) -> None:
    rigs.goes_on_in_the_same_bits(lambda: rigs.loop(rigs.load(bases[family], family, method), ema_decay=0.9), tmp_path)


@pytest.mark.slow
@every_pair
def test_a_preview_changes_nothing(bases: dict[str, Path], family: str, method: str) -> None:
    def run(previews: bool) -> str:
        rig = rigs.load(bases[family], family, method, params={} if method == "full" else {"dropout": 0.3})
        loop = rigs.loop(rig, steps=4)
        texts = rig.family.encode_text(rig.parts, ["a red kite", ""])
        while not loop.done:
            loop.step()
            if previews:
                wanted = preview.pictures(["a red kite"], rig.parts.facts, side=rig.side, seed=1)
                drawn = preview.draw(rig.family, rig.parts, wanted, texts, lanes=loop.lanes, budget_s=60.0)
                assert drawn is not None
                assert drawn[0].startswith(b"\x89PNG")
        return rigs.digest(loop.state())

    assert run(previews=True) == run(previews=False)


@every_pair
def test_saved_and_loaded_gives_the_same_output(
    bases: dict[str, Path], family: str, method: str, tmp_path: Path
) -> None:
    rig = rigs.load(bases[family], family, method)
    rigs.taught(rig)
    tuned = rigs.predict(rig.family, rig.parts)
    base = rigs.plain(rig)
    untuned = rigs.predict(rig.family, base)
    assert float((tuned - untuned).abs().max()) > 1e-3
    paths = rig.save(tmp_path / "artifact", note="x")
    assert all((tmp_path / "artifact" / path).is_file() for path in paths)
    if rig.method.facts.kind is Kind.ADAPTER:
        adapter = adapters.read(tmp_path / "artifact")
        assert adapter.metadata["note"] == "x"
        assert adapter.metadata["alpha"] == str(rig.params["alpha"])
        tensors = 3 if rig.params["dora"] else 2
        assert tensors * adapters.apply(base.denoiser, adapter) == adapter.tensors == len(rig.trained)
        assert torch.equal(rigs.predict(rig.family, base), tuned)
        adapters.set_weight(base.denoiser, 0.5)
        half = rigs.predict(rig.family, base)
        assert not torch.equal(half, tuned)
        assert not torch.equal(half, untuned)
        adapters.set_weight(base.denoiser, 0.0)
        assert torch.equal(rigs.predict(rig.family, base), untuned)
    else:
        overlay = _overlay(rig, tmp_path)
        assert torch.equal(rigs.predict(rig.family, overlay), tuned)
        assert torch.equal(rigs.predict(rig.family, rigs.plain(rig)), untuned)


def _overlay(rig: rigs.Rig, tmp_path: Path):  # type: ignore[no-untyped-def]
    import shutil

    folder = tmp_path / "overlay"
    shutil.copytree(rig.source, folder)
    shutil.copytree(tmp_path / "artifact", folder, dirs_exist_ok=True)
    return rig.family.load(folder)


@every_family
def test_a_picture_changes_with_an_adapter_and_returns_without_it(
    bases: dict[str, Path], family: str, tmp_path: Path
) -> None:
    rig = rigs.load(bases[family], family, "lora")
    rigs.taught(rig)
    rig.save(tmp_path)
    parts = rig.family.load(bases[family])
    picture = Picture(prompt="a red kite", seed=4, width=rig.side, height=rig.side, steps=4)
    before = sample(rig.family, parts, [picture])
    adapters.apply(parts.denoiser, adapters.read(tmp_path), weight=1.0)
    assert float((sample(rig.family, parts, [picture]) - before).abs().max()) > 1e-3
    adapters.set_weight(parts.denoiser, 0.0)
    assert torch.equal(sample(rig.family, parts, [picture]), before)


@pytest.mark.slow
@every_pair
def test_bf16_holds_the_base_in_bf16_and_trains_in_fp32(bases: dict[str, Path], family: str, method: str) -> None:
    rig = rigs.load(bases[family], family, method, precision=Precision.BF16)
    loop = rigs.loop(rig, steps=3)
    losses = [loop.step() for _ in range(3)]
    assert all(loss == loss for loss in losses)
    assert all(value.dtype == torch.float32 for value in rig.trained.values())
    exact = rigs.loop(rigs.load(bases[family], family, method), steps=3).step()
    assert losses[0] == pytest.approx(exact, rel=0.05)


@pytest.mark.slow
@every_pair
def test_lanes_only_round_otherwise(bases: dict[str, Path], family: str, method: str) -> None:
    one, two, again = (rigs.loop(rigs.load(bases[family], family, method), lanes=lanes) for lanes in (1, 2, 2))
    losses = [[loop.step() for _ in range(4)] for loop in (one, two, again)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[1] == losses[2]
    assert rigs.digest(two.state()) == rigs.digest(again.state())
