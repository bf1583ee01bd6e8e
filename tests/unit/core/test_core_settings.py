from dataclasses import dataclass
from pathlib import Path

import pytest

from marsam.core.errors import Invalid
from marsam.core.settings import load_settings


@dataclass(frozen=True, kw_only=True)
class Settings:
    store: str
    listen: str = "127.0.0.1:0"
    slots: int = 1
    grace_s: float = 60.0
    reflection: bool = True
    cache: Path | None = None
    origins: tuple[str, ...] = ()


def test_defaults_file_and_environment_in_that_order(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('store = "/from/file"\nslots = 2\ngrace_s = 5\norigins = ["a", "b"]\ncache = "/c"\n')
    found = load_settings(
        Settings, file=file, env={"MARSAM_SLOTS": "3", "MARSAM_REFLECTION": "false", "PATH": "/bin", "MARSAM_CACHE": ""}
    )
    assert found == Settings(store="/from/file", slots=3, grace_s=5.0, reflection=False, origins=("a", "b"), cache=None)


def test_the_environment_alone() -> None:
    env = {"MARSAM_STORE": "/s", "MARSAM_CACHE": "/c", "MARSAM_ORIGINS": "a, b,", "MARSAM_GRACE_S": "1.5"}
    assert load_settings(Settings, env=env) == Settings(store="/s", cache=Path("/c"), origins=("a", "b"), grace_s=1.5)


@pytest.mark.parametrize(
    ("env", "toml", "reason", "words"),
    [
        ({"MARSAM_STORE": "/s", "MARSAM_LISTN": "x"}, "", "SETTING_UNKNOWN", "did you mean 'MARSAM_LISTEN'"),
        ({}, 'store = "/s"\nlistn = "x"', "SETTING_UNKNOWN", "did you mean 'listen'"),
        ({}, "", "SETTING_MISSING", "MARSAM_STORE"),
        ({"MARSAM_STORE": "/s", "MARSAM_SLOTS": "many"}, "", "SETTING_ILL_TYPED", "MARSAM_SLOTS"),
        ({"MARSAM_STORE": "/s", "MARSAM_REFLECTION": "perhaps"}, "", "SETTING_ILL_TYPED", "MARSAM_REFLECTION"),
        ({}, "store = 3", "SETTING_ILL_TYPED", "'store'"),
        ({}, 'store = "/s"\nslots = true', "SETTING_ILL_TYPED", "'slots'"),
        ({}, 'store = "/s"\nslots = 1.5', "SETTING_ILL_TYPED", "'slots'"),
        ({}, "store = ", "SETTINGS_UNREADABLE", "TOML"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, env: dict[str, str], toml: str, reason: str, words: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text(toml)
    with pytest.raises(Invalid) as caught:
        load_settings(Settings, env=env, file=file)
    assert caught.value.reason == reason
    assert words in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        load_settings(Settings, env={}, file=tmp_path / "no.toml")
    assert caught.value.reason == "SETTINGS_UNREADABLE"


def test_what_kubernetes_injects_and_what_others_own_is_passed_over() -> None:
    env = {
        "MARSAM_STORE": "/s",
        "MARSAM_DATASET_SERVICE_HOST": "10.0.0.1",
        "MARSAM_DATASET_SERVICE_PORT_GRPC": "50051",
        "MARSAM_DATASET_PORT": "tcp://10.0.0.1:50051",
        "MARSAM_DATASET_PORT_50051_TCP_ADDR": "10.0.0.1",
        "MARSAM_PROJECT": "p",
    }
    assert load_settings(Settings, env=env, also_known={"MARSAM_PROJECT"}) == Settings(store="/s")
