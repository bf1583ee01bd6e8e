"""What importing the SDK and the command line may not bring along, read from a fresh process."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "diffusers", "transformers", "peft", "numpy", "PIL", "marsam_trainer", "marsam_generator"}
SERVER = {"starlette", "uvicorn", "prometheus_client", "protovalidate"}  # grpc itself looks for its health package


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [("marsam.client", HEAVY | SERVER | {"typer", "rich"}), ("marsam.cli.main", HEAVY | SERVER)],
)
def test_an_import_stays_light(module: str, forbidden: set[str]) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(json.loads(done.stdout))
    assert module in loaded
    assert loaded & forbidden == set()
    assert not any(name.startswith(("marsam.diffusion", "marsam.rpc.server")) for name in loaded)
