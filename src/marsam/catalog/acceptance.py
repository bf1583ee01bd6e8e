"""That somebody accepted a licence: which, who, when."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """`by` is the caller's name as the service knows it: `local` where it asks for no tokens."""

    licence: str
    by: str
    at: datetime
