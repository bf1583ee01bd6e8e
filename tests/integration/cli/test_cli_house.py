"""The whole house through the command line: real services, a tiny real base, real pictures."""

import json
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import PIL.Image
import pytest

from marsam.client.endpoints import read
from tests.integration.cli.support import begin, finish, marsam, ok, up, write_walls

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with six pictures, one broken file, and a base of 0.2 million parameters."""
    made = tmp_path_factory.mktemp("house")
    write_walls(made)
    (made / "pictures" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    return made


@pytest.fixture(scope="module")
def house(folder: Path) -> Any:
    with up(folder) as (_, ready):
        yield ready


@pytest.fixture(scope="module")
def version(house: Any, folder: Path) -> str:
    ok(marsam("datasets", "import", "pictures", "walls", "--licence", "CC0-1.0", folder=folder))
    return str(ok(marsam("datasets", "commit", "walls", "-m", "six walls", "--json", folder=folder)).json["name"])


@pytest.fixture(scope="module")
def base(house: Any, folder: Path) -> str:
    said = ok(marsam("models", "import", "base", "tiny", "--licence", "Apache-2.0", "--json", folder=folder))
    return str(said.json["name"])


@pytest.fixture(scope="module")
def adapter(version: str, base: str, folder: Path) -> str:
    words = ("--base", "tiny", "--data", "walls/v1", "--steps", "8", "--set", "rank=2", "--output", "wall-lora")
    events = ok(marsam("train", *words, "--json", folder=folder)).lines
    assert events[0]["snapshot"]["spec"]["method_params"]["rank"] == 2
    assert events[-1]["snapshot"]["state"] == "SUCCEEDED"
    steps = [event["progress"]["step"] for event in events if event["progress"]]
    assert steps == sorted(steps)
    assert steps[-1] == 8
    return str(events[-1]["snapshot"]["model"])


def test_up_says_and_writes_where_the_services_are(house: Any, folder: Path) -> None:
    assert house["event"] == "ready"
    where = read(folder / ".marsam" / "endpoints.json")
    assert where.dataset == house["dataset"]["grpc"]
    assert len({where.dataset, where.trainer, where.generator}) == 3
    below = folder / "some" / "where"
    below.mkdir(parents=True)
    assert ok(marsam("models", "list", "--json", folder=below)).code == 0


def test_the_doctor_finds_all_well(house: Any, folder: Path) -> None:
    said = ok(marsam("doctor", "--json", folder=folder)).json
    assert said["healthy"]
    facts = {check["name"]: check["fact"] for check in said["checks"]}
    assert "create-only writes hold" in facts["store"]
    assert "sd1, sd3, sdxl, z_image by full, lora, qlora" in facts["can"]
    text = ok(marsam("doctor", folder=folder)).out
    assert "✗" not in text


def test_runs_are_compared_on_one_page(adapter: str, folder: Path) -> None:
    words = ("--base", "tiny", "--data", "walls/v1", "--steps", "8", "--set", "rank=1", "--output", "thin-lora")
    ok(marsam("train", *words, "--json", folder=folder))
    first, second = sorted(run["name"] for run in ok(marsam("runs", "list", "--json", folder=folder)).json)[:2]
    names = (first.split("/")[-1], second.split("/")[-1])
    said = ok(marsam("runs", "compare", *names, "--json", folder=folder)).json
    assert said["differing"] == ["method_params.rank"]
    one, two = said["runs"]
    assert (one["settings"]["method_params.rank"], two["settings"]["method_params.rank"]) == ("2", "1")
    assert [point[0] for point in one["losses"]] == [*range(1, 9)]
    assert one["samples"] == two["samples"] != []
    assert one["outcomes"]["final_loss"] > 0 and one["outcomes"]["final_loss"] != two["outcomes"]["final_loss"]
    page = (folder / "comparison.html").read_text(encoding="utf-8")
    assert page.count('class="scene"') == len(one["samples"])
    assert page.count("data:image/png;base64,") == 2 * len(one["samples"])
    told = ok(marsam("runs", "compare", *names, "--out", "other.html", folder=folder)).out
    assert "method_params.rank" in told and "final loss" in told and "other.html" in told
    again = marsam("runs", "compare", names[0], names[0], "--json", folder=folder)
    assert again.error["reason"] == "RUNS_TO_COMPARE"
    assert marsam("runs", "compare", *names, "--out", "no/where.html", folder=folder).code != 0


def test_a_second_up_is_refused_and_the_first_goes_on(house: Any, folder: Path) -> None:
    said = marsam("up", folder=folder)
    assert said.code == 6
    assert "is up on" in said.err
    assert "--store" in said.err
    assert marsam("up", "--json", folder=folder).error["reason"] == "ALREADY_UP"
    assert json.loads(marsam("doctor", "--json", folder=folder).out)["healthy"]


def test_an_import_takes_the_good_and_names_the_bad(version: str, folder: Path) -> None:
    said = ok(marsam("datasets", "import", "pictures", "again", folder=folder))
    assert "6 items in again, 1 files refused" in said.out
    assert "broken.png" in said.out
    shown = ok(marsam("datasets", "show", "walls", "--json", folder=folder)).json
    assert (shown["item_count"], len(shown["versions"])) == (6, 1)
    committed = ok(marsam("datasets", "show", "walls/v1", "--json", folder=folder)).json
    assert committed["licences"] == ["CC0-1.0"]
    assert committed["message"] == "six walls"
    assert "walls/v1" in ok(marsam("datasets", "list", folder=folder)).out
    report = ok(marsam("datasets", "check", "walls", "--json", folder=folder)).json
    assert report["items"] == 6


def test_a_model_goes_in_and_comes_out_the_same(base: str, folder: Path) -> None:
    shown = ok(marsam("models", "show", "tiny", "--json", folder=folder)).json
    assert (shown["kind"], shown["family"], shown["licence"]) == ("BASE", "sd1", "Apache-2.0")
    ok(marsam("models", "export", "tiny", "exported", folder=folder))
    for path in (folder / "base").rglob("*"):
        if path.is_file():
            assert (folder / "exported" / path.relative_to(folder / "base")).read_bytes() == path.read_bytes()
    refused = marsam("models", "export", "tiny", "exported", "--json", folder=folder)
    assert (refused.code, refused.error["reason"]) == (5, "DESTINATION_EXISTS")


def test_a_base_in_one_file_takes_the_rest_from_a_folder_or_from_a_model(base: str, folder: Path) -> None:
    from tests.contract.families import originals

    originals.write(folder / "base", "sd1", folder / "mine.safetensors")
    words = ("models", "import", "mine.safetensors")
    refused = marsam(*words, "mine", "--like", "base", "--json", folder=folder)
    assert (refused.code, refused.error["reason"]) == (3, "LICENCE_NOT_ACCEPTED")
    assert "--licence" in refused.error["remedy"] and "--accept-licence 'unknown'" in refused.error["remedy"]
    said = ok(marsam(*words, "mine", "--like", "base", "--distilled", "--accept-licence", "unknown", folder=folder))
    assert "unet, vae, text_encoder of one file, the rest of a folder sent beside it" in " ".join(said.out.split())
    assert "licence unknown" in " ".join(said.out.split())
    said = ok(marsam(*words, "again", "--like", "tiny", "--licence", "MIT", "--json", folder=folder))
    shown = ok(marsam("models", "show", "mine", "--json", folder=folder)).json
    ours, theirs = ({f["path"]: f["digest"] for f in one["files"]} for one in (said.json, shown))
    assert {path for path in ours if ours[path] != theirs.get(path)} == {"README.md"}
    assert (said.json["licence"], said.json["params"]["like"]) == ("MIT", base)
    text = " ".join(ok(marsam("models", "show", "mine", folder=folder)).out.split())
    assert "for few steps" in text
    assert "licence unknown" in text and "accepted by local" in text
    ok(marsam("models", "export", "again", "made", folder=folder))
    card = (folder / "made" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: mit\n---\n")
    for fact in (base, said.json["params"]["one_file"], said.json["params"]["like_digest"]):
        assert fact.replace("_", "&#95;") in card or fact in card
    refused = marsam("models", "import", "mine.safetensors", "no", "--like", "bass/", "--json", folder=folder)
    assert (refused.code, refused.error["reason"]) == (3, "PATH_MISSING")
    assert "'base'" in refused.error["remedy"]
    refused = marsam("models", "import", "hub:a/b", "no", "--like", "./base", "--json", folder=folder)
    assert (refused.code, refused.error["reason"]) == (3, "LIKE_LOCAL")


def test_a_name_of_a_model_and_of_a_folder_is_refused_with_both_spellings(base: str, folder: Path) -> None:
    from tests.contract.families import originals

    there = folder / "ambiguous"
    there.mkdir()
    shutil.copytree(folder / "base", there / "tiny")
    originals.write(folder / "base", "sd1", there / "mine.safetensors")
    words = ("models", "import", "mine.safetensors")
    refused = marsam(*words, "either", "--like", "tiny", "--json", folder=there)
    assert (refused.code, refused.error["reason"]) == (3, "LIKE_AMBIGUOUS")
    assert refused.error["remedy"] == f"say ./tiny for the folder, {base} for the model"
    for name, like, taken in (("of-folder", "./tiny", "a folder sent beside it"), ("of-model", base, base)):
        said = ok(marsam(*words, name, "--like", like, "--licence", "mit", "--json", folder=there))
        assert said.json["params"]["like"] == taken


def test_a_pickle_is_refused_with_the_way_out(house: Any, folder: Path) -> None:
    import pickle

    (folder / "weights.safetensors").write_bytes(pickle.dumps({"a": [1, 2, 3]}))
    said = marsam("models", "import", "weights.safetensors", "trap", "--json", folder=folder)
    assert said.code == 3
    assert "pickle" in (said.error["message"] + said.error["remedy"]).lower()
    assert said.error["remedy"]


def test_a_run_is_listed_shown_and_traced(adapter: str, folder: Path) -> None:
    listed = ok(marsam("runs", "list", "--filter", "state=SUCCEEDED", "--json", folder=folder)).json
    (name,) = [run["name"] for run in listed if run["model"] == adapter]
    run = name.rpartition("/")[2]
    text = ok(marsam("runs", "show", run, folder=folder)).out
    assert "lora of tiny on walls/v1, 8 steps" in text
    assert "succeeded" in text
    watched = ok(marsam("runs", "watch", run, folder=folder))
    assert "succeeded: model wall-lora" in watched.out
    assert "marsam generate" in watched.err
    shown = ok(marsam("models", "show", "wall-lora", "--lineage", "--json", folder=folder)).json
    assert shown["base"].endswith("/tiny")
    assert {"run", "base", "dataset_version"} <= {node["kind"] for node in shown["lineage_nodes"]}


def test_pictures_repeat_by_seed_and_change_with_the_adapter(adapter: str, folder: Path) -> None:
    def draw(*words: str) -> list[Any]:
        words = ("generate", "جدار رمادي", "--model", "tiny", "--seed", "5", "--steps", "3", "-o", "drawn", *words)
        answer = ok(marsam(*words, "--json", folder=folder)).json
        assert answer["timings"]["total_seconds"] > 0
        return list(answer["images"])

    def pixels(image: Any) -> bytes:
        # Not the file: it tells in its metadata what drew it.
        return PIL.Image.open(folder / image["path"]).tobytes()

    first, second = draw("-n", "2"), draw("-n", "2")
    assert [image["seed"] for image in first] == [5, 6]
    assert [image["digest"] for image in first] == [image["digest"] for image in second]
    assert [image["path"] for image in first] == [image["path"] for image in second]
    (alone,), (nothing,), (changed,) = draw(), draw("--adapter", "wall-lora=0"), draw("--adapter", "wall-lora=4")
    assert pixels(nothing) == pixels(alone)
    assert pixels(changed) != pixels(alone)
    assert (folder / changed["path"]).read_bytes()[:4] == b"\x89PNG"


def test_previews_grow_beside_the_pictures(base: str, folder: Path) -> None:
    words = ("generate", "a wall", "--model", "tiny", "--steps", "12", "--seed", "3", "-o", "grown", "--preview", "4")
    drawn = ok(marsam(*words, folder=folder))
    with PIL.Image.open(folder / "grown" / "preview-0.jpg") as look:
        assert look.format == "JPEG"
    assert (folder / drawn.out.split()[0]).read_bytes()[:4] == b"\x89PNG"


def test_a_picture_is_started_from(base: str, folder: Path) -> None:
    PIL.Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    words = ("generate", "a wall", "--model", "tiny", "--steps", "4", "--seed", "3", "-o", "begun", "--json")
    plain = ok(marsam(*words, folder=folder)).json
    begun = ok(marsam(*words, "--init", "red.png", "--set", "strength=0.5", folder=folder)).json
    assert begun["request"]["init_image"].startswith("projects/default/images/")
    assert begun["images"][0]["digest"] != plain["images"][0]["digest"]
    missing = marsam(*words, "--init", "rde.png", folder=folder)
    assert missing.code == 3 and "red.png" in missing.error["remedy"]


def test_a_drawing_is_left_alone_found_and_fetched(base: str, folder: Path) -> None:
    words = ("generate", "a wall", "--model", "tiny", "--steps", "40", "--seed", "3")
    left = ok(marsam(*words, "--detach", folder=folder))
    name = left.out.strip()
    assert name.startswith("projects/default/generations/") and "generations fetch" in left.err
    (fetched,) = ok(marsam("generations", "fetch", name.split("/")[-1], "-o", "got", "--json", folder=folder)).json
    (drawn,) = ok(marsam(*words, "-o", "got", "--json", folder=folder)).json["images"]
    assert fetched == drawn
    shown = ok(marsam("generations", "show", name, "--json", folder=folder)).json
    assert (shown["state"], shown["request"]["detach"], len(shown["images"])) == ("SUCCEEDED", True, 1)
    assert "seed 3" in ok(marsam("generations", "show", name, folder=folder)).out
    long = ok(marsam(*words[:4], "--steps", "250", "-n", "16", "--detach", "--json", folder=folder)).json["generation"]
    ok(marsam("generations", "cancel", long, folder=folder))
    refused = marsam("generations", "fetch", long, "--json", folder=folder)
    assert refused.error["reason"] == "GENERATION_CANCELLED"
    states = [one["state"] for one in ok(marsam("generations", "list", "--json", folder=folder)).json]
    assert states[0] == "CANCELLED" and "SUCCEEDED" in states
    assert "cancelled" in ok(marsam("generations", "list", folder=folder)).out


def test_metrics_of_all_three_services_answer_the_operator_s_questions(house: Any, adapter: str, folder: Path) -> None:
    ok(marsam("generate", "x", "--model", "tiny", "--steps", "2", "-o", "drawn", folder=folder))
    texts = {name: httpx.get(house[name]["http"] + "/metrics").text for name in ("dataset", "trainer", "generator")}
    for name, text in texts.items():
        assert f'marsam_build_info{{service="{name}"' in text
        for kind in ("used", "peak", "total", "free"):
            assert f'marsam_device_memory_bytes{{device="cpu",kind="{kind}"}}' in text
        assert 'marsam_rpc_handled_total{code="OK",method="/marsam.api.' in text
        assert "marsam_rpc_duration_seconds_bucket" in text
        assert "marsam_queue_depth{" in text
        assert httpx.get(house[name]["http"] + "/healthz").json()["status"] == "alive"
    assert 'marsam_import_files_total{reason="",verdict="accepted"}' in texts["dataset"]
    assert "marsam_import_images_per_second" in texts["dataset"]
    deadline = time.monotonic() + 40  # ended runs are counted now and then
    succeeded = re.compile(r'marsam_jobs\{kind="runs",state="SUCCEEDED"\} [1-9]')
    while not succeeded.search(httpx.get(house["trainer"]["http"] + "/metrics").text):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert "marsam_generation_images_per_second{" in texts["generator"]
    assert "marsam_generation_steps_total{" in texts["generator"]


def test_an_evaluation_ends_in_a_report_and_can_be_returned_to(adapter: str, folder: Path) -> None:
    from marsam_generator.evaluation.suites import suite_bytes

    from tests.integration.evaluation.tiny_judge import train
    from tests.unit.evaluation.synthetic import suite

    whole = suite(seeds=(11,))
    groups = [[prompt for prompt in whole.prompts if prompt.group == group.name] for group in whole.groups]
    few = tuple(prompt for group in groups for prompt in group[::12])
    small = replace(whole.generation, steps=2, width=16, height=16)
    content = suite_bytes(replace(whole, name="few", prompts=few, generation=small))
    (folder / "suite.json").write_bytes(content)
    train(folder / "judge", steps=40)
    ok(marsam("models", "import", "judge", "reader", "--kind", "judge", folder=folder))
    words = ("evaluate", "tiny", "wall-lora", "--suite", "suite.json", "--judge", "reader")
    said = ok(marsam(*words, "-o", "out/report.html", "--json", folder=folder, timeout=300))
    *events, last = said.lines
    assert events[0]["snapshot"]["spec"]["models"][1] == adapter
    assert last["evaluation"]["state"] == "SUCCEEDED"
    assert len(last["evaluation"]["verdict"]) > 20
    page = (folder / "out" / "report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    again = ok(marsam("evaluate", "--watch", last["evaluation"]["name"], "-o", "again.html", folder=folder))
    assert last["evaluation"]["verdict"] in again.out
    assert str(folder / "again.html") in again.out
    assert (folder / "again.html").read_text() == page


def test_an_alias_points_and_remembers(adapter: str, folder: Path) -> None:
    ok(marsam("models", "alias", "prod", "tiny", folder=folder))
    ok(marsam("models", "alias", "prod", "wall-lora", folder=folder))
    history = ok(marsam("models", "alias", "prod", "--json", folder=folder)).json
    assert {entry["model"].rpartition("/")[2] for entry in history} == {"tiny", "wall-lora"}
    assert ok(marsam("models", "show", "@prod", "--json", folder=folder)).json["name"] == adapter


def test_ctrl_c_on_a_watch_detaches_and_the_run_can_be_steered(version: str, base: str, folder: Path) -> None:
    training = begin("train", "--base", "tiny", "--data", "walls/v1", "--steps", "200000", folder=folder)
    assert training.stderr is not None
    first = training.stderr.readline()
    run = first.split()[1].rstrip(":")
    _until(folder, run, lambda shown: shown["state"] == "RUNNING" and _step(shown) >= 5)
    training.send_signal(signal.SIGINT)
    said = finish(training)
    assert said.code == 130
    assert f"marsam runs watch {run}" in said.err

    assert _run(folder, run)["state"] == "RUNNING"
    ok(marsam("runs", "cancel", run[:20], folder=folder))
    watched = marsam("runs", "watch", run, folder=folder)
    assert watched.code == 21
    assert f"marsam runs resume {run}" in watched.err
    reached = _step(_run(folder, run))
    ok(marsam("runs", "resume", run, "--detach", folder=folder))
    _until(folder, run, lambda shown: shown["state"] == "RUNNING" and shown["attempt"] == 2 and _step(shown) > reached)
    ok(marsam("runs", "cancel", run, folder=folder))
    assert marsam("runs", "watch", run, folder=folder).code == 21


def _run(folder: Path, run: str) -> Any:
    return ok(marsam("runs", "show", run, "--json", folder=folder)).json


def _step(shown: Any) -> int:
    return int(shown["progress"]["step"]) if shown["progress"] else 0


def _until(folder: Path, run: str, holds: Any) -> Any:
    deadline = time.monotonic() + 90
    while not holds(shown := _run(folder, run)):
        assert time.monotonic() < deadline, shown
        time.sleep(0.3)
    return shown


@pytest.mark.parametrize(
    ("words", "code", "reason", "remedy"),
    [
        ("datasets show wals", 4, "DATASET_NOT_FOUND", "walls"),
        ("datasets show walls/v7", 4, "VERSION_NOT_FOUND", "v1"),
        ("datasets check nothing-like-it", 4, "DATASET_NOT_FOUND", "known"),
        ("datasets import nowhere walls", 3, "PATH_MISSING", ""),
        ("datasets import picture walls", 3, "PATH_MISSING", "pictures"),
        ("datasets commit BAD", 3, "NAME_NOT_ALLOWED", ""),
        ("models show tyni", 4, "MODEL_NOT_FOUND", "tiny"),
        ("models import base x --kind lora", 3, "UNKNOWN_MODEL_KIND", "base"),
        ("runs show zzzz", 4, "RUN_NOT_FOUND", ""),
        ("train --base tyni --data walls/v1", 3, "MODEL_NOT_FOUND", "tiny"),
        ("train --base tiny --data walls/v7", 3, "VERSION_NOT_FOUND", "v1"),
        ("train --base tiny --data walls/v1 --steps 0", 3, "", ""),
        ("train --base tiny --data walls/v1 --method lor", 3, "", "lora"),
        ("train --base tiny --data walls/v1 --set rnk=3", 3, "", "rank"),
        ("train --base tiny --data walls/v1 --set rank", 3, "OPTION_MALFORMED", ""),
        ("train --base tiny --data walls/v1 --resolution 17", 3, "", ""),
        ("generate x --model tyni", 4, "MODEL_NOT_FOUND", "tiny"),
        ("generate x --model tiny --scheduler eular", 3, "", "euler"),
        ("generate x --model tiny --adapter a=b", 3, "INVALID_ARGUMENT", ""),
        ("generate x --model tiny -n 99", 3, "REQUEST_INVALID", ""),
        ("evaluate tiny", 3, "INVALID_ARGUMENT", "--suite"),
        ("evaluate tiny --suite no/v1 --judge tiny", 4, "", ""),
    ],
)
def test_what_is_wrong_is_said_where_and_how_to_mend_it(
    version: str, base: str, folder: Path, words: str, code: int, reason: str, remedy: str
) -> None:
    said = marsam(*words.split(), "--json", folder=folder)
    assert said.code == code, said
    assert said.error["message"]
    if reason:
        assert said.error["reason"] == reason
    texts = said.error["remedy"] + " ".join(v["message"] for v in said.error["violations"])
    assert remedy in texts + said.error["message"]
    text = marsam(*words.split(), folder=folder)
    assert text.code == code
    assert text.err.count("\n") < 16
    assert "error " in text.err
