"""What an import is told, the files it received, and the vocabulary it brought, as stored."""

from dataclasses import dataclass, field
from typing import ClassVar

from marsam.catalog.datasets import Rights


@dataclass(frozen=True, kw_only=True)
class Received:
    """A file that arrived. With a `reason` it was refused, and `digest` is empty."""

    path: str
    size: int
    digest: str = ""
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class ImportSpec:
    """The job: bring the files that the blob `listing` lists into `dataset` (a resource name)."""

    SCHEMA: ClassVar[str] = "marsam.import/1"

    dataset: str
    listing: str
    files: int
    default_rights: Rights = field(default_factory=Rights)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Every file that was received."""

    SCHEMA: ClassVar[str] = "marsam.import_listing/1"

    files: tuple[Received, ...]


@dataclass(frozen=True, kw_only=True)
class VocabularyRecord:
    """An entry of the log: import `import_id` brought the blob `digest`."""

    SCHEMA: ClassVar[str] = "marsam.vocabulary/1"

    import_id: str
    digest: str
