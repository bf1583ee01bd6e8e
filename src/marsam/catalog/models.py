"""Models: what was trained or imported, from what, how well it does; and the aliases that point at them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Literal

from marsam.catalog.acceptance import Acceptance
from marsam.catalog.files import FileRef, tree_digest
from marsam.core.errors import Invalid
from marsam.core.ids import digest_hex
from marsam.core.names import parse

ModelKind = Literal["base", "adapter", "full", "judge"]


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Where a model comes from. Empty strings mean that it was imported and the matter does not apply.

    `regularisation_version` is what some steps were taken from so that the rest of the world is not forgotten.
    """

    dataset_version: str = ""
    dataset_digest: str = ""
    run: str = ""
    seed: int | None = None
    code_version: str = ""
    quantisation: str = ""
    source: str = ""
    regularisation_version: str = ""
    regularisation_digest: str = ""

    @property
    def versions(self) -> dict[str, str]:
        """The dataset versions that the model saw, each with its digest."""
        seen = {
            self.dataset_version: self.dataset_digest,
            self.regularisation_version: self.regularisation_digest,
        }
        return {name: digest for name, digest in seen.items() if name}


@dataclass(frozen=True, kw_only=True)
class Model:
    """An immutable model manifest. `files` lie as a folder tree; `digest` is that tree's, computed when left empty.

    `base` names the model this one was tuned from (None for a base or judge), `base_digest` pins it. `params` are those
    of the method (or of an imported thing, what is known), `metrics` plain numbers, `samples` pictures.
    `accepted` says who accepted the licence, where it asks for that.
    """

    SCHEMA: ClassVar[str] = "marsam.model/1"

    name: str
    kind: ModelKind
    create_time: datetime
    files: tuple[FileRef, ...]
    family: str = ""
    method: str = ""
    base: str | None = None
    base_digest: str | None = None
    digest: str = ""
    display_name: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    lineage: Lineage = Lineage()  # frozen, so sharing the default is safe
    metrics: Mapping[str, float] = field(default_factory=dict)
    samples: tuple[FileRef, ...] = ()
    licence: str = ""
    accepted: Acceptance | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parse(self.name, "model")
        if not self.files:
            raise Invalid(f"{self.name} has no files", field="files")
        if self.base is not None:
            parse(self.base, "model", field="base")
        if self.base_digest is not None:
            digest_hex(self.base_digest, field="base_digest")
        if self.kind in ("adapter", "full") and not (self.base and self.base_digest):
            raise Invalid(f"{self.name}: a tuned model names its base and the base's digest", field="base")
        digest = tree_digest(self.files)
        if self.digest not in ("", digest):
            raise Invalid(f"{self.name}: its files hash to {digest}, not to {self.digest}", field="digest")
        object.__setattr__(self, "digest", digest)

    @property
    def id(self) -> str:
        """The model's id within its project."""
        return parse(self.name, "model").id

    @property
    def project(self) -> str:
        """The project's id."""
        return parse(self.name, "model").project

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, kw_only=True)
class AliasEntry:
    """One step of an alias: what it points at from then on. `target` None means that the alias was taken away."""

    SCHEMA: ClassVar[str] = "marsam.alias/1"

    seq: int
    target: str | None
    writer_id: str
    at: datetime
    by: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.target is not None:
            parse(self.target, "model", field="target")

    @property
    def etag(self) -> str:
        """What a caller sends back to change the alias only if nobody else did meanwhile."""
        return f"{self.seq}-{self.writer_id}"
