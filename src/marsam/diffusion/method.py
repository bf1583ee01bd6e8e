"""What a method is: which parameters train, how the base is held meanwhile, what is saved. Importing this imports no
torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from marsam.diffusion.precision import Quantisation
from marsam.diffusion.spec import Default, FamilyFacts

if TYPE_CHECKING:
    from torch.nn import Module, Parameter


class Kind(StrEnum):
    """What a method leaves behind: an adapter beside the base, or parts in the place of the base's."""

    ADAPTER = "adapter"
    FULL = "full"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One parameter of a method: its type, default, bounds or choices, and what it means in one line."""

    name: str
    type: type
    default: Any
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodFacts:
    """What is true of a method. `recipe` holds defaults of a run's fields, `learning_rate` at least."""

    name: str
    title: str
    kind: Kind
    settings: tuple[Setting, ...]
    recipe: Mapping[str, Default]


class Method(Protocol):
    """Which parameters train, how the base is held, what is saved. A method file ends with `METHOD`, an instance of
    this."""

    facts: MethodFacts

    def quantisation(self, params: Mapping[str, Any]) -> Quantisation | None:
        """How the frozen base must be held; known before any weight is loaded."""

    def attach(
        self, modules: Mapping[str, "Module"], family: FamilyFacts, params: Mapping[str, Any], *, seed: int
    ) -> dict[str, "Parameter"]:
        """Make what is tuned of a base (`tuned.modules`) trainable in place and return what trains, by name
        (`tuned.named`), fp32. At step 0 its output equals the base's.

        `params` are checked values (see `registry.method_params`). The same seed gives the same initial values. On
        the meta device only shapes are made, which is how a plan is computed.
        """

    def save(
        self, modules: Mapping[str, "Module"], family: FamilyFacts, folder: Path, *, metadata: Mapping[str, str]
    ) -> tuple[str, ...]:
        """Write the artifact under `folder` and return its relative paths: those of parts that take the place of the
        base's as they lie in the base. `metadata` goes into the safetensors headers."""
