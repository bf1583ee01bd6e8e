"""JSON that comes from outside: read so that whatever passes can be stored again."""

import json
from typing import Any


def read(text: str | bytes) -> Any:
    """Return what `text` holds. ValueError, with a sentence, for what is no JSON, is nested without end, or holds half
    a character: the escape of a lone surrogate, which no UTF-8 can express.
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("it holds half a character (the escape of a lone surrogate)") from error
    return value
