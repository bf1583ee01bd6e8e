"""Tokens: made, kept as hashes, read strictly."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from marsam.cli.main import app
from marsam.core.errors import Invalid
from marsam.core.tokens import PREFIX, Principal, add_token, entry_of, hash_of, new_token, read_tokens

GOOD = {"principal": "ci", "sha256": "a" * 64, "scopes": ["runs.*"], "projects": ["default"]}


def test_a_token_is_random_and_its_hash_is_all_that_is_kept(tmp_path: Path) -> None:
    token = new_token()
    assert token.startswith(PREFIX)
    assert len(token) == len(PREFIX) + 43
    assert token != new_token()
    path = tmp_path / "tokens.json"
    principal = Principal(name="ci", scopes=frozenset({"runs.*"}), projects=frozenset({"default"}))
    add_token(path, entry_of(principal, token))
    assert token not in path.read_text()
    assert read_tokens(path) == {hash_of(token): principal}


def test_what_a_principal_may() -> None:
    principal = Principal(name="ci", scopes=frozenset({"runs.*", "models.read"}), projects=frozenset({"default"}))
    assert [principal.may(s) for s in ("runs.write", "models.read", "models.write", "run.write")] == [1, 1, 0, 0]
    assert [principal.sees(p) for p in ("default", "other", "*")] == [1, 0, 0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scopes": "runs.*"}, "'scopes' must be a list"),
        ({"projects": [1]}, "'projects' must be a list"),
        ({"projects": ["No Slug"]}, "projects"),
        ({"scopes": ["everything"]}, "'everything' is no scope"),
        ({"sha256": "A" * 64}, "not 64 hexadecimal digits"),
        ({"principal": ""}, "1 to 128 printable characters"),
        ({"principal": "a\nb"}, "1 to 128 printable characters"),
        ({"project": ["default"]}, "nothing else"),
    ],
)
def test_an_entry_with_a_slip_is_refused_by_number(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({"tokens": [{**GOOD, "sha256": "b" * 64}, GOOD | change]}))
    with pytest.raises(Invalid) as caught:
        read_tokens(path)
    assert caught.value.reason == "TOKEN_FILE_INVALID"
    assert "entry 2" in caught.value.message
    assert said in caught.value.message


def test_one_token_has_one_holder(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({"tokens": [GOOD, {**GOOD, "principal": "other"}]}))
    with pytest.raises(Invalid, match="that of 'ci' too"):
        read_tokens(path)


def test_the_command_makes_entries_that_services_read(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    words = ["tokens", "new", "ci", "--scope", "runs.*", "--scope", "models.read", "--for-project", "default"]
    made = []
    for _ in range(2):
        result = CliRunner().invoke(app, [*words, "--file", str(path), "--json"])
        assert result.exit_code == 0, result.output
        made.append(json.loads(result.stdout))
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(read_tokens(path)) == [hash_of(one["token"]) for one in made]
    assert made[0]["entry"]["scopes"] == ["models.read", "runs.*"]
    refused = CliRunner().invoke(app, ["tokens", "new", "ci", "--scope", "run.read", "--for-project", "*", "--json"])
    assert refused.exit_code == 3
    error = json.loads(refused.stdout)["error"]
    assert (error["reason"], error["field"]) == ("UNKNOWN_SCOPE", "--scope")
    assert "'runs.read'" in error["remedy"]


def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text('{"shopping": []}')
    with pytest.raises(Invalid):
        add_token(path, GOOD)
    assert path.read_text() == '{"shopping": []}'
    assert sorted(tmp_path.iterdir()) == [path]
