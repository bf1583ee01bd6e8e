"""What the suite does with one family and one method, in a few words."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from marsam_trainer.run.checkpoint import write_state
from marsam_trainer.run.feed import Feed, TrainingSet
from marsam_trainer.run.holding import Holding
from marsam_trainer.run.loop import Loop
from marsam_trainer.run.position import Plan
from safetensors.torch import load_file

from marsam.diffusion import registry, schedule, tuned
from marsam.diffusion.conditionings import join
from marsam.diffusion.lanes.net import Lanes
from marsam.diffusion.method import Method
from marsam.diffusion.parts.net import draws
from marsam.diffusion.precision import Precision
from marsam.diffusion.sampling import Picture, Walk, sample
from marsam.diffusion.spec import ALL_PARTS, BaseFacts, Components, Conditioning, Family, Part

PROMPTS = ("a red kite", "طائرة ورقية حمراء", "a blue door")
PARAMS: Mapping[str, Mapping[str, Any]] = {
    "lora": {"rank": 4, "alpha": 8.0, "targets": "all"},
    "qlora": {"rank": 4, "alpha": 8.0, "targets": "all"},
    "full": {},
}
WITH_TEXT: Mapping[str, Any] = {"text_encoders": True}


@dataclass(frozen=True, kw_only=True)
class Rig:
    """A loaded base with a method attached."""

    family: Family
    method: Method
    source: Path
    params: Mapping[str, Any]
    parts: Components
    trained: dict[str, torch.nn.Parameter]

    @property
    def denoiser(self) -> Any:
        return self.parts.denoiser

    def save(self, folder: Path, **metadata: str) -> tuple[str, ...]:
        """Write the method's artifact."""
        modules = tuned.modules(self.parts, self.family.facts, self.method.facts, self.params)
        return self.method.save(modules, self.family.facts, folder, metadata=metadata)

    @property
    def side(self) -> int:
        """The size of picture that the suite works at, in pixels."""
        return side(self.parts.facts)


def side(facts: BaseFacts) -> int:
    """The side that a base was made for, or 32 px where that is more: some families know only full sizes."""
    return min(facts.default_side, 32)


def load(
    source: Path,
    family: str,
    method: str,
    *,
    params: Mapping[str, Any] | None = None,
    precision: Precision = Precision.FP32,
    device: str = "cpu",
) -> Rig:
    """The base as `method` holds it, with the method attached."""
    net, how = registry.family(family), registry.method(method)
    values = registry.method_params(method, {**PARAMS[method], **(params or {})}, family=family)
    parts = net.load(source, parts=ALL_PARTS, precision=precision, device=device, quantisation=how.quantisation(values))
    trained = how.attach(tuned.modules(parts, net.facts, how.facts, values), net.facts, values, seed=7)
    return Rig(family=net, method=how, source=source, params=values, parts=parts, trained=trained)


def plain(rig: Rig) -> Components:
    """The same base, held the same way, without the method."""
    return rig.family.load(
        rig.source,
        parts=frozenset({Part.DENOISER}),
        precision=rig.parts.precision,
        device=rig.parts.device,
        quantisation=rig.method.quantisation(rig.params),
    )


def training_set(rig: Rig, count: int = 5) -> TrainingSet:
    """A few random pictures with captions, encoded."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.rand((count, 3, rig.side, rig.side), generator=generator) * 2 - 1
    words = ("", *PROMPTS) if rig.params["text_encoders"] else ()
    texts = Conditioning()
    if not words:
        texts = join([rig.family.encode_text(rig.parts, [""]), rig.family.encode_text(rig.parts, PROMPTS)])
    return TrainingSet(
        keys=tuple(f"picture-{row}" for row in range(count)),
        latents=rig.family.encode_image(rig.parts, pixels).to("cpu"),
        texts=texts.to("cpu"),
        captions=tuple((1 + row % 3, 1 + (row + 1) % 3) for row in range(count)),
        wordings=words,
        pixels=pixels.__getitem__ if rig.params.get("image_decoder") else None,
    )


def loop(
    rig: Rig,
    *,
    steps: int = 8,
    rate: float = 1e-2,
    lanes: int = 1,
    batch: int = 4,
    holding: Holding | None = None,
    **plan: Any,
) -> Loop:
    """A loop over `training_set`; plan's other numbers by name."""
    numbers = {"warmup_steps": 2, "seed": 11, "snr_gamma": 5.0, "ema_decay": None, **plan}
    feed = Feed(
        training_set(rig),
        schedule.by_cells(rig.parts.facts),
        seed=11,
        batch_size=batch,
        caption_dropout=0.2,
    )
    return Loop(
        rig.family,
        rig.parts,
        registry.objective(rig.parts.facts.objective),
        holding.trained if holding is not None else rig.trained,
        feed,
        Plan(steps=steps, learning_rate=rate, **numbers),
        lanes=Lanes(lanes, count=lanes),
        reseed=bool(rig.params.get("dropout")) or draws(rig.parts),
        holding=holding,
    )


