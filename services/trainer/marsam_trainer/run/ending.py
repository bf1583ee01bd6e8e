"""What becomes of a loop that took its last step: one model or two, with pictures, curves and numbers."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marsam.catalog.models import Model
from marsam.diffusion import registry
from marsam.diffusion.method import Kind, Method
from marsam_trainer.run import effect, publish
from marsam_trainer.run.bridge import FILES_S
from marsam_trainer.run.drawing import Drawing
from marsam_trainer.run.loop import Loop
from marsam_trainer.run.work import Work


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Everything that publishing takes. `modules` are what was tuned, by folder, as this rank holds it, `whole` puts it
    together; `names` are the parameters that trained, `numbers` the metrics of the run."""

    work: Work
    loop: Loop
    method: Method
    modules: Mapping[str, Any]
    whole: Callable[[], Mapping[str, Any]]
    names: Collection[str]
    start: effect.Start
    drawing: Drawing
    quantisation: str
    numbers: Mapping[str, float]
    scratch: Path

    def models(self) -> Model | None:
        """Publish what the run's order asks for, and return the model under its own id; None on ranks that publish
        nothing. Raises `Invalid` (TRAINED_NOTHING) when training had no effect."""
        spec, loop, work = self.work.spec, self.loop, self.work
        self._warn(self.start.check(loop))
        loop.settle()
        if self.method.facts.kind is Kind.ADAPTER and self._draws:
            self._warn(effect.check_picture(self.drawing, self.modules.values()))
        best = loop.best_step if loop.best else None
        outcomes = []
        if spec.publish != "best" or best is None:
            outcomes.append(self._outcome(spec.output_model_id, loop.position.step))
        if spec.publish != "last":
            if best is None:
                self._warn("no loss on pictures held out is a number, so which weights were best is not known")
            else:
                loop.settle_best()
                outcomes.append(self._outcome(spec.model_ids[-1], best))
                self._tell_best(best)
        # The run's own model last: its result is what says that the run is done.
        ready = [outcome for outcome in outcomes if outcome is not None]
        models = [self._stored(outcome) for outcome in reversed(ready)]
        if not models:
            return None
        work.bridge.call(publish.conclude(work.jobs.blobs, spec, work.attempt, models[-1], ready[0]))
        return models[-1]

    @property
    def _draws(self) -> bool:
        """Whether this rank draws: the first, and every one where each holds a part of the model."""
        return self.work.world.first or self.loop.holding.sharded

    def _outcome(self, model_id: str, step: int) -> publish.Outcome | None:
        """What the weights in place, which are those after `step`, leave as the model `model_id`; None on ranks that
        publish nothing. All ranks must ask."""
        spec, base, facts = self.work.spec, self.work.base, self.method.facts
        pictures = (self.drawing.draw() if self._draws else None) or []
        whole = self.whole()
        if not self.work.world.first:
            return None
        folder = self.scratch / "artifacts" / model_id
        header = {
            "base_digest": base.digest,
            "run": spec.name,
            "method": spec.method,
            "code_version": publish.code_version(),
        }
        paths = self.method.save(whole, registry.family_facts(base.family), folder, metadata=header)
        publish.check_artifact(facts.kind, folder, self.names)
        size = sum((folder / path).stat().st_size for path in paths)
        return publish.Outcome(
            model_id=model_id,
            folder=folder,
            paths=paths,
            samples=pictures,
            shown=self.drawing.shown() if pictures else [],
            losses=self.loop.position.losses,
            validation=self.loop.position.validation,
            metrics={**self.numbers, "weights_step": float(step), "artifact_bytes": float(size)},
            quantisation=self.quantisation,
            libraries=publish.libraries(),
            device=self.work.device,
        )

    def _stored(self, outcome: publish.Outcome) -> Model:
        work = self.work
        return work.bridge.call(
            publish.publish(
                work.jobs.blobs, work.jobs.clock, work.spec, base=work.base, version=work.version, outcome=outcome
            ),
            timeout_s=FILES_S,
        )

    def _tell_best(self, best: int) -> None:
        losses = dict(self.loop.position.validation)
        message = f"the best weights on pictures held out are those of step {best}: loss {losses[best]:.4f}"
        before = losses.get(0, math.inf)
        if before <= losses[best]:
            message += f"; the base itself has {before:.4f}: training made it no better there"
        self.work.reporter.event("log", level="info" if losses[best] < before else "warning", message=message)

    def _warn(self, message: str) -> None:
        if message:
            self.work.reporter.event("log", level="warning", message=message)
