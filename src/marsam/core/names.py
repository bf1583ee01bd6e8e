"""Resource names: `projects/{p}/runs/{ulid}` and their kin, parsed and formatted in one place (AIP-122)."""

from dataclasses import dataclass

from marsam.core.errors import Invalid, unknown_name
from marsam.core.ids import check_sha256, check_slug, check_ulid

# kind → the (collection, rule of its id) pairs below the project.
_PATTERNS: dict[str, tuple[tuple[str, str], ...]] = {
    "project": (),
    "dataset": (("datasets", "slug"),),
    "item": (("datasets", "slug"), ("items", "ulid")),
    "version": (("datasets", "slug"), ("versions", "slug")),
    "import": (("imports", "ulid"),),
    "run": (("runs", "ulid"),),
    "model": (("models", "slug"),),
    "alias": (("aliases", "slug"),),
    "evaluation": (("evaluations", "ulid"),),
    "generation": (("generations", "ulid"),),
    "image": (("images", "sha256"),),
    "suite": (("suites", "slug"),),
    "suite_version": (("suites", "slug"), ("versions", "slug")),
}
_RULES = {"slug": check_slug, "ulid": check_ulid, "sha256": check_sha256}


@dataclass(frozen=True, kw_only=True)
class ResourceName:
    """A checked name. `ids` holds the id of each collection, outermost first; `str()` gives the wire form."""

    kind: str
    project: str
    ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in _PATTERNS:
            raise unknown_name("resource kind", self.kind, _PATTERNS)
        pattern = _PATTERNS[self.kind]
        if len(pattern) != len(self.ids):
            raise Invalid(f"a {self.kind} name needs {len(pattern)} ids, got {len(self.ids)}", field="name")
        check_slug(self.project, field="project")
        for (collection, rule), value in zip(pattern, self.ids, strict=True):
            _RULES[rule](value, field=f"the id after '{collection}/'")

    @property
    def id(self) -> str:
        """The last id (the project itself for a project)."""
        return self.ids[-1] if self.ids else self.project

    def __str__(self) -> str:
        pairs = zip(_PATTERNS[self.kind], self.ids, strict=True)
        return "/".join(["projects", self.project, *(f"{collection}/{value}" for (collection, _), value in pairs)])


def shape(kind: str) -> str:
    """Return the pattern that names of `kind` follow, for messages."""
    if kind not in _PATTERNS:
        raise unknown_name("resource kind", kind, _PATTERNS)
    return "/".join(["projects/{project}", *(f"{c}/{{{c[:-1]}}}" for c, _ in _PATTERNS[kind])])


def parse(name: str, kind: str, *, field: str = "name") -> ResourceName:
    """Return the parts of `name`, which must be a `kind`; Invalid (on `field`) with the expected shape otherwise."""
    expected = shape(kind)
    segments = name.split("/")
    collections = ["projects", *(collection for collection, _ in _PATTERNS[kind])]
    if len(segments) != 2 * len(collections) or segments[::2] != collections:
        raise Invalid(f"{field} must look like '{expected}', got '{name[:200]}'", field=field, reason="NAME_MALFORMED")
    try:
        return ResourceName(kind=kind, project=segments[1], ids=tuple(segments[3::2]))
    except Invalid as error:
        raise Invalid(f"{field} '{name[:200]}': {error.message}", field=field, reason="NAME_MALFORMED") from error


def format_name(kind: str, project: str, *ids: str) -> str:
    """Return the wire form of a checked name."""
    return str(ResourceName(kind=kind, project=project, ids=ids))
