"""Which rank r and alpha α the pair on a layer has, and so its scale. Imports no torch.

Most adapters have one of each. Layers with others are told as PEFT tells them, in `rank_pattern` and `alpha_pattern` of
`adapter_config.json`: what the first name there says that ends the layer's path or, with `^` before it, is all of it.
PEFT takes those names for regular expressions; here they are names, because a stranger's expression may take for ever.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T", int, float)

# A path, its dots escaped or not.
_NAME = re.compile(r"\^?(?:[\w-]|\\?\.)+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scales:
    """`rank` and `alpha` of an adapter's layers, but for those that `ranks` and `alphas` name by their whole paths.
    Scale = α/r, or α/√r when `rank_stabilised`."""

    rank: int
    alpha: float
    rank_stabilised: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    def rank_of(self, module: str) -> int:
        return self.ranks.get(module, self.rank)

    def alpha_of(self, module: str) -> float:
        return self.alphas.get(module, self.alpha)

    def scale_of(self, module: str) -> float:
        """What B·A is multiplied with at weight 1."""
        rank = self.rank_of(module)
        return self.alpha_of(module) / (math.sqrt(rank) if self.rank_stabilised else rank)

    @property
    def plain_alpha(self) -> float:
        """`alpha` as those read it who always divide it by the rank."""
        return self._plain(self.alpha, self.rank)

    def plain_alpha_of(self, module: str) -> float:
        """As `plain_alpha`, of one layer."""
        return self._plain(self.alpha_of(module), self.rank_of(module))

    def patterns(self, spelt: Callable[[str], str] = "^{}".format) -> dict[str, dict[str, Any]]:
        """What PEFT's configuration says of layers with a rank or an alpha of their own, named as `spelt` does; nothing
        where none has."""
        every = {"rank_pattern": self.ranks, "alpha_pattern": self.alphas}
        return {name: {spelt(path): value for path, value in own.items()} for name, own in every.items() if own}

    def _plain(self, alpha: float, rank: int) -> float:
        return alpha * math.sqrt(rank) if self.rank_stabilised else alpha


def common(ranks: Mapping[str, int], alphas: Mapping[str, float], *, rank_stabilised: bool = False) -> Scales:
    """The scales of layers whose ranks and alphas these are: what most have, and what others have."""
    rank, alpha = _most(ranks), _most(alphas)
    return Scales(
        rank=rank,
        alpha=alpha,
        rank_stabilised=rank_stabilised,
        ranks={module: value for module, value in sorted(ranks.items()) if value != rank},
        alphas={module: value for module, value in sorted(alphas.items()) if value != alpha},
    )


def told(config: Mapping[str, Any], modules: Collection[str]) -> Scales:
    """What PEFT's configuration says of an adapter on `modules`. Raises `ValueError` where it does not say it in
    numbers, or by a regular expression."""
    rank = _rank(config.get("r"))
    alpha = _alpha(config.get("lora_alpha", rank))
    ranks = {module: _rank(value) for module, value in matched(config, "rank_pattern", modules).items()}
    alphas = {module: _alpha(value) for module, value in matched(config, "alpha_pattern", modules).items()}
    return Scales(
        rank=rank,
        alpha=alpha,
        rank_stabilised=bool(config.get("use_rslora", False)),
        ranks={module: value for module, value in ranks.items() if value != rank},
        alphas={module: value for module, value in alphas.items() if value != alpha},
    )


def matched(config: Mapping[str, Any], patterns: str, modules: Collection[str]) -> dict[str, Any]:
    """What `patterns` of a configuration says of those of `modules` that it speaks of. Raises `ValueError`."""
    said = config.get(patterns) or {}
    if not isinstance(said, Mapping):
        raise ValueError(f"{patterns} names no layers")
    strange = [name for name in said if not _NAME.fullmatch(name)]
    if strange:
        raise ValueError(f"{patterns} has {strange[0][:100]!r}, which is no name of a layer but an expression")
    order: dict[str, tuple[int, Any]] = {}
    for place, (name, value) in enumerate(said.items()):
        order.setdefault(name.replace("\\", ""), (place, value))
    found = {}
    for module in sorted(modules):
        words = module.split(".")
        spellings = [f"^{module}", *(".".join(words[first:]) for first in range(len(words)))]
        fitting = [order[name] for name in spellings if name in order]
        if fitting:
            found[module] = min(fitting, key=lambda one: one[0])[1]
    return found


def _rank(value: Any) -> int:
    if type(value) not in (int, float) or value < 1 or value % 1:
        raise ValueError(f"a rank is a whole number from 1 on, not {value!r}")
    return int(value)


def _alpha(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"no number as lora_alpha: {value!r}")
    return float(value)


def _most(values: Mapping[str, T]) -> T:
    """The value that most have, the smallest of them."""
    counts = Counter(values.values())
    return min(counts, key=lambda value: (-counts[value], value))
