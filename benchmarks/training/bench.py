"""Both loops over one base and one set of data, with what each needs."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from marsam_trainer.run.data import read_picture
from marsam_trainer.run.feed import Feed, TrainingSet
from marsam_trainer.run.loop import Loop
from marsam_trainer.run.position import Plan
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training.bases import PICTURES, Data
from benchmarks.training.peers import PEERS, Given, Tuning
from marsam.diffusion import registry, schedule
from marsam.diffusion.conditionings import join
from marsam.diffusion.lanes.net import Lanes
from marsam.diffusion.precision import Precision
from marsam.diffusion.spec import ALL_PARTS, Components, Family
from marsam.diffusion.weights.net import bytes_at_rest

BATCH, RANK, TARGETS, GAMMA, SEED = 16, 16, "all", 5.0, 1
RATES = {"lora": 1e-3, "qlora": 1e-3, "full": 1e-4}


class Ours:
    """Our loop with a base and a method, its encodings made before."""

    def __init__(
        self, base: Path, family: str, method: str, data: Data, *, cores: int, precision: Precision = Precision.FP32
    ) -> None:
        self.family, how = registry.family(family), registry.method(method)
        self.lanes = Lanes(cores)
        adapter = {} if method == "full" else {"rank": RANK, "alpha": float(RANK), "targets": TARGETS}
        params = registry.method_params(method, adapter, family=family)
        parts = self.family.load(base, parts=ALL_PARTS, precision=precision, quantisation=how.quantisation(params))
        self.weights_at_rest = bytes_at_rest(parts.denoiser)
        self.side = parts.facts.default_side
        began = time.monotonic()
        samples = encoded(self.family, parts, data, self.side)
        self.encode_seconds = time.monotonic() - began
        trained = how.attach({self.family.facts.denoiser_folder: parts.denoiser}, self.family.facts, params, seed=SEED)
        self.start = {name: value.detach().clone() for name, value in trained.items()}
        feed = Feed(samples, schedule.by_cells(parts.facts), seed=SEED, batch_size=BATCH, caption_dropout=0.0)
        gamma = GAMMA if parts.facts.flow is None else None
        plan = Plan(
            steps=10_000, learning_rate=RATES[method], warmup_steps=10, seed=SEED, snr_gamma=gamma, ema_decay=None
        )
        objective = registry.objective(parts.facts.objective)
        self.loop = Loop(self.family, parts, objective, trained, feed, plan, lanes=self.lanes)

    def step(self) -> float:
        """A step, its batch made from the encodings."""
        torch.set_num_threads(self.lanes.cores if self.lanes.count == 1 else 1)
        return self.loop.step()

    def operations(self) -> float:
        """Floating-point operations of a step's forward and backward."""
        batch = self.loop.feed.batch(0)
        with FlopCounterMode(display=False) as counter:
            self.loop._piece(batch, len(batch), len(batch))
        return float(counter.get_total_flops())


def encoded(family: Family, parts: Components, data: Data, side: int) -> TrainingSet:
    """The pictures and captions, encoded by the base's own encoders."""
    pixels = [read_picture(file, (side, side), name=file.name) for file in data.files]
    latents = [family.encode_image(parts, torch.stack(pixels[at : at + BATCH])) for at in range(0, PICTURES, BATCH)]
    wordings = data.wordings
    texts = [family.encode_text(parts, wordings[at : at + BATCH]) for at in range(0, len(wordings), BATCH)]
    return TrainingSet(
        keys=tuple(file.name for file in data.files),
        latents=torch.cat(latents),
        texts=join(texts),
        captions=tuple((1 + 2 * row, 2 + 2 * row) for row in range(PICTURES)),
    )


class Bench:
    """Our loop beside its peer, on `cores` cores."""

    def __init__(self, base: Path, family: str, method: str, data: Data, *, cores: int) -> None:
        self.cores, self.data = cores, data
        self.ours = Ours(base, family, method, data, cores=cores)
        facts = self.ours.family.facts
        tuning = Tuning(method=method, rank=RANK, targets=facts.targets[TARGETS], start=self.ours.start, gamma=GAMMA)
        self.theirs = PEERS[family](base, facts, tuning, side=self.ours.side)
        self.their_step = 0

    def given(self, step: int) -> tuple[Given, torch.Tensor, Mapping[str, torch.Tensor]]:
        """What the peer is told of a step, and the encodings of it."""
        batch = self.ours.loop.feed.batch(step)
        given = Given(
            files=[self.data.files[row] for row in batch.rows],
            captions=[self.data.wordings[text] for text in batch.texts],
            noise=batch.noise,
            times=batch.t,
            rate=self.ours.loop.plan.rate(step),
        )
        return given, batch.clean, batch.cond.tensors

    def peer_step(self) -> float:
        """A step of the peer, encoders included."""
        torch.set_num_threads(self.cores)
        given, _, _ = self.given(self.their_step)
        self.their_step += 1
        return self.theirs.step(given)

    def peer_denoiser_step(self) -> float:
        """A step of the peer that is handed the encodings."""
        torch.set_num_threads(self.cores)
        given, latents, texts = self.given(self.their_step)
        self.their_step += 1
        return self.theirs.learn(given, latents, texts)

    def check_equal(self, steps: int = 4) -> list[tuple[float, float]]:
        """Losses of the first steps of both. Raises AssertionError unless they agree to 0.1 %."""
        pairs = [(self.ours.step(), self.peer_step()) for _ in range(steps)]
        for ours, theirs in pairs:
            if abs(ours - theirs) > 1e-3 * abs(theirs):
                raise AssertionError(f"the two loops do not learn the same: {pairs}")
        return pairs

    def encoders(self) -> dict[str, float]:
        """Operations in 10⁹ of one picture: the image encoder's, the text encoders'."""
        given, _, _ = self.given(0)

        def count(work: Callable[[], Any]) -> float:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                work()
            return counter.get_total_flops() / BATCH / 1e9

        return {
            "image": count(lambda: self.theirs.latents(given.files)),
            "text": count(lambda: self.theirs.texts(given.captions)),
        }


def gemm_rate(cores: int, side: int = 1024, seconds: float = 0.15) -> float:
    """Operations per second of processor time of large fp32 products here and now, on so many threads."""
    torch.set_num_threads(cores)
    left = torch.randn(side, side)
    float((left @ left)[0, 0])
    began, rounds = time.process_time(), 0
    while time.process_time() - began < seconds:
        float((left @ left)[0, 0])
        rounds += 1
    return rounds * 2 * side**3 / (time.process_time() - began)
