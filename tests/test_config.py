"""The layers of the configuration, the packaged files, and what is written about the options."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from config import ENVIRONMENTS, Loaded, load, report
from config.options import OPTIONS
from config.rules import RULES, Rule
from config.sources import VARIABLES, flag_name

ROOT = Path(__file__).parents[1]
RUNTIME = ROOT / "config" / "runtime.yaml"
DOCS = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
DRAIN = "server.drain_grace_ms"
DRAIN_VARIABLE = "PENSTOCK_SERVER__DRAIN_GRACE_MS"
SOURCES = ("runtime", "overlay", "file", "variable", "flag")


def yaml_file(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def load_from(sources: set[str], folder: Path) -> tuple[Loaded, dict[str, tuple[int, str]]]:
    """Load with server.drain_grace_ms in each of the sources; also return the value and origin of each."""
    path = yaml_file(folder, "server:\n  drain_grace_ms: 1\n")
    expected = {
        "runtime": (30000, "config/runtime.yaml"),
        "overlay": (5000, "config/environments/test.yaml"),
        "file": (1, str(path)),
        "variable": (2, DRAIN_VARIABLE),
        "flag": (3, "--drain-grace-ms"),
    }
    loaded = load(
        "test" if "overlay" in sources else "production",
        path if "file" in sources else None,
        {DRAIN_VARIABLE: "2"} if "variable" in sources else {},
        {"server": {"drain_grace_ms": 3}} if "flag" in sources else {},
    )
    return loaded, expected


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        key = prefix + name
        flat |= flatten(value, key + ".") if isinstance(value, dict) else {key: value}
    return flat


@pytest.mark.parametrize(
    ("lower", "higher"), [(low, high) for at, low in enumerate(SOURCES) for high in SOURCES[at + 1 :]]
)
def test_the_higher_of_two_sources_wins(lower: str, higher: str, tmp_path: Path) -> None:
    loaded, expected = load_from({lower, higher}, tmp_path)
    assert (loaded.settings.server.drain_grace_ms, loaded.origin[DRAIN]) == expected[higher]


def test_the_highest_of_all_sources_wins(tmp_path: Path) -> None:
    loaded, expected = load_from(set(SOURCES), tmp_path)
    assert (loaded.settings.server.drain_grace_ms, loaded.origin[DRAIN]) == expected["flag"]


def test_a_source_replaces_single_keys_and_not_sections(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, "stream_registry:\n  backpressure:\n    max_unacked_chunks: 7\nengine:\n")
    loaded = load(None, path, {}, {})
    backpressure = loaded.settings.stream_registry.backpressure
    assert (backpressure.max_unacked_chunks, backpressure.ack_timeout_ms) == (7, 5000)
    assert {key for key, origin in loaded.origin.items() if origin == str(path)} == {
        "stream_registry.backpressure.max_unacked_chunks"
    }


def test_every_variable_sets_its_option_and_is_its_origin() -> None:
    defaults = {key: value for key, value, _ in report.rows(load(None, None, {}, {}))}
    for variable, key in VARIABLES.items():
        text = str(defaults[key]).lower()
        loaded = load(None, None, {variable: text}, {})
        row = next(row for row in report.rows(loaded) if row[0] == key)
        assert row == (key, defaults[key], variable)


def test_variables_may_be_in_lower_case() -> None:
    loaded = load(None, None, {"penstock_server__port": "7", "penstock_env": "test"}, {})
    assert loaded.settings.server.port == 7
    assert loaded.origin["server.port"] == "penstock_server__port"
    assert loaded.environment == "test"


def test_variables_of_other_parts_are_left_alone() -> None:
    environ = {"PENSTOCK_TARGET": "localhost:1", "PENSTOCK_ENV": "production", "PATH": "/bin"}
    assert load(None, None, environ, {}).settings == load(None, None, {}, {}).settings


@pytest.mark.parametrize(
    "name",
    ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "PORT", "PORT_50051_TCP", "PORT_50051_TCP_ADDR"],
)
def test_kubernetes_service_links_are_left_alone(name: str) -> None:
    environ = {f"PENSTOCK_{name}": "tcp://10.0.0.1:50051"}
    assert load(None, None, environ, {}).settings == load(None, None, {}, {}).settings


@pytest.mark.parametrize(
    ("short", "key"),
    [
        ("STREAM_REQUEST_CHUNK_SIZE", "server.request_chunk_bytes"),
        ("STREAM_RESPONSE_CHUNK_SIZE", "server.response_chunk_bytes"),
    ],
)
def test_short_variables_set_an_option_below_the_long_ones(short: str, key: str) -> None:
    long = "PENSTOCK_" + key.upper().replace(".", "__")
    loaded = load(None, None, {short: "4096"}, {})
    assert (key, 4096, short) in report.rows(loaded)
    for environ in ({short: "4096", long: "8192"}, {long: "8192", short: "4096"}):
        assert load(None, None, environ, {}).origin[key] == long


def test_a_boolean_variable_is_parsed() -> None:
    loaded = load(None, None, {"PENSTOCK_STREAM_REGISTRY__BACKPRESSURE__ENABLED": "false"}, {})
    assert loaded.settings.stream_registry.backpressure.enabled is False


@pytest.mark.parametrize("text", ["0.75", "7.5e-1"])
def test_a_variable_with_a_fraction_is_parsed(text: str) -> None:
    loaded = load(None, None, {"PENSTOCK_ADMISSION__SERVICE_SHARE": text}, {})
    assert loaded.settings.admission.service_share == 0.75


def test_an_integer_is_fine_where_a_fraction_is_allowed(tmp_path: Path) -> None:
    share = load(
        None, yaml_file(tmp_path, "admission: {service_share: 1}"), {}, {}
    ).settings.admission.service_share
    assert isinstance(share, float)
    assert share == 1


def test_a_flag_that_is_none_was_not_given() -> None:
    loaded = load(None, None, {}, {"server": {"port": None, "host": "::1"}, "engine": None})
    assert (loaded.settings.server.port, loaded.origin["server.port"]) == (50051, "config/runtime.yaml")
    assert (loaded.settings.server.host, loaded.origin["server.host"]) == ("::1", "--host")


def test_each_flag_names_one_option() -> None:
    assert len({flag_name(key) for key in OPTIONS}) == len(OPTIONS)


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        (None, {}, "production"),
        (None, {"PENSTOCK_ENV": "development"}, "development"),
        ("test", {"PENSTOCK_ENV": "development"}, "test"),
    ],
)
def test_the_environment_is_chosen(given: str | None, environ: dict[str, str], expected: str) -> None:
    assert load(given, None, environ, {}).environment == expected


def test_the_overlays_load() -> None:
    found = {environment: load(environment, None, {}, {}).settings for environment in ENVIRONMENTS}
    assert {path.stem for path in (ROOT / "config" / "environments").iterdir()} == set(found)
    logs = {name: (settings.logging.level, settings.logging.format) for name, settings in found.items()}
    assert logs == {
        "production": ("info", "json"),
        "development": ("debug", "console"),
        "test": ("warning", "console"),
    }
    assert (found["test"].server.port, found["production"].server.port) == (0, 50051)


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert load(None, yaml_file(tmp_path, "# nothing\n"), {}, {}) == load(None, None, {}, {})


def test_the_settings_are_frozen() -> None:
    server = load(None, None, {}, {}).settings.server
    with pytest.raises(ValidationError, match="frozen"):
        server.port = 1


def test_the_report_has_every_option_in_order() -> None:
    loaded = load("test", None, {}, {})
    rows = report.rows(loaded)
    assert [key for key, _, _ in rows] == list(OPTIONS)
    assert ("server.port", 0, "config/environments/test.yaml") in rows
    shown = json.loads(json.dumps(report.as_dict(loaded)))
    assert (shown["environment"], shown["profile"]) == ("test", "balanced")
    assert shown["options"]["server.port"] == {"value": 0, "origin": "config/environments/test.yaml"}
    assert list(shown["options"]) == list(OPTIONS)


def test_runtime_yaml_and_the_schema_hold_the_same_options() -> None:
    assert list(flatten(yaml.safe_load(RUNTIME.read_text(encoding="utf-8")))) == list(OPTIONS)


def comments(node: yaml.MappingNode, lines: list[str], prefix: str = "") -> dict[str, str]:
    """Return the comment lines right above each option."""
    found: dict[str, str] = {}
    for key, value in node.value:
        name = prefix + key.value
        if isinstance(value, yaml.MappingNode):
            found |= comments(value, lines, name + ".")
            continue
        last = first = key.start_mark.line
        while lines[first - 1].lstrip().startswith("#"):
            first -= 1
        found[name] = " ".join(line.strip() for line in lines[first:last])
    return found


def test_every_option_has_a_comment_with_unit_and_range() -> None:
    text = RUNTIME.read_text(encoding="utf-8")
    node = yaml.compose(text)
    assert isinstance(node, yaml.MappingNode)
    found = comments(node, text.splitlines())
    for key, option in OPTIONS.items():
        comment = found[key]
        assert comment, key
        kind, found_range, bounds = option.allowed.partition(" from ")
        if found_range and kind in ("an integer", "a number"):
            low, _, high = bounds.partition(" to ")
            assert f"{low}..{high}" in comment, key
        if key.endswith("_ms"):
            assert ", ms, " in comment, key


def test_the_documentation_has_a_row_for_every_option() -> None:
    for key, value, _ in report.rows(load("production", None, {}, {})):
        default = str(value).lower() if isinstance(value, bool) else value if value != "" else '""'
        allowed = OPTIONS[key].allowed.removeprefix("an integer from ")
        assert f"| `{key}` | `{default}` | {allowed} | " in DOCS
    assert DOCS.count("\n| `") == len(OPTIONS) + len(ENVIRONMENTS)


def test_the_documentation_names_every_rule() -> None:
    for rule in RULES:
        if isinstance(rule, Rule):
            assert f"- `{rule.left}` {rule.relation} `{rule.right}`" in DOCS
        else:
            assert f"- the sum of `{rule.name}` is at most 1" in DOCS
