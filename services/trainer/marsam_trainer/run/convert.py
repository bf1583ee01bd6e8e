"""A checkpoint in one file, taken apart: each part is converted, stored and dropped before the next one."""

import tempfile
from pathlib import Path
from typing import Any

from safetensors import safe_open

from marsam.diffusion.onefile.facts import recognise
from marsam.diffusion.onefile.net import convert as parts_of
from marsam.store.blobs import Blobs
from marsam.store.cache import Cache
from marsam.store.content import put_blob
from marsam_trainer.conversion import Conversion
from marsam_trainer.run.bridge import FILES_S, Bridge
from marsam_trainer.weights import MEDIA_TYPES, Content


def convert(bridge: Bridge, blobs: Blobs, order: Conversion, *, cache: Path) -> dict[str, Any]:
    """The parts of the ordered file, stored: `files` as fields of `FileRef`, and `faults`, of which there are none.

    Raises as `recognise` and `onefile.net.convert`.
    """
    copies = Cache(cache)
    file = Path(order.local)
    if not order.local:
        fetch = copies.fetch(blobs, order.project, order.file.digest, order.file.size, timeout_s=FILES_S)
        file = bridge.call(fetch, timeout_s=FILES_S)
    made = []
    # In the cache, because parts are as large as the file.
    with tempfile.TemporaryDirectory(prefix="convert-", dir=cache) as folder:
        configs, into = Path(folder) / "configs", Path(folder) / "parts"
        bridge.call(copies.lay_out(blobs, order.project, order.configs, configs))
        with safe_open(file, framework="pt", device="cpu") as opened:
            held = recognise(opened.keys(), family=order.family)
        for path in parts_of(file, held, configs, into):
            part = into / path
            stored = bridge.call(put_blob(blobs, order.project, part), timeout_s=FILES_S)
            part.unlink()
            made.append(
                {
                    "path": path,
                    "digest": stored.digest,
                    "size": stored.size,
                    "media_type": MEDIA_TYPES[Content.SAFETENSORS],
                }
            )
    return {"files": made, "faults": []}