def taken(loop: Loop) -> Loop:
    """The loop, every step taken."""
    while not loop.done:
        loop.step()
    return loop


def taught(rig: Rig, *, steps: int = 4, **how: Any) -> Rig:
    """The rig after a few steps."""
    taken(loop(rig, steps=steps, **how))
    return rig


def goes_on_in_the_same_bits(
    make: Callable[[], Loop], folder: Path, *, at: int = 4, meanwhile: Callable[[Loop], None] = lambda loop: None
) -> None:
    """Of three equal loops, one takes every step and one the steps up to `at`, from where the third goes on by a file:
    losses and state are the same. `meanwhile` is done to the second before it is saved."""
    whole, first, second = taken(make()), make(), make()
    for _ in range(at):
        first.step()
    meanwhile(first)
    write_state(first.state(), folder / "state.safetensors")
    second.restore(load_file(folder / "state.safetensors"), at)
    taken(second)
    assert second.position.losses == whole.position.losses
    assert digest(second.state()) == digest(whole.state())


def moves_alone(rig: Rig, named: Mapping[str, torch.nn.Parameter]) -> None:
    """Of `named`, what trains is fp32 and moves within three steps, and all else stays as it was, to the bit."""
    ours = {id(value) for value in rig.trained.values()}
    assert ours == {id(value) for value in named.values() if value.requires_grad}
    assert all(value.dtype == torch.float32 for value in rig.trained.values())
    frozen = {name: value.detach().clone() for name, value in named.items() if id(value) not in ours}
    before = {name: value.detach().clone() for name, value in rig.trained.items()}
    taught(rig, steps=3)
    assert [name for name, value in rig.trained.items() if torch.equal(value, before[name])] == []
    assert all(torch.equal(named[name], value) and named[name].grad is None for name, value in frozen.items())


def predict(family: Family, parts: Components, *, times: tuple[float, ...] = (0.1, 0.5, 1.0)) -> torch.Tensor:
    """What a denoiser says of three fixed noisy latents."""
    generator = torch.Generator().manual_seed(5)
    pixels = side(parts.facts)
    noisy = torch.randn((3, *parts.facts.latent_shape(pixels, pixels)), generator=generator)
    cond = Conditioning(
        {name: torch.randn((3, *shape), generator=generator) for name, shape in parts.facts.conditioning.items()}
    )
    t = torch.tensor(times, dtype=torch.float64)
    parts.denoiser.eval()
    # Frozen, as a generator holds it: torch folds a product with a strided input another way where the weight trains,
    # and that rounds otherwise.
    trains = [value for value in parts.denoiser.parameters() if value.requires_grad]
    for value in trains:
        value.requires_grad_(False)
    with torch.no_grad():
        said = family.predict(
            parts.denoiser,
            noisy.to(parts.device),
            t.to(parts.device),
            cond.to(parts.device),
            train_steps=parts.facts.train_steps,
        )
    for value in trains:
        value.requires_grad_(True)
    return said.cpu()


class _Undecoded:
    """A family whose pictures are the latents that it would decode."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def decode(self, parts: Components, latents: torch.Tensor) -> torch.Tensor:
        return latents


def latents(family: Family, parts: Components, pictures: Sequence[Picture]) -> torch.Tensor:
    """The clean latents (N, C, h, w) that `sample` comes to."""
    return sample(cast(Family, _Undecoded(family)), parts, pictures)


def first_step(family: Family, parts: Components, picture: Picture) -> torch.Tensor:
    """The latent (1, C, h, w) of a guided drawing after its first step."""
    walk = Walk(parts.facts, picture)
    texts = family.encode_text(parts, [picture.prompt, picture.negative])
    noisy, t = walk.model_input().repeat(2, 1, 1, 1), torch.tensor([walk.t, walk.t], dtype=torch.float64)
    with torch.no_grad():
        said = family.predict(parts.denoiser, noisy, t, texts, train_steps=parts.facts.train_steps)
    walk.advance(said[:1], said[1:])
    return walk.latent


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """One digest of named tensors: equal only when every bit is."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(
            tensors[name].detach().contiguous().view(torch.uint8).numpy().tobytes()
            if tensors[name].ndim
            else repr(tensors[name].item()).encode()
        )
    return total.hexdigest()


def with_denoiser(parts: Components, denoiser: Any) -> Components:
    """The same base with another denoiser."""
    return replace(parts, denoiser=denoiser)
