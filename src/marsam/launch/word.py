"""What a crew says of a rank that failed, read: for the record, an exit names the rank that it is the exit of."""

import json
import signal
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from marsam.launch.launcher import Cause, Exit


def named(exit_: Exit, text: str, *, where: str = "") -> Exit:
    """`exit_` of a crew, with its word `text` as the message; as it is when that is no word. `where` the rank was."""
    try:
        word = dict(json.loads(text))
        if "missing" in word:
            message = f"it could not be started: {word['missing']}"
            return Exit(cause=Cause.NOT_STARTED, reason="PROGRAM_NOT_FOUND", message=message)
        return replace(exit_, message=_sentence(word, where))
    except (KeyError, TypeError, ValueError):
        return exit_


def _sentence(word: Mapping[str, Any], where: str) -> str:
    of = f"of {int(word['ranks'])}{where}"
    if hung := word.get("hung"):
        return f"rank {', '.join(str(int(rank)) for rank in hung)} {of} hung and was ended"
    if "signal" in word:
        return f"rank {int(word['rank'])} {of} was ended by {signal.Signals(word['signal']).name}"
    return f"rank {int(word['rank'])} {of} ended with exit code {int(word['code'])}"
