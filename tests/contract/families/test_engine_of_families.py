"""The generator's engine draws every family's pictures as `sample` does, adapters of the bank included."""

import asyncio
import gc
import json
import shutil
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from marsam_generator.engine import forwards as joining
from marsam_generator.engine import reader as reading
from marsam_generator.engine.bank import AdapterBank
from marsam_generator.engine.engine import Drawing, Engine
from marsam_generator.engine.forwards import Denoiser, Forwards
from marsam_generator.engine.lanes import Row
from marsam_generator.engine.reader import TOKENS, Reader
from marsam_generator.engine.stepper import Tick
from marsam_generator.engine.width import Widths

from marsam.core.errors import Invalid
from marsam.core.ids import new_ulid
from marsam.diffusion import registry
from marsam.diffusion.adapter import net as adapters
from marsam.diffusion.adapter.parts import net as parts_of_adapters
from marsam.diffusion.conditionings import filled
from marsam.diffusion.sampling import Picture, for_base, sample
from marsam.diffusion.schedulers import schedulers
from marsam.diffusion.spec import Part
from tests.contract.families import rig as rigs
from tests.contract.families.drawing import close, drawn, levels

pytestmark = pytest.mark.slow
PROMPTS = ("a red kite", "طائرة ورقية حمراء فوق مدينة على البحر", "")


async def _draw(engine: Engine, picture: Picture, **fields: Any) -> torch.Tensor:
    (pixels,) = await drawn(engine, Drawing(id=new_ulid(), pictures=[picture], **fields))
    return pixels


@pytest.mark.parametrize("name", registry.families())
async def test_what_is_drawn_together_is_what_each_would_be_alone(
    bases: dict[str, Path], name: str, tmp_path: Path
) -> None:
    rig = rigs.load(bases[name], name, "lora")
    rigs.taught(rig)
    rig.save(tmp_path)
    adapter = adapters.read(tmp_path)
    family = registry.family(name)
    facts = family.load(bases[name], parts=frozenset()).facts
    side = rigs.side(facts)
    wanted = [
        for_base(
            Picture(
                prompt=prompt, negative="grey", seed=row, width=side, height=side,
                steps=3 + row, guidance=1.0 + row, scheduler=schedulers(facts)[row % len(schedulers(facts))],
            ),
            facts,
        )
        for row, prompt in enumerate(PROMPTS)
    ]  # fmt: skip
    weights = [0.0, 1.0, 0.5]
    alone = []
    for picture, weight in zip(wanted, weights, strict=True):
        parts = family.load(bases[name])
        if weight:
            adapters.apply(parts.denoiser, adapter, weight=weight)
        alone.append(levels(sample(family, parts, [picture])[0]))
    ticks: list[Tick] = []
    engine = Engine(
        name=name, family=family, parts=family.load(bases[name]), lanes=1, widths=Widths(limit=16),
        observe=ticks.append,
    )  # fmt: skip
    try:
        await engine.install(engine.prepare("tuned", adapter))
        # The loop stands still until all three are there, so that they share its ticks.
        standing, gate = threading.Event(), threading.Event()
        held = engine._loop.between(lambda: [standing.set(), gate.wait(60)])
        assert await asyncio.to_thread(standing.wait, 60)
        drawing = asyncio.gather(
            *(
                _draw(engine, picture, adapters={"tuned": weight})
                for picture, weight in zip(wanted, weights, strict=True)
            )
        )
        async with asyncio.timeout(60):
            while len(engine._loop._arrivals) < len(wanted):
                await asyncio.sleep(0.01)
        gate.set()
        together = await drawing
        assert held.result(60)
    finally:
        await engine.close()
    for one, other in zip(alone, together, strict=True):
        assert close(one, other)
    # Five rows, or three where guidance needs no second one.
    assert max(tick.rows for tick in ticks) == sum(2 if picture.guided else 1 for picture in wanted)
    plain = sample(family, family.load(bases[name]), [wanted[1]])[0]
    assert not close(levels(plain), together[1])


async def _engine(family: Any, parts: Any) -> Engine:
    return Engine(name="b", family=family, parts=parts, lanes=1, widths=Widths(limit=16), observe=lambda tick: None)


