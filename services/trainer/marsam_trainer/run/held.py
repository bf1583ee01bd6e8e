"""A base's parts as a run of an order would hold them, on torch's meta device, with the method attached: what stands,
and what comes and goes in each stage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from marsam.catalog.runs import RunSpec
from marsam.diffusion import tuned
from marsam.diffusion.adapter.dora.net import widest
from marsam.diffusion.method import Method
from marsam.diffusion.precision import Precision
from marsam.diffusion.sampling import for_base
from marsam.diffusion.spec import BaseFacts, Components, Conditioning, Family, Part
from marsam.diffusion.weights.net import DTYPES
from marsam_trainer.run.holding import blocks
from marsam_trainer.run.optimisers import state_bytes
from marsam_trainer.run.preview import BATCH, pictures
from marsam_trainer.run.recompute import checkpoint_blocks
from marsam_trainer.run.shapes import Words, cast, linear_sizes, nf4_bytes, still_bytes, tensors_of
from marsam_trainer.run.stages import Amount, Stage, spread
from marsam_trainer.run.tracing import Traced, trace
from marsam_trainer.run.validation import TIMES

SAMPLES = 4
"""Pictures that a run is shown by when it asks for no previews."""


class Held:
    """A base's parts on the meta device, the method attached."""

    def __init__(
        self,
        family: Family,
        method: Method,
        params: Mapping[str, Any],
        source: Path,
        facts: BaseFacts,
        spec: RunSpec,
        amount: Amount,
    ) -> None:
        self.family, self.facts, self.spec, self.amount = family, facts, spec, amount
        self.dtype = DTYPES[Precision(spec.precision)]
        self.width = self.dtype.itemsize
        self.denoiser: Any = family.empty_denoiser(source)
        self.every = sum(value.numel() for value in self.denoiser.parameters())
        self.quantisation = method.quantisation(params)
        self.quantised = linear_sizes(self.denoiser, family.facts) if self.quantisation else []
        self.encoders = {name: cast(part, self.dtype).eval() for name, part in family.empty_encoders(source).items()}
        self.encoder_bytes = sum(still_bytes(tensors_of(part), self.width) for part in self.encoders.values())
        self.coder: Any = cast(family.empty_image_coder(source), torch.float32).eval()
        self.coder_bytes = still_bytes(tensors_of(self.coder), 4)
        words = {name: Words(facts.text_length) for name in family.facts.tokenizers()}
        self.components = Components(
            source=source,
            facts=facts,
            device="meta",
            precision=Precision(spec.precision),
            denoiser=self.denoiser,
            text={**words, **self.encoders},
            image_coder=self.coder,
        )
        # What trains of these is there from the first step on, among the weights; the others are gone by then.
        self.reads, self.decodes = (part in tuned.parts_of(params) for part in (Part.TEXT, Part.IMAGE))
        self.modules = tuned.modules(self.components, family.facts, method.facts, params)
        trained = method.attach(self.modules, family.facts, params, seed=spec.seed)
        self.sizes = [value.numel() for value in trained.values()]
        self.networks = [self.denoiser, *(self.encoders.values() if self.reads else ())]
        # Buffers too: a table of positions can be hundreds of megabytes.
        still = [value for part in self.networks for value in tensors_of(part) if not value.requires_grad]
        self.frozen = still_bytes(still, self.width) - self.width * sum(self.quantised)
        for network in self.networks:
            cast(network, self.dtype)
        if self.decodes:  # in fp32 throughout
            self.frozen += still_bytes([value for value in tensors_of(self.coder) if not value.requires_grad], 4)
            self.networks.append(self.coder)
        self.trained = [value for part in self.networks for value in part.parameters() if value.requires_grad]

    def standing(self) -> dict[str, int]:
        """What is there from the first step to the last."""
        count = sum(self.sizes)
        packed = sum(nf4_bytes(size, self.quantisation) for size in self.quantised if self.quantisation)
        return {
            "base weights": self.frozen + packed,
            "trainable weights": 4 * count,
            "moving average": 4 * count if self.spec.ema_decay else 0,
            "optimiser": state_bytes(self.spec.optimiser, self.sizes),
        }

    def shared(self) -> int:
        """Among how many processes the denoiser is cut up. Text encoders that train beside it stay whole: nothing is
        taken off then, because they are not told apart here."""
        return self.spec.processes if self.spec.sharding == "sharded" and not self.reads and not self.decodes else 1

    def blocks(self) -> int:
        """The largest block with its gradients, and the next one."""
        return max(
            sum(
                value.numel() * self.width * 2 + 4 * value.numel() * value.requires_grad for value in block.parameters()
            )
            for block in blocks(self.denoiser)
        )

    def train(self) -> tuple[dict[str, int], float]:
        """What comes and goes in a step, at its largest moment, and the operations of a step.

        Every lane has its rows, and gradients of its own until they are added. That moment is either on the way back,
        when activations are still there and gradients not yet all, or its end, when there are gradients alone.
        """
        spec, count = self.spec, sum(self.sizes)
        share = -(-spec.batch_size // spec.processes)
        lanes, rows = spread(share, self.amount.lanes, share)
        for module in self.modules.values():
            module.train()
        if spec.gradient_checkpointing:
            for module in self.modules.values():
                if module is not self.coder:
                    checkpoint_blocks(module)
        found = trace(lambda: self._gradients(rows), there=self._standing())
        # Gradients arrive in fp32, whatever the arithmetic is in.
        early, late = (lanes * size * 4 // self.width for size in (found.results, found.returned))
        # Those of the parts of a step that came before.
        summed = 4 * count if spec.accumulate > 1 else 0
        cast = lanes * self.width * count if self.width < 4 else 0
        activations = lanes * (found.peak - found.results + self._unpacked() + self._squared()) + cast
        flops = found.flops * lanes * spec.accumulate
        # All of a step's at once, in every process.
        shown = self.shown(spec.step_size)
        if activations + early > late:
            return {"gradients": early + summed, "activations": activations, **shown}, flops
        return {"gradients": late + summed, "activations": 0, **shown}, flops

    def preview(self) -> tuple[int, float]:
        """Bytes that come and go while pictures are drawn and decoded, and the operations of all of the run's."""
        spec, facts, side = self.spec, self.facts, self.spec.resolution
        prompts = spec.preview.prompts if spec.preview else ("",) * SAMPLES
        one = for_base(pictures(prompts[:1], facts, side=side, seed=spec.seed)[0], facts)
        lanes, rows = spread(len(prompts), self.amount.lanes, BATCH)
        for network in self.networks:
            network.eval()
        step = trace(lambda: self._prediction(rows * (2 if one.guided else 1)), there=self._standing())
        latents = torch.empty((rows, *facts.latent_shape(side, side)), device="meta")
        decoded = trace(
            torch.no_grad()(lambda: self.family.decode(self.components, latents)),
            there=[*self._standing(), *tensors_of(self.coder)],
        )
        times = 1 + (spec.steps // spec.preview.every if spec.preview else 0)
        flops = times * len(prompts) / rows * (one.steps * step.flops + decoded.flops)
        return lanes * max(step.peak + self._unpacked() + self._squared(), decoded.peak), flops

    def validation(self, there: Mapping[str, int], *, aside: Mapping[str, int]) -> list[Stage]:
        """Asking for the loss on what is held out, as often as the run does; nothing where nothing is."""
        asked, spec = self.amount.held_out * TIMES, self.spec
        if not asked:
            return []
        share = -(-min(asked, spec.batch_size) // spec.processes)
        lanes, rows = spread(share, self.amount.lanes, share)
        for network in self.networks:
            network.eval()
        found = trace(lambda: self._held_out(rows), there=self._standing())
        activations = lanes * (found.peak + self._unpacked() + self._squared())
        flops = found.flops * asked / rows * spec.validations
        terms = {**there, **self.shown(min(asked, spec.batch_size)), "activations": activations}
        return [Stage(name="validate", terms=terms, flops=flops, aside=aside)]

    def shown(self, count: int) -> dict[str, int]:
        """So many pictures beside their latents, where the image decoder trains."""
        return {"pictures": count * 3 * 4 * self.spec.resolution**2} if self.decodes else {}

    def encoding(self, beside: Mapping[str, int], aside: Mapping[str, int]) -> list[Stage]:
        """Pictures, then captions while the image coder is still there; those only where encoders do not train."""
        found, held = self.pictures(), {"image coder": self.coder_bytes}
        terms = {**held, "activations": found.peak, **beside}
        stages = [Stage(name="encode pictures", terms=terms, flops=found.flops, aside=aside)]
        if not self.reads:
            found, held = self.captions(), {**held, "text encoders": self.encoder_bytes}
            terms = {**held, "activations": found.peak, **beside}
            stages.append(Stage(name="encode captions", terms=terms, flops=found.flops, aside=aside))
        return stages

    def pictures(self) -> Traced:
        """Encoding every picture."""
        side = self.spec.resolution
        lanes, rows = spread(self.amount.pictures, self.amount.lanes, 1)
        pixels = torch.empty((rows, 3, side, side), device="meta")
        found = trace(lambda: self.family.encode_image(self.components, pixels), there=tensors_of(self.coder))
        given = rows * 3 * side * side * 4
        return found.times(lanes, share=self.amount.pictures / rows, beside=given)

    def captions(self) -> Traced:
        """Encoding every caption, as long as the base reads them."""
        lanes, rows = spread(self.amount.captions, self.amount.lanes, 1)
        there = [value for part in self.encoders.values() for value in tensors_of(part)]

        def read() -> Any:
            with torch.no_grad():
                return self.family.encode_text(self.components, [""] * rows).tensors

        found = trace(read, there=there)
        return found.times(lanes, share=self.amount.captions / rows)

    def _held_out(self, rows: int) -> torch.Tensor:
        with torch.no_grad():
            return self._loss(rows)

    def _gradients(self, rows: int) -> Any:
        return torch.autograd.grad(self._loss(rows), self.trained)

    def _loss(self, rows: int) -> torch.Tensor:
        """As `loop.loss_of`, beside the batch that it is of; what that keeps until the end is kept here too."""
        side, facts = self.spec.resolution, self.facts
        clean, noise = (torch.empty((rows, *facts.latent_shape(side, side)), device="meta") for _ in range(2))
        noisy, target = clean.to(self.dtype, copy=True), noise - clean
        cond = self._captions(rows)
        predicted = self._predict(noisy, cond)
        loss = (predicted.float() - target).square().mean()
        if self.decodes:
            loss = loss + self.family.decode(self.components, clean).square().mean()
        return loss

    def _prediction(self, rows: int) -> torch.Tensor:
        side = self.spec.resolution
        noisy = torch.empty((rows, *self.facts.latent_shape(side, side)), device="meta", dtype=self.dtype)
        with torch.no_grad():
            return self._predict(noisy, self._captions(rows))

    def _captions(self, rows: int) -> Conditioning:
        """So many captions, as long as the base reads them."""
        shapes = self.facts.conditioning.items()
        cond = Conditioning(
            {name: torch.empty((rows, *shape), device="meta", dtype=self.dtype) for name, shape in shapes}
        )
        return cond.plus(**self.family.encode_text(self.components, [""] * rows).tensors) if self.reads else cond

    def _predict(self, noisy: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        t = torch.ones(len(noisy), device="meta", dtype=torch.float64)
        return self.family.predict(self.denoiser, noisy, t, cond, train_steps=self.facts.train_steps)

    def _standing(self) -> list[torch.Tensor]:
        return [value for part in self.networks for value in tensors_of(part)]

    def _unpacked(self) -> int:
        """A layer in 4 bits is put back to full width for its product, one at a time."""
        return max(self.quantised, default=0) * self.width

    def _squared(self) -> int:
        """What DoRA makes in fp32 where half precision was traced: a square of one layer's inputs at a time."""
        return 4 * widest(self.modules.values()) ** 2 if self.width < 4 else 0
