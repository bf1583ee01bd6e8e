"""What Marsam's pages share: a page is one file that opens from a disk, loads nothing, runs no script, and reads well
in light and dark, from left and from right."""

from importlib import resources


def style() -> str:
    """The style sheet that every page begins with: palette, type, masthead, tables, plots."""
    return resources.files(__name__).joinpath("base.css").read_text("utf-8")
