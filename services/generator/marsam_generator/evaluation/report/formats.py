"""How numbers are written in a report."""

from datetime import datetime

from marsam_generator.evaluation.statistics import Interval

NARROW = "\u202f"
MINUS = "\u2212"


def percent(rate: float) -> str:
    """A rate as a whole percentage."""
    return f"{round(rate * 100)}{NARROW}%"


def percent_range(interval: Interval) -> str:
    """An interval of rates."""
    return f"{round(interval.low * 100)}–{round(interval.high * 100)}{NARROW}%"


def points(difference: float) -> str:
    """A difference of rates in percentage points, with its sign."""
    value = round(difference * 100)
    return f"{'+' if value > 0 else MINUS if value < 0 else ''}{abs(value)}"


def points_range(interval: Interval) -> str:
    """An interval of differences in percentage points."""
    return f"{points(interval.low)} to {points(interval.high)}"


def size(count: float) -> str:
    """A number of bytes in decimal units."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f}{NARROW}{unit}" if unit == "B" or count >= 100 else f"{count:.1f}{NARROW}{unit}"
        count /= 1000
    return f"{count:.2f}{NARROW}GB"


def duration(seconds: float) -> str:
    """A length of time."""
    if seconds < 60:
        return f"{seconds:.1f}{NARROW}s" if seconds < 10 else f"{seconds:.0f}{NARROW}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NARROW}min {rest:02d}{NARROW}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{NARROW}h {minutes:02d}{NARROW}min"


def count(number: float) -> str:
    """A whole number with thin separators."""
    return f"{round(number):,}".replace(",", NARROW)


def plain(value: object) -> str:
    """A parameter's value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(v) for v in value)
    return str(value)


def words(identifier: str) -> str:
    """A machine's name in words."""
    return identifier.replace("_", " ").lower() if identifier.isupper() else identifier.replace("_", " ")


def short_digest(digest: str) -> str:
    """The first twelve digits of a digest; the whole one belongs beside it as a title."""
    return digest.removeprefix("sha256:")[:12]


def day_and_time(at: datetime) -> str:
    """A moment in UTC."""
    return at.strftime("%-d %B %Y, %H:%M UTC")


def last_part(name: str) -> str:
    """The last id of a resource name."""
    return name.rsplit("/", 1)[-1]
