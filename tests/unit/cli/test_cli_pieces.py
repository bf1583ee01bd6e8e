"""The small parts of the command line."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import typer
from google.protobuf import timestamp_pb2
from typer.testing import CliRunner

from marsam.api.common.v1 import common_pb2
from marsam.api.dataset.v1 import dataset_pb2
from marsam.api.generator.v1 import generator_pb2
from marsam.api.model.v1 import model_pb2
from marsam.api.trainer.v1 import trainer_pb2
from marsam.cli import console, exits
from marsam.cli.generate import _adapters, _settings
from marsam.cli.home import Home
from marsam.cli.main import app
from marsam.cli.models import _accepted, _matched
from marsam.cli.pictures import save
from marsam.cli.plain import plain
from marsam.cli.plans import print_answer
from marsam.cli.session import pairs
from marsam.cli.train import set_fields
from marsam.client import Image
from marsam.core import errors
from marsam.core.errors import Exhausted, Invalid, MarsamError, Precondition


def commands(command: Any, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [words]
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        found += commands(inner, (*words, name))
    return found


EVERY = commands(typer.main.get_command(app))
KINDS = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MarsamError)}


def test_every_command_of_the_issue_is_there() -> None:
    names = {" ".join(words) for words in EVERY}
    assert names >= {
        "up", "train", "generate", "evaluate", "doctor",
        "datasets import", "datasets show", "datasets check", "datasets commit", "datasets list",
        "runs list", "runs show", "runs watch", "runs cancel", "runs resume",
        "models list", "models show", "models import", "models export", "store check", "tokens new",
        "upkeep gc", "upkeep verify",
        "generations list", "generations show", "generations fetch", "generations cancel", "provenance",
    }  # fmt: skip


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_help_fits_a_screen(words: tuple[str, ...]) -> None:
    said = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert said.exit_code == 0
    lines = said.output.rstrip().splitlines()
    assert len(lines) <= 28
    assert max(map(len, lines)) <= 80
    if words and words[-1] not in ("datasets", "runs", "models", "generations", "store", "tokens", "upkeep"):
        assert "--json" in said.output


def test_every_error_has_an_exit_code_of_its_kind() -> None:
    codes = {kind.__name__: exits.code_for(kind("x")) for kind in KINDS}
    assert codes.pop("MarsamError") == codes.pop("Internal") == exits.BUG
    assert exits.BUG not in codes.values()
    assert (codes["Invalid"], codes["Missing"], codes["Unavailable"], codes["Cancelled"]) == (3, 4, 7, 21)
    assert set(codes.values()).isdisjoint({0, 2, 20, 130})


def failed(error: MarsamError, capsys: pytest.CaptureFixture[str], *, as_json: bool) -> tuple[int, str, str]:
    with pytest.raises(typer.Exit) as caught:
        console.fail(error, as_json=as_json)
    out, err = capsys.readouterr()
    return caught.value.exit_code, out, err


def test_an_error_says_what_where_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    error = Invalid("steps must be ≥ 1, got 0", field="spec.steps", reason="STEPS", remedy="ask for [1] or more")
    code, out, err = failed(error, capsys, as_json=False)
    assert (code, out) == (3, "")
    assert err.splitlines() == [
        "error steps must be ≥ 1, got 0",
        "where spec.steps",
        "try   ask for [1] or more",
        "STEPS",
    ]
    code, out, err = failed(error, capsys, as_json=True)
    assert (code, err) == (3, "")
    said = json.loads(out)["error"]
    assert said["code"] == "INVALID_ARGUMENT"
    assert said["violations"] == [{"field": "spec.steps", "message": "steps must be ≥ 1, got 0", "reason": "STEPS"}]


def test_many_violations_are_all_named_up_to_a_dozen(capsys: pytest.CaptureFixture[str]) -> None:
    error = Invalid("no", violations=[(f"f{i}", f"bad {i}", "BAD") for i in range(15)])
    _, _, err = failed(error, capsys, as_json=False)
    assert "  f0  bad 0" in err
    assert "  f11  bad 11" in err
    assert "… and 3 more" in err


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (25_000, "25.0 kB"), (999_600, "1.0 MB"), (5_120_000_000, "5.1 GB")],
)
def test_sizes(count: int, text: str) -> None:
    assert console.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (60, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_spans(seconds: float, text: str) -> None:
    assert console.span(seconds) == text


def test_tables_copy_whole_and_line_up_in_any_script(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(("name", "n"), [("حيّ", "1"), ("x" * 120, "2")], nothing="none")
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "x" * 120 + "  2"
    assert lines[1].endswith("1")
    console.print_table(("name",), [], nothing="none yet")
    assert capsys.readouterr().out == "none yet\n"


def test_plain_keeps_numbers_and_names() -> None:
    run = trainer_pb2.Run(
        name="r",
        state=common_pb2.JOB_STATE_RUNNING,
        spec=trainer_pb2.RunSpec(seed=2**60, steps=0, method_params={"rank": 8}, labels={"b": "2", "a": "1"}),
        create_time=timestamp_pb2.Timestamp(seconds=1, nanos=500_000_000),
    )
    said = plain(run)
    assert said["state"] == "RUNNING"
    assert said["spec"]["seed"] == 2**60
    assert said["spec"]["steps"] == 0
    assert said["spec"]["batch_size"] is None
    assert said["spec"]["precision"] == ""
    assert said["spec"]["method_params"] == {"rank": 8.0}
    assert list(said["spec"]["labels"].items()) == [("a", "1"), ("b", "2")]
    assert said["create_time"] == "1970-01-01T00:00:01.500Z"
    assert said["update_time"] is None
    assert said["progress"] is None
    assert said["history"] == []
    json.dumps(said)
    future = trainer_pb2.Run()
    future.ParseFromString(bytes([0x18, 99]))  # a state newer than this program
    assert plain(future)["state"] == "99"
    assert plain(dataset_pb2.Version(excluded_by_reason={"DUPLICATE": 3}))["excluded_by_reason"] == {"DUPLICATE": 3}
    assert plain(generator_pb2.GenerateResponse(chunk=b"\x00\xff"))["chunk"] == "AP8="


def test_what_is_set_goes_where_it_belongs_and_keeps_its_looks() -> None:
    spec = trainer_pb2.RunSpec()
    set_fields(spec, ["rank=8", "alpha=1e-3", "rank_stabilised=true", "targets=attention", "name=a=b"])
    assert dict(spec.method_params) == {
        "rank": 8, "alpha": 0.001, "rank_stabilised": True, "targets": "attention", "name": "a=b",
    }  # fmt: skip
    spec = trainer_pb2.RunSpec()
    set_fields(
        spec, ["optimiser=adamw_8bit", "accumulate=4", "gradient_checkpointing=true", "snr_gamma=0", "display_name=7"]
    )
    assert spec == trainer_pb2.RunSpec(
        optimiser="adamw_8bit", accumulate=4, gradient_checkpointing=True, snr_gamma=0.0, display_name="7"
    )
    spec = trainer_pb2.RunSpec()
    set_fields(spec, ["timestep_sampling=logit_normal", "timestep_mean=-0.5", "timestep_std=2", "shift=3"])
    assert spec == trainer_pb2.RunSpec(
        timestep_sampling="logit_normal", timestep_mean=-0.5, timestep_std=2.0, shift=3.0
    )
    for bad in ("accumulate=many", "accumulate=1.5", "gradient_checkpointing=perhaps"):
        with pytest.raises(Invalid, match=bad.partition("=")[2]):
            set_fields(spec, [bad])
    for bad in ("rank", "=3"):
        with pytest.raises(Invalid):
            pairs([bad], option="--set")


def test_settings_that_have_no_option_of_their_own() -> None:
    texts = ["strength=0.4", "format=webp", "quality=80", "exact=true", "priority=-2", "tenant=mona"]
    told = {"strength": 0.4, "format": "webp", "quality": 80, "exact": True, "priority": -2, "tenant": "mona"}
    assert _settings(texts) == told
    for text, reason, words in (("qualty=3", "UNKNOWN_SETTING", "quality"), ("exact=yes", "OPTION_MALFORMED", "yes")):
        with pytest.raises(Invalid) as caught:
            _settings([text])
        assert caught.value.reason == reason and words in f"{caught.value.message} {caught.value.remedy}"


def test_adapters_and_their_weights() -> None:
    assert _adapters(["a", "b=0.5", "@prod=-1"]) == {"a": 1.0, "b": 0.5, "@prod": -1.0}
    with pytest.raises(Invalid) as caught:
        _adapters(["a=much"])
    assert "'much'" in caught.value.message
    with pytest.raises(Invalid) as caught:
        _adapters(["a=0.5", "b", "a"])
    assert caught.value.reason == "ADAPTER_TWICE"


def picture(data: bytes, seed: int = 7) -> Image:
    return Image(index=0, seed=seed, width=1, height=1, media_type="image/png", digest="", data=data)


def test_a_picture_never_overwrites_another(tmp_path: Path) -> None:
    first = save(tmp_path / "new", "خبّاز في المختبر", picture(b"1"))
    assert first.name == "خباز-في-المختبر-7.png"
    assert save(tmp_path / "new", "خبّاز في المختبر", picture(b"1")) == first
    other = save(tmp_path / "new", "خبّاز في المختبر", picture(b"2"))
    assert other != first
    assert first.read_bytes() == b"1"
    assert save(tmp_path, "../../etc/passwd !", picture(b"3")).parent == tmp_path
    (tmp_path / "file").write_text("")
    with pytest.raises(Exhausted):
        save(tmp_path / "file", "x", picture(b"4"))


def test_a_home_is_for_one(tmp_path: Path) -> None:
    home = Home(root=tmp_path / "home")
    home.prepare()
    notes: list[str] = []
    lock = home.lock(note=notes.append)
    with pytest.raises(Precondition) as caught:
        home.lock(note=notes.append)
    assert caught.value.reason == "ALREADY_UP"
    assert str(os.getpid()) in caught.value.message
    os.close(lock)
    os.close(home.lock(note=notes.append))
    assert notes == []


def test_a_dry_run_says_how_each_language_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    reading = trainer_pb2.Reading(
        language="ar", tokenizer="tokenizer", captions=12, tokens_per_word=4.98, unknown_rate=0.0,
        truncation_rate=0.125, round_trip_rate=1.0, reaches_attention=True,
    )  # fmt: skip
    pooled = trainer_pb2.Reading(language="ar", tokenizer="tokenizer_2", captions=12, tokens_per_word=2)
    warning = trainer_pb2.Fault(field="spec.languages", message="'ar' in tokenizer: 5.0 tokens a word")
    print_answer(trainer_pb2.ValidateRunResponse(readings=[reading, pooled], warnings=[warning]), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "~ spec.languages: 'ar' in tokenizer: 5.0 tokens a word"
    assert lines[1].split() == [
        "language", "tokenizer", "captions", "tokens/word", "unknown", "truncated", "round", "trip"
    ]  # fmt: skip
    assert lines[2].split() == ["ar", "tokenizer", "12", "4.98", "0.0%", "12.5%", "100.0%"]
    assert "tokenizer_2 (pooled only)" in lines[3]


def test_a_plan_that_does_not_fit_says_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    def terms(**sizes: int) -> list[trainer_pb2.MemoryTerm]:
        return [trainer_pb2.MemoryTerm(term=term.replace("_", " "), bytes=size * 10**9) for term, size in sizes.items()]

    remedy = trainer_pb2.PlanRemedy(total_bytes=20 * 10**9, fits=True, message="the same gradient")
    remedy.changes.update({"batch_size": 2.0, "accumulate": 2.0, "gradient_checkpointing": True, "method_params": {}})
    answer = trainer_pb2.ValidateRunResponse(
        faults=[trainer_pb2.Fault(field="spec.batch_size", reason="MEMORY_SHORT", message="too much", remedy="less")],
        plan=trainer_pb2.Plan(
            memory=terms(base_weights=10, activations=30),
            total_bytes=40 * 10**9,
            available_bytes=24 * 10**9,
            seconds=90,
            stages=[
                trainer_pb2.PlanStage(name="encode pictures", total_bytes=10**9, memory=terms(image_coder=1)),
                trainer_pb2.PlanStage(
                    name="train", total_bytes=40 * 10**9, memory=terms(base_weights=10, activations=30), seconds=90
                ),
            ],
            peak_stage="train",
            largest_term="activations",
            remedies=[remedy],
            fit=trainer_pb2.PLAN_FIT_SHORT,
            past_runs=12,
        ),
    )
    with pytest.raises(typer.Exit) as ended:
        print_answer(answer, as_json=False)
    assert ended.value.exit_code == 3
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "! spec.batch_size: too much"
    assert "does not fit: 40.0 GB of 24.0 GB (167%), by 12 past runs" in lines
    assert "most in 'train': activations, 30.0 GB" in lines
    assert "about 1 min 30 s" in lines
    (row,) = [line for line in lines if line.startswith("train *")]
    assert row.split()[2:4] == ["40.0", "GB"]
    assert row.endswith("activations 30.0 GB, base weights 10.0 GB")
    assert " ".join(lines[-1].split()) == (
        "1. --set accumulate=2 --batch-size 2 --set gradient_checkpointing=true 20.0 GB fits the same gradient"
    )


def test_a_model_says_who_accepted_its_licence() -> None:
    acceptance = common_pb2.LicenceAcceptance(licence="openrail++", by="mona", time=timestamp_pb2.Timestamp(seconds=1))
    assert _accepted(model_pb2.Model(licence_acceptance=acceptance)).startswith("by mona, 19")
    assert _accepted(model_pb2.Model(licence="mit")) == ""


def test_the_page_on_the_command_line_lists_every_command_and_exit_code() -> None:
    page = (Path(__file__).parents[3] / "docs" / "command-line.md").read_text(encoding="utf-8")
    for words in EVERY:
        assert all(word in page for word in words)
    codes = {
        exits.code_for(kind(""))
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, MarsamError)
    }
    codes |= {exits.OK, exits.USAGE, exits.JOB_FAILED, exits.JOB_CANCELLED, exits.INTERRUPTED}
    assert {code for code in range(200) if f"| {code} |" in page} == codes


def test_a_home_that_cannot_be_locked_or_written_is_a_stated_error(tmp_path: Path) -> None:
    home = Home(root=tmp_path)
    (tmp_path / "lock").mkdir()
    with pytest.raises(Exhausted) as caught:
        home.lock(note=print)
    assert caught.value.reason == "HOME_NOT_WRITABLE"
    (tmp_path / "endpoints.tmp").mkdir()
    with pytest.raises(Exhausted):
        home.write_endpoints({})


def test_the_keys_of_an_adapter_are_counted_on_all_that_it_changes() -> None:
    model = model_pb2.Model(base="projects/p/models/base")
    model.params.update({"keys": 8, "modules": 3})
    assert _matched(model) == "all 8 keys of the file matched, on 3 layers of base; none unknown, none dropped"
    model.params.update({"text_modules": 1})
    assert "on 3 layers of base and 1 of its text encoders; none" in _matched(model)
