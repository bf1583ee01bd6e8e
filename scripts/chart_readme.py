"""The tables of the chart's README, from the comments of values.yaml and the schema. `--check` compares only."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parents[1] / "deploy" / "helm" / "marsam"
BEGIN, END = "<!-- begin: made by scripts/chart_readme.py -->", "<!-- end -->"
_WIDE = 60


def rows(text: str) -> Iterator[tuple[str, str, str]]:
    """(path, description, default as JSON) of every value whose comment begins with `# --`, in the file's order."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    lines = text.splitlines()

    def walk(node: yaml.MappingNode, path: str) -> Iterator[tuple[str, str, str]]:
        for key, value in node.value:
            name = f"{path}.{key.value}".lstrip(".")
            above = lines[key.start_mark.line - 1].strip() if key.start_mark.line else ""
            if above.startswith("# -- "):
                plain = yaml.SafeLoader("").construct_object(value, deep=True)
                yield name, above.removeprefix("# -- "), json.dumps(plain, ensure_ascii=False)
            elif isinstance(value, yaml.MappingNode) and not value.flow_style:
                yield from walk(value, name)
            else:
                raise SystemExit(f"values.yaml: {name} has no comment that begins with '# -- '")

    assert isinstance(root, yaml.MappingNode)
    yield from walk(root, "")


def tables() -> str:
    """The two tables, as Markdown."""
    schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    lines = ["| value | default | |", "| --- | --- | --- |"]
    for name, description, default in rows((CHART / "values.yaml").read_text(encoding="utf-8")):
        shown = "see values.yaml" if len(default) > _WIDE else f"`{default}`"
        lines.append(f"| `{name}` | {shown} | {_cell(description)} |")
    lines += ["", "### A profile", "", "| key of `runs.profiles.<name>` | |", "| --- | --- |"]
    for name, inner in schema["$defs"]["profile"]["properties"].items():
        lines.append(f"| `{name}` | {_cell(inner['description'])} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """Write the tables between the marks of README.md; with --check, the exit status is 1 when they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    file = CHART / "README.md"
    text = file.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    made = f"{before}{BEGIN}\n{tables()}\n{END}{after}"
    if check and made != text:
        print("deploy/helm/marsam/README.md is not what values.yaml says: run python scripts/chart_readme.py",
              file=sys.stderr)  # fmt: skip
        return 1
    if not check:
        file.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
