"""What a caller says of a model that is to be taken in."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from marsam.catalog.models import ModelKind
from marsam.core.errors import Invalid
from marsam.core.ids import check_slug
from marsam.core.names import format_name
from marsam.core.records import canonical, to_plain
from marsam.diffusion import registry
from marsam_trainer.uploads import Received

BESIDE = "beside"
"""What `like` says where the rest of a base in one file is sent too, and the folder that it is sent in."""


@dataclass(frozen=True, kw_only=True)
class ImportOrder:
    """What a caller says of the files they send. `family` and `base` may be empty where the content tells.

    `like` tells where the rest of a base in one file comes from: a model's name, `hub:org/name`, or `beside`.
    `distilled` says that a base was made to draw in few steps, where its files do not.
    """

    project: str
    model_id: str
    kind: ModelKind
    family: str = ""
    base: str = ""
    licence: str = ""
    accept_licence: str = ""
    display_name: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    request_id: str = ""
    ref: str = ""
    like: str = ""
    distilled: bool = False

    def __post_init__(self) -> None:
        check_slug(self.model_id, field="header.model_id")
        if self.kind in ("adapter", "full") and not self.base:
            raise Invalid(
                f"a model of kind {self.kind} needs the base it belongs to",
                field="header.base",
                reason="BASE_REQUIRED",
                remedy=f"projects/{self.project}/models/…",
            )
        if self.kind != "base" and (self.like or self.distilled):
            raise Invalid(
                f"{'like' if self.like else 'distilled'} is said of bases, not of a model of kind {self.kind}",
                field="header.like" if self.like else "header.distilled",
                reason="BASE_ONLY",
                remedy="leave it out",
            )
        if self.family and self.kind != "judge":
            registry.family_facts(self.family)

    @property
    def name(self) -> str:
        """The resource name of the model to be."""
        return format_name("model", self.project, self.model_id)

    def content(self, received: Sequence[Received]) -> bytes:
        """What is asked, as a request id is compared by: files where the caller sent them, not where a ref led to
        them."""
        sent = [] if self.ref else [[entry.path, entry.digest] for entry in received]
        plain = to_plain(self)
        for name in ("accept_licence", "like", "distilled"):  # came to orders later: one from before is the same
            if not plain[name]:
                del plain[name]
        return canonical([plain, sent])
