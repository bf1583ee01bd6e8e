"""The generator's engine against a pipeline behind a lock, a static batcher, and PEFT's mixed batches.

    python -m benchmarks.serving [PART …] [--out benchmarks/results]

Both sides have the same weights, the same requests and one thread, and take turns in one process. The page says what
each part is, `workload.py` what is asked for.
"""

import functools
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers.utils import logging

from benchmarks.rows import Row, run
from benchmarks.serving import adapters, latency, saturated, ticks, triton
from marsam.diffusion.weights.net import quieten

HEAD = f"""# Serving

`python -m benchmarks.serving`; torch {torch.__version__}, fp32, one thread. A UNet of Stable Diffusion 1's shape with
6.0 M random parameters (64, 128, 128), text of 77 tokens, adapters of rank 8 on attention and convolutions; sizes are
those of the latent. Text encoding and image decoding are left out on both sides.

Both sides draw with one set of weights in one process and take turns, and must end in the same latents (to a fiftieth
of their spread, since random weights widen a difference in the last digit step by step). The lock and the static
batcher are diffusers' `StableDiffusionPipeline` with PEFT's adapters: the lock takes one request at a time as they
come, the static batcher as many of equal settings as wait. The requests are in `benchmarks/serving/workloads`. Where
requests come or wait, every server has a clock that only the processor time of its own real work moves (forwards,
schedulers, switches and all), so other programs add to nobody's wait: latencies are those of a core to itself, as slow
as a busy machine makes it. `cancel` and `triton` are by the clock on the wall. Brackets: lowest and highest round.

Beyond what the lock can do its queue grows for as long as requests come (at 8² {latency.REQUESTS[8]} of them, at 16²
{latency.REQUESTS[16]}), and with it the ratio; the step loop's does not, below its own saturation. 66 requests of the
workload have 60 or more different settings: so the static batcher is hardly faster than the lock.
""".splitlines()

PARTS: dict[str, Callable[[Path], list[Row]]] = {
    **{f"saturated-{side}": functools.partial(saturated.measure, side) for side in saturated.REQUESTS},
    "saturated-base": saturated.without_adapters,
    "latency-8": functools.partial(latency.load, 8, 1.5, mean=3.0, p95=2.5),
    "latency-16": functools.partial(latency.load, 16, 1.2, mean=1.2, p95=1.0),
    "short-beside-long": latency.beside,
    "light-load": latency.light,
    "two-sizes": latency.two_sizes,
    "eight-adapters": adapters.mixed,
    "switch": adapters.switching,
    "hot-load": adapters.hot,
    "overhead": ticks.overhead,
    "cancel": ticks.cancelling,
    "triton": triton.measure,
}


def _in_scratch(measure: Callable[[Path], list[Row]]) -> list[Row]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="marsam-bench-") as folder:
        return measure(Path(folder))


def main(argv: Sequence[str] | None = None) -> int:
    """See `benchmarks.rows.run`."""
    quieten()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="peft")
    parts = {name: functools.partial(_in_scratch, measure) for name, measure in PARTS.items()}
    return run("serving", HEAD, parts, argv)


if __name__ == "__main__":
    sys.exit(main())
