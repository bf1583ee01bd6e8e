"""The pods of `helm test`, their commands really run: on a service, a store, an API server with the chart's Role."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.kubernetes.cluster import NAMESPACE, FakeCluster
from tests.helm.rendering import NEEDED, Object, objects, of_kind, rendered, runs_file

pytestmark = pytest.mark.slow


def command(name: str, found: list[Object] | tuple[Object, ...]) -> list[str]:
    """The words of a test pod's container, with this Python."""
    (pod,) = (each for full, each in of_kind(found, "Pod").items() if full.endswith(f"-test-{name}"))
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    words = pod["spec"]["containers"][0]["command"]
    assert words[0] == "python3"
    return [sys.executable, *words[1:]]


def run(words: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **env}
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A dataset service; its HTTP address."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "MARSAM_STORE": str(folder)}
    with subprocess.Popen([sys.executable, "-m", "marsam_dataset"], env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["http"]
        finally:
            process.terminate()
            process.wait(60)


def test_health_asks_each_service(tmp_path: Path) -> None:
    words = command("health", rendered("minimal"))
    assert words[3:] == [f"http://studio-1-marsam-{each}:8080" for each in ("dataset", "trainer", "generator")]
    assert all(word.startswith("https://") for word in command("health", rendered("tls"))[3:])
    with served(tmp_path / "store") as address:
        done = run([*words[:3], address])
        assert (done.returncode, done.stderr) == (0, "")
        assert '"status":"ready"' in done.stdout.replace(" ", "")
        half = run([*words[:3], address, "http://127.0.0.1:9"])
    assert half.returncode == 1
    assert "http://127.0.0.1:9 is not ready" in half.stderr


def test_store_is_proved(tmp_path: Path) -> None:
    words = command("store", rendered("minimal"))
    good = run(words, MARSAM_STORE=str(tmp_path / "store"))
    assert good.returncode == 0, good.stderr
    assert "keeps what it is given" in good.stdout
    bad = run(words, MARSAM_STORE="relative/folder")
    assert bad.returncode == 1
    assert bad.stderr.startswith("STORE_URL: ")


def test_a_job_of_each_profile_is_tried_by_the_trainers_account_and_none_is_made(tmp_path: Path) -> None:
    found = rendered("gpu")
    ((_, role),) = of_kind(found, "Role").items()
    file = tmp_path / "kubernetes.yaml"
    file.write_text(json.dumps({**runs_file(found), "namespace": NAMESPACE}))
    words = [*command("job", found)[:3], str(file)]
    with FakeCluster(tmp_path / "cluster", role=role["rules"]) as cluster:
        done = run(words, KUBECONFIG=str(cluster.kubeconfig))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("the cluster takes its Job") == 5
        asked = [query for method, path, query in cluster.server.seen if method == "POST" and path.endswith("/jobs")]
        assert len(asked) == 5
        assert all("dryRun=All" in query and "fieldValidation=Strict" in query for query in asked)
        assert cluster.objects.all("jobs") == []
    with FakeCluster(tmp_path / "strict", role=()) as cluster:
        refused = run(words, KUBECONFIG=str(cluster.kubeconfig))
    assert refused.returncode == 1
    assert "profile gpu: 403" in refused.stderr


def test_they_can_be_left_out() -> None:
    assert of_kind(objects({**NEEDED, "tests": {"enabled": False}}), "Pod") == {}
