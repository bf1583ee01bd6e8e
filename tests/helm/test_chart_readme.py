"""Values, schema and README say the same."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from scripts.chart_readme import rows
from tests.helm.rendering import CHART

VALUES = (CHART / "values.yaml").read_text(encoding="utf-8")
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))


def test_the_readme_is_what_the_values_say() -> None:
    done = subprocess.run([sys.executable, "scripts/chart_readme.py", "--check"], cwd=CHART.parents[2],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_property_of_the_schema_has_a_default() -> None:
    """A value that is not in values.yaml is one that nobody finds."""
    missing = []

    def resolved(schema: dict[str, Any]) -> dict[str, Any]:
        return SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema

    def walk(schema: dict[str, Any], values: dict[str, Any], path: str) -> None:
        for name, inner in resolved(schema).get("properties", {}).items():
            if name not in values:
                missing.append(f"{path}/{name}")
            elif isinstance(values[name], dict) and values[name]:
                walk(inner, values[name], f"{path}/{name}")

    walk(SCHEMA, yaml.safe_load(VALUES), "")
    assert missing == [f"/{each}/resources/claims" for each in ("dataset", "trainer", "generator", "triton")]


def test_descriptions_are_sentences() -> None:
    described = list(rows(VALUES))
    assert len(described) > 100
    for path, description, _ in described:
        assert description.endswith("."), path


def test_the_readme_names_no_value_that_is_not_there() -> None:
    text = Path(CHART / "README.md").read_text(encoding="utf-8").partition("## Values")[0]
    names = {path for path, _, _ in rows(VALUES)}
    for word in text.split():
        if word.startswith(("store.", "auth.")) and "=" in word:
            assert word.partition("=")[0] in names
