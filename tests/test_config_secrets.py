"""Secrets of the configuration are shown nowhere, also those that the schema may declare one day."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from config import ConfigError, load
from config.masking import MASK, Secrecy
from config.options import OPTIONS
from config.sources import VARIABLES
from tests.test_config_cli import penstock_config

VARIABLE = {key: variable for variable, key in VARIABLES.items()}
SECRETS = [key for key, option in OPTIONS.items() if option.secrecy]
WORDS = ("hunter2", "open-sesame", "alice")
VALUES = {
    Secrecy.TEXT: "hunter2",
    Secrecy.ADDRESS: "https://alice:hunter2@hooks.example.com:8443/open-sesame?key=hunter2",
}


def values() -> dict[str, str]:
    """A value with secret words for every secret option."""
    return {key: VALUES[option.secrecy] for key, option in OPTIONS.items() if option.secrecy}


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in flat.items():
        section, _, name = key.rpartition(".")
        found.setdefault(section, {})[name] = value
    return found


def assert_no_secret(text: str) -> None:
    assert [word for word in WORDS if word in text] == []


def problems(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load(None, path, {}, {})
    return str(error.value)


def test_what_is_secret() -> None:
    assert set(SECRETS) >= {"alerts.webhook_secret", "alerts.webhook_url", "telemetry.otlp_endpoint"}


def test_no_option_sounds_like_a_secret_without_being_declared_one() -> None:
    telling = re.compile(r"secret|passw|credential|api_?key|_key$|(^|_)token$|_(url|endpoint)$")
    assert [key for key in OPTIONS if telling.search(key.rpartition(".")[2]) and key not in SECRETS] == []


@pytest.mark.parametrize("args", [["show"], ["show", "--json"], ["show", "--changed"]])
def test_config_show_masks_every_secret(args: list[str]) -> None:
    environ = {VARIABLE[key]: value for key, value in values().items()}
    result = penstock_config(*args, **environ)
    assert result.exit_code == 0
    assert_no_secret(result.output)
    for key in SECRETS:
        assert key in result.stdout
    assert result.stdout.count(MASK) >= len(SECRETS)
    assert f"https://{MASK}@hooks.example.com:8443/{MASK}" in result.stdout


def test_the_settings_hold_the_secrets_and_their_repr_does_not() -> None:
    settings = load(None, None, {}, nested(values())).settings
    assert settings.alerts.webhook_secret == VALUES[Secrecy.TEXT]
    assert settings.alerts.webhook_url == VALUES[Secrecy.ADDRESS]
    assert_no_secret(repr(settings))
    assert f"webhook_secret='{MASK}'" in str(settings.alerts)
    assert "timeout_ms=5000" in repr(settings.alerts)


def test_an_empty_secret_is_shown_as_empty() -> None:
    assert "webhook_secret=''" in repr(load(None, None, {}, {}).settings.alerts)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://127.0.0.1:4317", "http://127.0.0.1:4317"),
        ("https://hooks.example.com/", "https://hooks.example.com/"),
        ("https://hunter2@hooks.example.com", f"https://{MASK}@hooks.example.com"),
        ("https://alice:hunter2@[::1]:8/", f"https://{MASK}@[::1]:8/"),
        ("https://alice:hunter2@x:hunter2@host/", f"https://{MASK}@host/"),
        ("https://host/open-sesame", f"https://host/{MASK}"),
        ("https://host?open-sesame", f"https://host/{MASK}"),
        ("https://host/#open-sesame", f"https://host/{MASK}"),
    ],
)
def test_how_much_of_an_address_is_shown(address: str, shown: str) -> None:
    assert OPTIONS["alerts.webhook_url"].shown(address) == shown


@pytest.mark.parametrize("key", SECRETS)
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("12345", f"{MASK} (int)"),
        ("2026-11-21", f"{MASK} (date)"),
        ("", "null"),
        ("[hunter2]", "a list"),
        ("{a: hunter2}", "a mapping"),
    ],
)
def test_a_refused_secret_is_not_in_the_message(tmp_path: Path, key: str, text: str, shown: str) -> None:
    option = OPTIONS[key]
    section, _, name = key.rpartition(".")
    message = problems(tmp_path, f"{section}:\n  {name}: {text}\n")
    assert_no_secret(message)
    assert message.endswith(f": {key}: got {shown}; allowed: {option.allowed}")


@pytest.mark.parametrize(
    "address",
    [
        "ftp://alice:hunter2@host",
        "alice:hunter2@host",
        "https://alice:hunter2@",
        "https://host:1hunter2/",
        "https://host/open sesame",
    ],
)
def test_an_address_that_is_none_is_refused_and_masked(address: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(None, None, {"PENSTOCK_ALERTS__WEBHOOK_URL": address}, {})
    assert str(error.value) == (
        f"environment PENSTOCK_ALERTS__WEBHOOK_URL: alerts.webhook_url: got {MASK}; "
        "allowed: an http:// or https:// address, or empty"
    )


@pytest.mark.parametrize("text", ["*hunter2", "!hunter2", "!hunter2!x y", "&hunter2 x\n  a: &hunter2 x"])
def test_a_secret_without_quotes_that_is_no_yaml(tmp_path: Path, text: str) -> None:
    message = problems(tmp_path, f"alerts:\n  webhook_secret: {text}\n")
    assert_no_secret(message)
    assert "config.yaml: line " in message
