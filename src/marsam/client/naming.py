"""Short names: what a person types, turned into resource names.

`hayy` is a dataset, model, run or evaluation of the client's project, by kind; `hayy/v1` a version of a dataset or
suite; `@prod` the alias `prod`. A name that begins with `projects/` is taken as it is.
"""

from marsam.core.errors import Invalid
from marsam.core.names import format_name, parse, shape

_PARTS = {"version": 2, "suite_version": 2, "item": 2}


def qualify(kind: str, name: str, *, project: str, field: str = "name") -> str:
    """The resource name of `kind` that `name` stands for; Invalid with the expected shapes otherwise.

    For kind "model" an alias is a name too.
    """
    if kind == "model" and (name.startswith("@") or "/aliases/" in name):
        kind, name = "alias", name.removeprefix("@")
    if name.startswith("projects/"):
        return str(parse(name, kind, field=field))
    parts = name.split("/")
    if len(parts) != _PARTS.get(kind, 1):
        short = "/".join(segment for segment in shape(kind).split("/") if segment.startswith("{"))
        short = short.removeprefix("{project}/")
        raise Invalid(
            f"{field} must be '{short}' or '{shape(kind)}', got '{name[:200]}'", field=field, reason="NAME_MALFORMED"
        )
    return format_name(kind, project, *parts)


def short(name: str) -> str:
    """What `qualify` would take back: the ids of a resource name without project and collections."""
    segments = name.split("/")
    if len(segments) < 4 or segments[0] != "projects":
        return name
    ids = "/".join(segments[3::2])
    return f"@{ids}" if segments[2] == "aliases" else ids
