"""`make bench`: every figure in one go, one program after the other so that none disturbs another."""

import subprocess
import sys

PROGRAMS = (
    "training",
    "qlora",
    "loading",
    "encoding",
    "saving",
    "plan",
    "control_plane",
    "importing",
    "chart",
    "storage",
    "serving",
)


def main() -> int:
    """Run all; the exit status is 1 when one of them missed its bar or failed."""
    missed = [name for name in PROGRAMS if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode]
    if missed:
        print(f"missed or failed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
