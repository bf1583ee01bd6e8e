"""What a run takes where its order says nothing, by family and method, and where each of that comes from."""

from collections.abc import Mapping
from typing import Any

from marsam.catalog.datasets import DatasetVersion
from marsam.catalog.runs import RunSpec
from marsam.diffusion import registry
from marsam.diffusion.spec import BaseFacts, Default
from marsam_trainer import spread, times
from marsam_trainer.orders import Order, default_steps

_OFF_AT_ZERO = ("snr_gamma", "ema_decay")
PUBLISHED = "published recipes"
PLAIN = "the plain way"


def defaults(order: Order, facts: BaseFacts, version: DatasetVersion) -> dict[str, Default]:
    """The default of every field that has one, under the checked `order`."""
    pictures = sum(item.split == "train" for item in version.items)
    steps = order.steps or default_steps(pictures)
    usual = {
        "steps": Default(default_steps(pictures), f"{PUBLISHED}: 800 for 20 pictures, 3000 for 500; here {pictures}"),
        "batch_size": Default(spread.batch_size(order), f"{PUBLISHED}: 1 to 4; as many for each process"),
        "resolution": Default(facts.default_side, "what the base was made for"),
        "seed": Default(0, PLAIN),
        "precision": Default("fp32", PLAIN),
        "caption_dropout": Default(0.1, f"{PUBLISHED}: 0.05 to 0.1, where guidance is used"),
        "checkpoint_every": Default(max(1, min(250, steps // 4)), "four a run, none further apart than 250 steps"),
        "snr_gamma": _snr_gamma(facts),
        "ema_decay": Default(0.0, f"{PUBLISHED}: none for short runs"),
        "warmup_steps": Default(min(100, steps // 20), f"{PUBLISHED}: 5 % of the steps, at most 100"),
        "optimiser": Default("adamw", f"{PUBLISHED}: an adapter's moments are small"),
        "accumulate": Default(1, PLAIN),
        "gradient_checkpointing": Default(False, "activations are kept where memory suffices: faster"),
        "processes": Default(1, PLAIN),
        "sharding": Default(spread.sharding(order), "what trains whole is shared out among processes"),
        "aspect_buckets": Default(False, "pictures are cut square"),
        "masked_loss": Default(False, "pictures count as a whole"),
        "masked_loss_floor": Default(RunSpec.masked_loss_floor, f"{PUBLISHED} of masked training"),
        **times.defaults(order, facts),
    }
    recipes: Mapping[str, Mapping[str, Default]] = registry.family_facts(facts.family).recipes
    method = registry.method(order.method).facts.recipe
    return {**usual, **method, **recipes.get("*", {}), **recipes.get(order.method, {})}


def taken(order: Order, found: Mapping[str, Default]) -> dict[str, Any]:
    """The value of every such field: what the order says, or its default. None for what a zero turns off."""
    said = {name: getattr(order, name) for name in found}
    chosen = {name: found[name].value if value in (None, "") else value for name, value in said.items()}
    return {name: value or None if name in _OFF_AT_ZERO else value for name, value in chosen.items()}


def _snr_gamma(facts: BaseFacts) -> Default:
    """Min-SNR weighting for the objectives it was made for, but not for bases with zero terminal SNR.

    Those decide what a picture shows at times when hardly any signal is left, and there it weighs next to nothing: 150
    steps with γ = 5 left Hayy's base drawing a keffiyeh in 3 of 12 pictures, and without it in none.
    """
    if facts.objective not in ("epsilon", "v"):
        return Default(0.0, "made for other objectives than this base's")
    if facts.scheduler.get("rescale_betas_zero_snr", False):
        return Default(0.0, "measured on Hayy's base: it hinders what is learnt where no signal is left")
    return Default(5.0, f"{PUBLISHED}: Hang et al. 2023")
