"""How fast a run's pictures and captions are encoded, the first time and every other time.

    python -m benchmarks.encoding [--rounds 3] [--out benchmarks/results]

Hayy's base, drawings of 256 px cut to the base's 128, one caption each, on every core. The first time both encoders run
and what they make is kept on disk under the digest of all that it depends on; every other run that may use it reads it.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from marsam_trainer.run.bridge import Bridge
from marsam_trainer.run.data import Encoder
from marsam_trainer.run.encoded import EncodedCache
from marsam_trainer.run.samples import samples_of

from benchmarks.measures import machine
from benchmarks.runs import BASE, PICTURES, PROJECT, fill
from marsam.core.cores import computing_cores
from marsam.core.ids import digest_hex
from marsam.diffusion import registry
from marsam.diffusion.lanes.net import Lanes
from marsam.diffusion.precision import Precision
from marsam.diffusion.weights.net import quieten
from marsam.store.cache import Cache
from marsam.store.open import open_store


def measure(rounds: int) -> dict[str, list[float]]:
    """Seconds of encoding everything, by kind of time, a number each round."""
    quieten()
    found: dict[str, list[float]] = {"first": [], "again": []}
    with tempfile.TemporaryDirectory(prefix="bench-encoding-") as place, Bridge() as bridge:
        blobs = open_store(f"{place}/store")
        base, version = asyncio.run(fill(blobs, BASE))
        samples = samples_of(version, ())
        images = [sample.image for sample in samples]
        cache = Cache(Path(place) / "cache")
        named = [type(image)(path=digest_hex(image.digest), digest=image.digest, size=image.size) for image in images]
        folder = bridge.call(cache.lay_out(blobs, PROJECT, named, Path(place) / "pictures"))
        files = {image.digest: folder / digest_hex(image.digest) for image in images}
        side = registry.read_base_folder(base.family, BASE).default_side
        with Lanes(computing_cores()) as lanes:
            for number in range(rounds):
                encoder = Encoder(
                    family=registry.family(base.family),
                    base=base,
                    source=BASE,
                    cache=EncodedCache(Path(place) / f"encoded-{number}"),
                    precision=Precision.FP32,
                    device="cpu",
                    lanes=lanes,
                )
                for kind in found:
                    began = time.monotonic()
                    encoder.training_set(samples, files, [(side, side)])
                    found[kind].append(time.monotonic() - began)
    return found


def markdown(found: dict[str, list[float]]) -> str:
    """The figures as a page."""
    host = machine()
    rates = {kind: PICTURES / statistics.median(seconds) for kind, seconds in found.items()}
    return "\n".join(
        [
            "# Encoding what a run trains on",
            "",
            f"{host['processor']}, {host['cores']} cores, load average {host['load_average']:.1f} at the end."
            " `python -m benchmarks.encoding`",
            f"{PICTURES} drawings of 256 px at 128 px with a caption each, Hayy's base, fp32, the encoders' loading"
            f" included; median of {len(found['first'])} rounds.",
            "",
            "| | pictures a second |",
            "|---|---|",
            f"| the first time: both encoders run, everything is kept on disk | {rates['first']:.1f} |",
            f"| every other time: read back | {rates['again']:.0f} |",
            "",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write `encoding.md`. No bar is set."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoding")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results")
    options = parser.parse_args(argv)
    page = markdown(measure(options.rounds))
    print(page)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "encoding.md").write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
