"""How long the real Helm takes to render the chart. Bar: 0.2 s, for each values file of its ci/.

python -m benchmarks.chart
"""

import statistics
import sys
import time

from tests.helm.rendering import CASES, template

BAR_S = 0.2
_TIMES = 9


def main() -> int:
    """Print a row per values file; the exit status is 1 when a median misses the bar."""
    missed = False
    print("| values | median s | worst s |\n| --- | --- | --- |")
    for case in CASES:
        taken = []
        for _ in range(_TIMES):
            began = time.perf_counter()
            done = template(files=case.files, apis=case.apis)
            taken.append(time.perf_counter() - began)
            if done.returncode:
                print(done.stderr, file=sys.stderr)
                return 1
        median = statistics.median(taken)
        missed |= median > BAR_S
        print(f"| {case.name} | {median:.3f} | {max(taken):.3f} |")
    return missed


if __name__ == "__main__":
    sys.exit(main())
