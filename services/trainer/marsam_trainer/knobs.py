"""Every field of an order: what it does, and what it may be. The one table of it; a test holds it to the proto."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from marsam.catalog.runs import Optimiser, Precision, Publish, Sharding, TimestepSampling

VISIBLE = ("steps", "learning_rate", "rank", "batch_size", "resolution")
"""The five that a person looks at first; `rank` is a parameter of the methods that train an adapter."""


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One field: what it does, in words what it may be, and for numbers whether one is that."""

    name: str
    help: str
    rule: str = ""
    holds: Callable[[float], bool] | None = None


def _number(name: str, help: str, rule: str, holds: Callable[[float], bool]) -> Knob:
    return Knob(name=name, help=help, rule=rule, holds=holds)


def _one_of(choices: object) -> str:
    return f"one of {', '.join(filter(None, get_args(choices)))}"


def _word(name: str, help: str, rule: str = "") -> Knob:
    return Knob(name=name, help=help, rule=rule)


def _is_shift(value: float) -> bool:
    return value == 0 or 0.01 <= value <= 100


# Written so that NaN, which compares false with everything, is refused.
KNOBS = (
    _word("base", "the model that is tuned"),
    _word("dataset_version", "what it learns"),
    _word("method", "which weights train", "a method of this trainer"),
    _word("method_params", "parameters of the method"),
    _number("steps", "optimiser steps", "between 1 and 10000000", lambda v: 1 <= v <= 10_000_000),
    _number("batch_size", "pictures in memory at once", "between 1 and 4096", lambda v: 1 <= v <= 4096),
    _number("learning_rate", "its peak: warm-up before, cosine after", "above 0 and at most 1", lambda v: 0 < v <= 1),
    _word("resolution", "side of a picture in pixels", "what the base can draw"),
    _number("seed", "of everything random", "0 or more", lambda v: v >= 0),
    _word("precision", "of frozen weights and arithmetic; what trains is fp32", _one_of(Precision)),
    _number("caption_dropout", "share of captions left out", "at least 0 and below 1", lambda v: 0 <= v < 1),
    _word("languages", "captions that are used; all when empty", "languages of the dataset version"),
    _number("checkpoint_every", "steps between checkpoints", "1 or more", lambda v: v >= 1),
    _word("preview", "pictures drawn on the way", "prompts, and steps between previews"),
    _number("snr_gamma", "min-SNR weighting of the loss", "between 0 (off) and 1000", lambda v: 0 <= v <= 1000),
    _number("ema_decay", "moving average of what trains", "at least 0 (off) and below 1", lambda v: 0 <= v < 1),
    _number("warmup_steps", "steps to the learning rate's peak", "0 or more", lambda v: v >= 0),
    _word("output_model_id", "id of the model to publish; the run's when empty"),
    _word("publish", "which weights become models: the last, or the best on pictures held out", _one_of(Publish)),
    _word("display_name", "what people call it"),
    _word("labels", "to find it by"),
    _word("base_digest", "refuses another base of that name"),
    _word("dataset_digest", "refuses another version of that name"),
    _word("profile", "kind of machine", "a profile of this trainer"),
    _word("accept_licence", "the base's licence, which you accept"),
    _word("allow_distilled", "train a base made for few steps all the same"),
    _word("optimiser", "AdamW in one of its forms", _one_of(Optimiser)),
    _number("accumulate", "times batch_size pictures make a step", "between 1 and 4096", lambda v: 1 <= v <= 4096),
    _word("gradient_checkpointing", "compute activations again, not keep them: less memory, more time"),
    _number("processes", "that take every step together", "between 1 and 1024", lambda v: 1 <= v <= 1024),
    _word("sharding", "how several processes hold the model", _one_of(Sharding)),
    _word("regularisation", "a version of what must not be forgotten"),
    _word("regularisation_digest", "refuses another version of that name"),
    _number("regularisation_share", "share of steps from it", "above 0 and below 1", lambda v: 0 < v < 1),
    _number("regularisation_weight", "weight of their loss", "above 0 and at most 100", lambda v: 0 < v <= 100),
    _word("aspect_buckets", "pictures keep their aspect instead of being cut square"),
    _word("masked_loss", "learn from where masks let pictures count"),
    _number("masked_loss_floor", "weight outside of a mask", "at least 0 and below 1", lambda v: 0 <= v < 1),
    _word(
        "timestep_sampling", "law that a flow's times are drawn by; the base's when empty", _one_of(TimestepSampling)
    ),
    _number(
        "timestep_mean", "of logit-normal times; above 0 is noisier", "between -10 and 10", lambda v: -10 <= v <= 10
    ),
    _number("timestep_std", "of logit-normal times", "above 0 and at most 10", lambda v: 0 < v <= 10),
    _number("shift", "of a flow's times towards noise", "0 (the base's own), or between 0.01 and 100", _is_shift),
)
