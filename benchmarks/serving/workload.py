"""What is asked for, and when: two files of 200 requests each, made once by this program.

    python -m benchmarks.serving.workload

Arrivals are Poisson's, told in mean gaps between two of them: whoever serves them says how long a gap is.
"""

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "workloads"
REQUESTS = 200
STEPS = (4, 8, 12, 20)
SCHEDULERS = ("ddim", "euler", "dpm++")
ADAPTERS = ("a", "b", "c", "d")
WEIGHTS = (0.4, 0.6, 0.8, 1.0)
GUIDANCE = (3.0, 5.0, 7.5)
LEAVING = 0.2


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request for one picture. `side` is that of the latent, 0 for the one that is measured; `adapter` '' is the
    base; `at` and `leaves` (None for who stays) are in mean gaps since the beginning."""

    at: float
    seed: int
    steps: int
    scheduler: str
    guidance: float
    adapter: str
    weight: float
    side: int = 0
    leaves: float | None = None


def read(name: str) -> list[Asked]:
    """The requests of a file, in the order that they come."""
    return [Asked(**fields) for fields in json.loads((FOLDER / f"{name}.json").read_text())]


def make(seed: int, *, sides: tuple[int, ...], leaving: float) -> list[Asked]:
    """Requests whose settings are drawn evenly; a share of them leaves within eight gaps."""
    chance = random.Random(seed)
    at, found = 0.0, []
    for number in range(REQUESTS):
        at += chance.expovariate(1.0)
        adapter = chance.choice(("", *ADAPTERS))
        found.append(
            Asked(
                at=round(at, 4),
                seed=number,
                steps=chance.choice(STEPS),
                scheduler=chance.choice(SCHEDULERS),
                guidance=chance.choice(GUIDANCE),
                adapter=adapter,
                weight=chance.choice(WEIGHTS) if adapter else 0.0,
                side=chance.choice(sides),
                leaves=round(at + chance.uniform(0.0, 8.0), 4) if chance.random() < leaving else None,
            )
        )
    return found


FILES: dict[str, Callable[[], list[Asked]]] = {
    "one_size": lambda: make(1, sides=(0,), leaving=0.0),
    "two_sizes": lambda: make(2, sides=(8, 16), leaving=LEAVING),
}


def main() -> None:
    """Write both files."""
    FOLDER.mkdir(exist_ok=True)
    for name, requests in FILES.items():
        lines = ",\n ".join(json.dumps(asdict(one)) for one in requests())
        (FOLDER / f"{name}.json").write_text(f"[{lines}]\n")


if __name__ == "__main__":
    main()
