"""The chart, rendered by the real Helm. `python -m tests.helm.rendering` writes the goldens anew."""

import functools
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scripts.tools import HELMS

CHART = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "marsam"
GOLDEN = Path(__file__).parent / "golden"
RELEASE, NAMESPACE = "studio-1", "images"
NEEDED = {"store": {"url": "s3://marsam"}, "auth": {"existingSecret": "marsam-tokens"}}
"""The least that must be given."""

Object = dict[str, Any]


class Once(yaml.CSafeLoader):
    """YAML as Kubernetes' clients read it, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for key in found if found.count(key) > 1]
        assert not twice, f"keys that stand twice: {twice} at {node.start_mark}"
        return super().construct_mapping(node, deep)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A values file of the chart's ci/, with what its first lines say it needs of the cluster."""

    name: str
    files: tuple[Path, ...]
    apis: tuple[str, ...]


def cases() -> list[Case]:
    """One per file of ci/."""
    found = []
    for file in sorted((CHART / "ci").glob("*-values.yaml")):
        name = file.name.removesuffix("-values.yaml")
        apis = [line.removeprefix("# needs:").split() for line in file.read_text().splitlines() if "# needs:" in line]
        files = (CHART / "values-gpu.yaml", file) if name == "gpu" else (file,)
        found.append(Case(name=name, files=files, apis=tuple(apis[0]) if apis else ()))
    return found


CASES = cases()


def helm(*arguments: str | Path, binary: Path = HELMS[0]) -> subprocess.CompletedProcess[str]:
    """Run Helm with no cluster and no configuration of whoever runs the tests."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": tempfile.gettempdir(), "KUBECONFIG": "/dev/null"}
    return subprocess.run([binary, *arguments], capture_output=True, text=True, env=environment, timeout=60)


def template(
    values: Mapping[str, Any] | None = None,
    *,
    files: Sequence[Path] = (),
    apis: Sequence[str] = (),
    binary: Path = HELMS[0],
    release: str = RELEASE,
) -> subprocess.CompletedProcess[str]:
    """`helm template` with values files and then `values`."""
    arguments: list[str | Path] = ["template", release, CHART, "--namespace", NAMESPACE]
    for api in apis:
        arguments += ["--api-versions", api]
    for file in files:
        arguments += ["--values", file]
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as own:
        if values is not None:
            json.dump(values, own, ensure_ascii=False)
            own.flush()
            arguments += ["--values", own.name]
        return helm(*arguments, binary=binary)


def parsed(text: str) -> list[Object]:
    """The objects of Helm's output."""
    return [found for found in yaml.load_all(text, Loader=Once) if found]


def objects(
    values: Mapping[str, Any] | None = None,
    *,
    files: Sequence[Path] = (),
    apis: Sequence[str] = (),
    binary: Path = HELMS[0],
    release: str = RELEASE,
) -> list[Object]:
    """What is rendered, parsed; fails with Helm's words when it refuses."""
    done = template(values, files=files, apis=apis, binary=binary, release=release)
    assert done.returncode == 0, done.stderr
    return parsed(done.stdout)


@functools.cache
def rendered(name: str, binary: Path = HELMS[0]) -> tuple[Object, ...]:
    """The objects of a case, in a fixed order. Shared: do not change them."""
    (case,) = (case for case in CASES if case.name == name)
    found = objects(files=case.files, apis=case.apis, binary=binary)
    return tuple(sorted(found, key=lambda o: (o["kind"], o["metadata"]["name"])))


def of_kind(found: Sequence[Object], kind: str) -> dict[str, Object]:
    """Objects of a kind by name."""
    return {found_["metadata"]["name"]: found_ for found_ in found if found_["kind"] == kind}


def deployment(found: Sequence[Object], component: str) -> Object:
    """The Deployment of a service."""
    (one,) = (
        each
        for each in of_kind(found, "Deployment").values()
        if each["metadata"]["labels"]["app.kubernetes.io/component"] == component
    )
    return one


def container(found: Sequence[Object], component: str) -> Object:
    """The one container of a service."""
    (one,) = deployment(found, component)["spec"]["template"]["spec"]["containers"]
    return one


def environment(container: Object) -> dict[str, str]:
    """Plain variables of a container."""
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def runs_file(found: Sequence[Object]) -> Object:
    """What the trainer is told about runs."""
    (text,) = (o["data"]["kubernetes.yaml"] for o in found if "kubernetes.yaml" in (o.get("data") or {}))
    return yaml.load(text, Loader=Once)


def pods(found: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """(name of the object, its pod template) of everything that makes pods."""
    for each in found:
        if each["kind"] == "Pod":
            yield each["metadata"]["name"], each
        elif "template" in each.get("spec", {}):
            yield each["metadata"]["name"], each["spec"]["template"]


def golden(name: str, binary: Path = HELMS[0]) -> list[Object]:
    """A case as its golden holds it: dashboards and alerts by name only, they have tests of their own."""
    kept = []
    for each in json.loads(json.dumps(rendered(name, binary))):
        if each["kind"] == "PrometheusRule":
            each["spec"]["groups"] = sorted(group["name"] for group in each["spec"]["groups"])
        if "-dashboard-" in each["metadata"]["name"]:
            each["data"] = sorted(each["data"])
        kept.append(each)
    return kept


def main() -> None:
    """Write all goldens."""
    for case in CASES:
        text = yaml.safe_dump_all(golden(case.name), sort_keys=True, width=120, explicit_start=True)
        (GOLDEN / f"{case.name}.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
