"""The committed suite is what the program builds, and asks for what can be drawn."""

import json
from collections import Counter
from pathlib import Path

import hayy
from hayy.attributes import GARMENTS, HEAD_COVERS, PLACES, TOOLS
from hayy.suite import build

KNOWN = {"place": PLACES, "garment": GARMENTS, "head_cover": HEAD_COVERS, "tool": TOOLS}


def test_the_committed_file_is_current() -> None:
    committed = Path(hayy.__path__[0]) / "suite.json"
    assert json.loads(committed.read_text(encoding="utf-8")) == build()


def test_32_distinct_prompts_in_each_group_and_language() -> None:
    suite = build()
    groups = {group["name"] for group in suite["groups"]}
    assert Counter(prompt["group"] for prompt in suite["prompts"]) == dict.fromkeys(groups, 32)
    for language in suite["languages"]:
        assert len({prompt["text"][language] for prompt in suite["prompts"]}) == 160
    assert len({prompt["id"] for prompt in suite["prompts"]}) == 160


def test_expectations_name_known_values_and_never_what_is_forbidden() -> None:
    for prompt in build()["prompts"]:
        for part in ("expect", "forbid"):
            for attribute, values in prompt[part].items():
                assert set(values) <= set(KNOWN[attribute])
        for attribute, values in prompt["forbid"].items():
            assert not set(values) & set(prompt["expect"].get(attribute, ()))