@pytest.mark.parametrize("name", registry.families())
async def test_prompts_are_read_under_the_adapters_of_their_own_request(
    bases: dict[str, Path], name: str, tmp_path: Path
) -> None:
    rig = rigs.load(bases[name], name, "lora", params=rigs.WITH_TEXT)
    rigs.taught(rig)
    rig.save(tmp_path)
    adapter, family = adapters.read(tmp_path), registry.family(name)
    base = family.load(bases[name])
    side = rigs.side(base.facts)
    picture = for_base(
        Picture(prompt=PROMPTS[0], negative="grey", seed=3, width=side, height=side, steps=3, guidance=3.0), base.facts
    )
    plain = levels(sample(family, base, [picture])[0])
    alone = {0.0: plain}
    for weight in (1.0, 0.5):
        parts = family.load(bases[name])
        networks = {family.facts.denoiser_folder: parts.denoiser, **parts.text}
        parts_of_adapters.apply_all(networks, family.facts, adapter, weight=weight)
        alone[weight] = levels(sample(family, parts, [picture])[0])
    engine = await _engine(family, family.load(bases[name]))
    try:
        assert torch.equal(await _draw(engine, picture), plain)
        prepared = engine.prepare("tuned", adapter)
        await engine.install(prepared)
        assert engine.bank_bytes == prepared.size_bytes > 0
        drawn = await asyncio.gather(*(_draw(engine, picture, adapters={"tuned": weight}) for weight in alone))
        for one, other in zip(drawn, alone.values(), strict=True):
            assert close(one, other)
        # What others asked for is nothing to who asked for none.
        assert torch.equal(await _draw(engine, picture), plain)
        await engine.evict("tuned")
        assert engine.bank_bytes == 0
        assert torch.equal(await _draw(engine, picture), plain)
    finally:
        await engine.close()


