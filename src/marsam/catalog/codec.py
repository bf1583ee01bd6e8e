"""How a manifest becomes bytes and back; the rules are those of `marsam.core.records`."""

from marsam.core.records import canonical, dump, from_plain, load, to_plain

__all__ = ["canonical", "dump", "from_plain", "load", "to_plain"]
