"""The process that decodes: `python -m marsam.imaging.worker LIMITS_JSON`, frames of `wire` on stdin and stdout.

It bounds its own memory, processor time and file writing before it reads the first byte, opens no file, and ends when
its input ends, so an orphan cannot linger.
"""

import gc
import json
import os
import resource
import signal
import sys
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import AvifImagePlugin, Image

from marsam.imaging import encode, hashes, measures, wire
from marsam.imaging.limits import Limits
from marsam.imaging.normalise import Rejection, normalise


def main() -> int:
    limits = Limits(**json.loads(sys.argv[1]))
    replies = _own_stdout()
    _bound(limits)
    Image.init()
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    _reply(replies, {"ready": True})
    while (frame := wire.receive(sys.stdin.buffer.read, max_payload=limits.max_bytes)) is not None:
        _allow_cpu(limits.cpu_s)
        head, png = _answer(frame[1], limits, alpha=bool(frame[0].get("alpha")))
        _reply(replies, head, png)
        if head.get("retire"):
            return 0
    return 0


def _own_stdout() -> Any:
    """Take stdout for frames alone: a C library that prints would otherwise write into the protocol."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return replies


def _reply(replies: Any, head: dict[str, Any], payload: bytes = b"") -> None:
    replies.write(wire.pack(head, payload))
    replies.write(payload)
    replies.flush()


def _bound(limits: Limits) -> None:
    space = limits.address_space()
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C in a terminal is the service's business, which then closes the pipe


def _allow_cpu(seconds: int) -> None:
    """Move the processor limit to `seconds` from now; going over it kills the process (SIGXCPU)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _answer(data: bytes, limits: Limits, *, alpha: bool) -> tuple[dict[str, Any], bytes]:
    try:
        normal = normalise(data, limits=limits, alpha=alpha)
        image = normal.image
        luma = image.convert("L")
        pixels = np.asarray(image)  # once: each look at a picture's bytes through Pillow copies them
        png = encode.png(pixels)
        facts = {
            "width": image.width,
            "height": image.height,
            "format": normal.format,
            "notes": list(normal.notes),
            "provenance": asdict(normal.provenance),
            "pixel_digest": encode.pixel_digest(image.width, image.height, pixels.data),
            "phash": f"{hashes.phash(luma):016x}",
            "dhash": f"{hashes.dhash(luma):016x}",
            "measures": asdict(measures.measure(luma)),
        }
        return {"ok": True, **facts}, png
    except Rejection as rejection:
        return {"ok": False, "reason": rejection.reason, "message": rejection.message}, b""
    except MemoryError:
        gc.collect()
        # The heap may be fragmented now, and the next file must not pay for this one.
        message = "Decoding needs more memory than a worker may have."
        return {"ok": False, "reason": "OUT_OF_MEMORY", "message": message, "retire": True}, b""
    except Exception as error:
        message = f"The decoder failed: {type(error).__name__}: {error}"[:500]
        return {"ok": False, "reason": "BROKEN", "message": message, "retire": True}, b""


if __name__ == "__main__":
    sys.exit(main())