@pytest.mark.parametrize("name", registry.families())
async def test_a_prompt_is_encoded_once_for_each_use_of_an_adapter(
    bases: dict[str, Path], name: str, tmp_path: Path
) -> None:
    rig = rigs.load(bases[name], name, "lora", params=rigs.WITH_TEXT)
    rigs.taught(rig)
    rig.save(tmp_path)
    adapter, family = adapters.read(tmp_path), registry.family(name)
    parts = family.load(bases[name])
    reader, side = Reader(family, parts), rigs.side(parts.facts)
    asked = [Picture(prompt=PROMPTS[0], seed=3, width=side, height=side, guidance=1.0)]
    try:
        before, nothing = await reader.read(asked, {})
        assert nothing is None
        await reader.install(reader.prepare("tuned", adapter))
        found = {weight: (await reader.read(asked, {"tuned": weight}))[0] for weight in (1.0, 0.5, 0.0)}
        assert all(torch.equal(found[0.0].tensors[key], before.tensors[key]) for key in before.tensors)
        await reader.evict("tuned")
        gone = (await reader.read(asked, {"tuned": 1.0}))[0]
        assert all(torch.equal(gone.tensors[key], before.tensors[key]) for key in before.tensors)
    finally:
        reader.close()
    for weight in (1.0, 0.5):
        expected = family.load(bases[name])
        networks = {family.facts.denoiser_folder: expected.denoiser, **expected.text}
        parts_of_adapters.apply_all(networks, family.facts, adapter, weight=weight)
        tensors = filled(family.encode_text(expected, [PROMPTS[0]]), TOKENS).tensors
        assert any(not torch.equal(found[weight].tensors[key], before.tensors[key]) for key in tensors)
        for key in parts.facts.conditioning:
            torch.testing.assert_close(found[weight].tensors[key], tensors[key], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", registry.families())
async def test_a_prompt_and_its_negative_have_one_length(bases: dict[str, Path], name: str) -> None:
    family = registry.family(name)
    parts = family.load(bases[name])
    if "mask" in family.encode_text(parts, [""]).tensors:
        # As long as the makers' bases read: a tiny one reads less than is filled up at once.
        parts = replace(parts, facts=replace(parts.facts, text_length=300))
    reader, side = Reader(family, parts), rigs.side(parts.facts)
    long = "a red kite over the old harbour " * 4
    try:
        for prompt, negative in (("a kite", long), (long, "")):
            asked = Picture(prompt=prompt, negative=negative, seed=3, width=side, height=side, guidance=2.0)
            conditional, unconditional = await reader.read([asked, replace(asked, prompt="two")], {})
            assert unconditional is not None and len(conditional) == len(unconditional) == 2
            alone = await reader.read([replace(asked, guidance=1.0)], {})
            for key, value in conditional.tensors.items():
                assert unconditional.tensors[key].shape == value.shape
                own = alone[0].tensors[key][0]
                assert torch.equal(value[0][: len(own)], own)
    finally:
        reader.close()


async def test_prompts_that_are_remembered_take_bounded_memory(
    bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = registry.family("sd1")
    parts = family.load(bases["sd1"])
    reader, side = Reader(family, parts), rigs.side(parts.facts)
    asked = Picture(prompt="0", seed=3, width=side, height=side, guidance=1.0)
    try:
        first, _ = await reader.read([asked], {})
        size = first.tensors["hidden"].nbytes
        monkeypatch.setattr(reading, "BYTES_KEPT", 4 * size)
        for count in range(9):
            await reader.read([replace(asked, prompt=f"{count}")], {})
        assert (len(reader._prompts), reader._prompt_bytes) == (4, 4 * size)
        again, _ = await reader.read([asked], {})
        assert torch.equal(again.tensors["hidden"], first.tensors["hidden"])
    finally:
        reader.close()


def test_conditionings_that_are_kept_joined_take_bounded_memory(
    bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = registry.family("sd1")
    parts = family.load(bases["sd1"])
    side = rigs.side(parts.facts)
    noisy = torch.randn((1, *parts.facts.latent_shape(side, side)), generator=torch.Generator().manual_seed(3))
    read = [family.encode_text(parts, [f"{count}"]) for count in range(6)]
    rows = [Row(noisy=noisy, t=0.5, cond=cond, adapters={}) for cond in read]
    denoiser = Denoiser(module=parts.denoiser, bank=AdapterBank(parts.denoiser), facts=parts.facts)
    forwards = Forwards(family=family, device="cpu")
    forward = forwards.of(denoiser, exact=False)
    first = forward(rows[:2])
    monkeypatch.setattr(joining, "JOINED_BYTES", 5 * read[0].nbytes)
    for count in range(5):
        forward(rows[count : count + 2])
    kept = [joined for _, joined in forwards._joined.values()]
    assert sum(cond.nbytes for cond in kept) == forwards._joined_bytes == 4 * read[0].nbytes
    assert torch.equal(forward(rows[:2]), first)
    forward(rows)  # more than all that may be kept
    forward(rows)
    assert [len(joined) for _, joined in forwards._joined.values()] == [6]
    forwards.forget()
    assert forwards._joined_bytes == 0 and not forwards._joined


@pytest.mark.parametrize("name", registry.families())
def test_a_family_names_the_layers_that_see_all_pictures_in_one_row(bases: dict[str, Path], name: str) -> None:
    family = registry.family(name)
    parts = family.load(bases[name])
    side = rigs.side(parts.facts)
    seen: dict[str, int] = {}

    def watch(path: str) -> Any:
        return lambda _, inputs, __: seen.update({path: len(inputs[0])})

    for path, module in parts.denoiser.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.register_forward_hook(watch(path))
    asked = [Picture(prompt=text, seed=3, width=side, height=side, steps=1, guidance=1.0) for text in PROMPTS]
    sample(family, parts, asked, batch=3)
    assert {path for path, rows in seen.items() if rows != len(asked)} == set(family.facts.crowded)


async def test_an_adapter_of_a_layer_that_sees_all_pictures_in_one_row_is_refused_by_name(
    bases: dict[str, Path],
) -> None:
    family = registry.family("z_image")
    base = family.load(bases["z_image"])
    side = rigs.side(base.facts)
    picture = Picture(prompt=PROMPTS[0], seed=3, width=side, height=side, steps=2, guidance=3.0)
    layer = base.denoiser.get_submodule("cap_embedder.1")
    pair = (torch.ones(2, layer.in_features), torch.ones(layer.out_features, 2))
    shape = adapters.LowRank(rank=2, alpha=2.0, targets=("cap_embedder.1",))
    engine = await _engine(family, base)
    try:
        plain = await _draw(engine, picture)
        adapter = adapters.Adapter(shape=shape, pairs={"cap_embedder.1": pair}, metadata={})
        with pytest.raises(Invalid) as caught:
            engine.prepare("wide", adapter)
        assert (caught.value.reason, "cap_embedder.1" in caught.value.message) == ("ADAPTER_LAYER_UNSUPPORTED", True)
        # Past that check, as on a layer that no family names yet, the drawing fails and no picture is wrong.
        await engine.install(engine.bank().prepare("wide", adapter))
        with pytest.raises(Invalid) as caught:
            await _draw(engine, picture, adapters={"wide": 1.0})
        assert (caught.value.reason, "cap_embedder.1" in caught.value.message) == ("ADAPTER_LAYER_UNSUPPORTED", True)
        assert torch.equal(await _draw(engine, picture), plain)
    finally:
        await engine.close()


async def test_a_tuned_model_reads_with_encoders_of_its_own(bases: dict[str, Path], tmp_path: Path) -> None:
    rig = rigs.load(bases["sd1"], "sd1", "full", params=rigs.WITH_TEXT)
    rigs.taught(rig, rate=1e-3)
    picture = Picture(prompt=PROMPTS[0], seed=3, width=rig.side, height=rig.side, steps=3, guidance=3.0)
    for value in rig.trained.values():
        value.requires_grad_(False)
    rig.denoiser.eval()
    tuned = levels(sample(rig.family, rig.parts, [picture])[0])
    plain = levels(sample(rig.family, rig.family.load(bases["sd1"]), [picture])[0])
    engine = await _engine(rig.family, rig.family.load(bases["sd1"]))
    try:
        await engine.add_denoiser("full", replace(rig.parts, image_coder=None))
        assert torch.equal(await _draw(engine, picture, denoiser="full"), tuned)
        assert torch.equal(await _draw(engine, picture), plain)
        # The same tuned denoiser under the base's encoders draws something else.
        await engine.add_denoiser("half", replace(rig.parts, text={}, image_coder=None))
        assert not torch.equal(await _draw(engine, picture, denoiser="half"), tuned)
        await engine.drop_denoiser("full")
    finally:
        await engine.close()


async def test_with_a_tuned_model_go_its_adapters_on_the_encoders_of_the_base(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    rig = rigs.load(bases["sd1"], "sd1", "lora", params=rigs.WITH_TEXT)
    rigs.taught(rig)
    rig.save(tmp_path)
    engine = await _engine(rig.family, rig.family.load(bases["sd1"]))
    try:
        await engine.add_denoiser("half", rig.family.load(bases["sd1"], parts=frozenset({Part.DENOISER})))
        prepared = engine.prepare("tuned", adapters.read(tmp_path), denoiser="half")
        await engine.install(prepared, denoiser="half")
        held = [weakref.ref(share.up) for one in prepared.text.values() for share in one.layers.values()]
        del prepared
        gc.collect()
        assert held and all(share() is not None for share in held)
        await engine.drop_denoiser("half")
        async with asyncio.timeout(20):
            while any(share() is not None for share in held):
                gc.collect()
                await asyncio.sleep(0.01)
    finally:
        await engine.close()


@pytest.mark.parametrize(
    ("name", "changed"),
    [("sd1", {"beta_end": 0.02, "timestep_spacing": "trailing", "num_train_timesteps": 500}), ("sd3", {"shift": 6.0})],
)
async def test_a_tuned_model_is_drawn_with_its_own_scheduler(
    bases: dict[str, Path], tmp_path: Path, name: str, changed: dict[str, Any]
) -> None:
    family = registry.family(name)
    folder = shutil.copytree(bases[name], tmp_path / "tuned")
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changed))
    base, tuned = family.load(bases[name]), family.load(folder)
    side = rigs.side(base.facts)
    picture = for_base(Picture(prompt=PROMPTS[0], seed=3, width=side, height=side, steps=3, guidance=3.0), base.facts)
    wanted = levels(sample(family, tuned, [picture])[0])
    plain = levels(sample(family, base, [picture])[0])
    assert not close(wanted, plain)
    engine = await _engine(family, base)
    try:
        await engine.add_denoiser("tuned", replace(tuned, text={}, image_coder=None))
        both = await asyncio.gather(_draw(engine, picture, denoiser="tuned"), _draw(engine, picture))
        assert close(both[0], wanted) and close(both[1], plain)
    finally:
        await engine.close()


async def test_an_adapter_of_an_encoder_that_the_base_lacks_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    rig = rigs.load(bases["sdxl"], "sdxl", "lora", params=rigs.WITH_TEXT)
    rig.save(tmp_path)
    engine = await _engine(registry.family("sd1"), registry.family("sd1").load(bases["sd1"]))
    try:
        with pytest.raises(Invalid) as caught:
            engine.prepare("strange", adapters.read(tmp_path))
        assert caught.value.reason == "ADAPTER_TEXT_ENCODER"
    finally:
        await engine.close()
