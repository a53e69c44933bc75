"""What the configuration refuses, and in which words."""

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from config import ConfigError, load
from config.loader import merge
from config.options import OPTIONS, SECTIONS
from config.sources import FOREIGN_VARIABLES, PREFIX, VARIABLES, Layer

PORT = "allowed: an integer from 0 to 65535"
SHARE = "admission.service_share"
SHARE_ALLOWED = "allowed: a number from 0.05 to 1"
PATHS = [*OPTIONS, *(section for section in SECTIONS if section)]


def refused(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: str | None = None,
) -> tuple[str, ...]:
    """Return the problems that loading names."""
    with pytest.raises(ConfigError) as error:
        load(environment, file, environ or {}, flags or {})
    assert str(error.value) == "\n".join(error.value.problems)
    return error.value.problems


def refused_file(folder: Path, text: str | bytes) -> list[str]:
    """Return the problems of a file, without the folder in front of them."""
    path = folder / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [problem.replace(f"{folder}/", "") for problem in refused(path)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("server: {port: '10'}", f'config.yaml: server.port: got "10"; {PORT}'),
        ("server: {port: true}", f"config.yaml: server.port: got true; {PORT}"),
        ("server: {port: 65536}", f"config.yaml: server.port: got 65536; {PORT}"),
        ("server: {port: -1}", f"config.yaml: server.port: got -1; {PORT}"),
        ("server: {port: 1.0}", f"config.yaml: server.port: got 1.0; {PORT}"),
        ("server: {port: .nan}", f"config.yaml: server.port: got nan; {PORT}"),
        ("server: {port: }", f"config.yaml: server.port: got null; {PORT}"),
        ("server: {port: [1]}", f"config.yaml: server.port: got a list; {PORT}"),
        ("server: {port: {a: 1}}", f"config.yaml: server.port: got a mapping; {PORT}"),
        ("admission: {service_share: '1'}", f'config.yaml: {SHARE}: got "1"; {SHARE_ALLOWED}'),
        ("admission: {service_share: true}", f"config.yaml: {SHARE}: got true; {SHARE_ALLOWED}"),
        ("admission: {service_share: 1.01}", f"config.yaml: {SHARE}: got 1.01; {SHARE_ALLOWED}"),
        ("admission: {service_share: 0}", f"config.yaml: {SHARE}: got 0; {SHARE_ALLOWED}"),
        ("admission: {service_share: .nan}", f"config.yaml: {SHARE}: got nan; {SHARE_ALLOWED}"),
        ("admission: {service_share: .inf}", f"config.yaml: {SHARE}: got inf; {SHARE_ALLOWED}"),
        (
            "admission: {tenants: {max_class: Bulk}}",
            'config.yaml: admission.tenants.max_class: got "Bulk"; '
            "allowed: one of system, interactive, default, bulk",
        ),
        (
            "admission: {tenants: {file: ' '}}",
            'config.yaml: admission.tenants.file: got " "; allowed: the path of a YAML file, or empty',
        ),
        (
            "server: {host: 'a b'}",
            'config.yaml: server.host: got "a b"; allowed: a host name or an IP address',
        ),
        (
            "engine: {cpu_blas: lib.so}",
            'config.yaml: engine.cpu_blas: got "lib.so"; '
            "allowed: auto, none or the absolute path of a library",
        ),
        (
            "engine: {model: ' '}",
            'config.yaml: engine.model: got " "; allowed: embedded, a model directory or a hub name',
        ),
        (
            "logging: {level: INFO}",
            'config.yaml: logging.level: got "INFO"; allowed: one of debug, info, warning, error',
        ),
        (
            "stream_registry: {backpressure: {enabled: 1}}",
            "config.yaml: stream_registry.backpressure.enabled: got 1; allowed: true or false",
        ),
        (
            "logging: json",
            'config.yaml: logging: got "json"; allowed: a mapping with some of the keys '
            "level, format, prompts",
        ),
    ],
)
def test_wrong_values_in_a_file(text: str, expected: str, tmp_path: Path) -> None:
    assert refused_file(tmp_path, text) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "stream_registry: {backpressure: {max_unacked_chunk: 1}}",
            "stream_registry.backpressure.max_unacked_chunk: unknown key; "
            "nearest known key: max_unacked_chunks",
        ),
        ("sever: {port: 1}", "sever: unknown key; nearest known key: server"),
        ("port: 1", "port: unknown key; nearest known key: server.port"),
        ("server.port: 1", '"server.port": unknown key; nearest known key: server'),
        ("logging: {x: 1}", "logging.x: unknown key; known keys: level, format, prompts"),
        ("logging: {1: 1}", 'logging."1": unknown key; known keys: level, format, prompts'),
        ("server: {Port: 1}", "server.Port: unknown key; nearest known key: port"),
    ],
)
def test_unknown_keys_in_a_file(text: str, expected: str, tmp_path: Path) -> None:
    assert refused_file(tmp_path, text) == [f"config.yaml: {expected}"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("server:\n  port: [1\n", "line 3: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("server:\n  port: 1\n  port: 2\n", "line 3: not valid YAML: duplicate key port"),
        ("server: {}\nserver: {}\n", "line 2: not valid YAML: duplicate key server"),
        ("engine:\n  model: 2024-13-45\n", "line 2: not valid YAML: month must be in 1..12"),
        ("a: 1\n---\nb: 1\n", "line 2: not valid YAML: but found another document"),
        ("a: !x 1\n", "line 1: not valid YAML: could not determine a constructor for the tag '!x'"),
        ("a: !!int ''\n", "line 1: not valid YAML: string index out of range"),
        ("a: !!set x\n", "line 1: not valid YAML: expected a mapping node, but found scalar"),
        ("[a]: 1\n", "line 1: not valid YAML: found unhashable key"),
        ("# a\n# \0\n", "line 2: not valid YAML: special characters are not allowed"),
        (b"a: \xff\n", "not UTF-8 text"),
        ("- 1\n", "got a list; allowed: a mapping of sections"),
        ("server\n", 'got "server"; allowed: a mapping of sections'),
        ("0\n", "got 0; allowed: a mapping of sections"),
    ],
)
def test_files_that_are_no_mapping_of_options(text: str | bytes, expected: str, tmp_path: Path) -> None:
    assert refused_file(tmp_path, text) == [f"config.yaml: {expected}"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.yaml") == (f"{tmp_path}/none.yaml: file not found",)
    assert refused(tmp_path) == (f"{tmp_path}: cannot be read: Is a directory",)


@pytest.mark.parametrize("text", ["abc", "", "true", "65536", "nan", "1.5"])
def test_wrong_values_of_a_variable(text: str) -> None:
    problem = f'environment PENSTOCK_SERVER__PORT: server.port: got "{text}"; {PORT}'
    assert refused(environ={"PENSTOCK_SERVER__PORT": text}) == (problem,)


@pytest.mark.parametrize("text", ["abc", "", "true", "-0.1", "nan", "inf"])
def test_wrong_values_of_a_variable_with_a_fraction(text: str) -> None:
    problem = f'environment PENSTOCK_ADMISSION__SERVICE_SHARE: {SHARE}: got "{text}"; {SHARE_ALLOWED}'
    assert refused(environ={"PENSTOCK_ADMISSION__SERVICE_SHARE": text}) == (problem,)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("PENSTOCK_SERVER_PORT", "PENSTOCK_SERVER__PORT"),
        ("penstock_server__prt", "PENSTOCK_SERVER__PORT"),
        ("PENSTOCK_SERVER", "PENSTOCK_SERVER__PORT"),
        ("PENSTOCK_LOGGING__LEVEL__X", "PENSTOCK_LOGGING__LEVEL"),
    ],
)
def test_unknown_variables(name: str, nearest: str) -> None:
    problem = f"environment {name}: unknown variable; nearest known variable: {nearest}"
    assert refused(environ={name: "1"}) == (problem,)


def test_a_variable_in_two_spellings() -> None:
    environ = {"PENSTOCK_SERVER__PORT": "1", "penstock_server__port": "2"}
    assert refused(environ=environ) == (
        "environment penstock_server__port: the same variable as PENSTOCK_SERVER__PORT; give one of them",
    )


def test_wrong_flags() -> None:
    assert refused(flags={"server": {"port": 70000, "hots": "x"}}) == (
        f"--port: server.port: got 70000; {PORT}",
        "--hots: server.hots: unknown key; nearest known key: host",
    )


def test_unknown_profiles() -> None:
    allowed = "allowed: one of balanced, low-latency, high-throughput, memory-constrained, multi-tenant"
    with pytest.raises(ConfigError) as error:
        load(None, None, {}, {}, profile="fast")
    assert error.value.problems == (f'--profile: got "fast"; {allowed}',)
    assert refused(environ={"PENSTOCK_PROFILE": ""}) == (f'environment PENSTOCK_PROFILE: got ""; {allowed}',)


def test_unknown_environments() -> None:
    allowed = "allowed: one of production, development, test"
    assert refused(environment="prod") == (f'--env: got "prod"; {allowed}',)
    assert refused(environ={"PENSTOCK_ENV": ""}) == (f'environment PENSTOCK_ENV: got ""; {allowed}',)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (
            {"stream_registry": {"backpressure": {"max_backlog_tokens": 8}}},
            "stream_registry.backpressure.max_backlog_tokens = 8 (--max-backlog-tokens), "
            "stream_registry.backpressure.max_tokens_per_chunk = 16 (config/runtime.yaml); "
            "rule: stream_registry.backpressure.max_backlog_tokens >= "
            "stream_registry.backpressure.max_tokens_per_chunk",
        ),
        (
            {"stream_registry": {"adaptive_limits": {"min_streams": 65}}},
            "stream_registry.adaptive_limits.max_streams = 64 (config/runtime.yaml), "
            "stream_registry.adaptive_limits.min_streams = 65 (--min-streams); "
            "rule: stream_registry.adaptive_limits.max_streams >= "
            "stream_registry.adaptive_limits.min_streams",
        ),
        (
            {"stream_registry": {"adaptive_limits": {"scale_down_threshold": 0.8}}},
            "stream_registry.adaptive_limits.scale_up_threshold = 0.8 (config/runtime.yaml), "
            "stream_registry.adaptive_limits.scale_down_threshold = 0.8 (--scale-down-threshold); "
            "rule: stream_registry.adaptive_limits.scale_up_threshold > "
            "stream_registry.adaptive_limits.scale_down_threshold",
        ),
        (
            {"admission": {"classes": {"bulk": {"reserved_share": 0.451}}}},
            "admission.classes.system.reserved_share = 0.05 (config/runtime.yaml), "
            "admission.classes.interactive.reserved_share = 0.3 (config/runtime.yaml), "
            "admission.classes.default.reserved_share = 0.2 (config/runtime.yaml), "
            "admission.classes.bulk.reserved_share = 0.451 (--bulk-reserved-share); "
            "rule: the sum of admission.classes.*.reserved_share is at most 1",
        ),
        (
            {"engine": {"max_batch_rows": 7}},
            "engine.max_batch_rows = 7 (--max-batch-rows), "
            "engine.prefill_batch_rows = 8 (config/runtime.yaml); "
            "rule: engine.max_batch_rows >= engine.prefill_batch_rows",
        ),
        (
            {"engine": {"heartbeat_interval_ms": 10000}},
            "engine.stuck_after_ms = 10000 (config/runtime.yaml), "
            "engine.heartbeat_interval_ms = 10000 (--heartbeat-interval-ms); "
            "rule: engine.stuck_after_ms > engine.heartbeat_interval_ms",
        ),
        (
            {"engine": {"kill_after_ms": 10000}},
            "engine.kill_after_ms = 10000 (--kill-after-ms), "
            "engine.stuck_after_ms = 10000 (config/runtime.yaml); "
            "rule: engine.kill_after_ms > engine.stuck_after_ms",
        ),
        (
            {"engine": {"restart_backoff_max_ms": 249}},
            "engine.restart_backoff_max_ms = 249 (--restart-backoff-max-ms), "
            "engine.restart_backoff_initial_ms = 250 (config/runtime.yaml); "
            "rule: engine.restart_backoff_max_ms >= engine.restart_backoff_initial_ms",
        ),
    ],
)
def test_impossible_combinations(flags: dict[str, Any], problem: str) -> None:
    assert refused(flags=flags) == (f"impossible combination: {problem}",)


def test_equal_values_where_the_rule_allows_them() -> None:
    flags = {"engine": {"max_batch_rows": 8, "restart_backoff_max_ms": 250}}
    assert load(None, None, {}, flags).settings.engine.max_batch_rows == 8


@pytest.mark.parametrize(
    ("system", "interactive", "default", "bulk"),
    [(0.2, 0.4, 0.3, 0.1), (0.7, 0.1, 0.1, 0.1), (0.0, 0.0, 1.0, 0.0), (0.9, 0.05, 0.05, 0.0)],
)
def test_shares_of_exactly_the_whole(system: float, interactive: float, default: float, bulk: float) -> None:
    shares = {"system": system, "interactive": interactive, "default": default, "bulk": bulk}
    flags = {"admission": {"classes": {name: {"reserved_share": share} for name, share in shares.items()}}}
    classes = load(None, None, {}, flags).settings.admission.classes
    assert classes.model_dump() == {
        name: {"reserved_share": share, "target_factor": getattr(classes, name).target_factor}
        for name, share in shares.items()
    }


def test_a_share_that_is_refused_breaks_no_sum() -> None:
    flags = {"admission": {"classes": {"bulk": {"reserved_share": 2}, "default": {"reserved_share": 1}}}}
    assert refused(flags=flags) == (
        "--bulk-reserved-share: admission.classes.bulk.reserved_share: got 2; allowed: a number from 0 to 1",
    )


def test_all_problems_are_named_at_once_in_the_order_of_the_sources(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("server: {port: abc}\nengine: {stuck_after_ms: abc, max_batch_rows: 1}\n")
    environ = {"PENSTOCK_SERVER__PORT": "5", "PENSTOCK_ENGINE__HEARTBEAT_INTERVAL_MS": "60000"}
    assert refused(path, environ, {"x": 1}, "qa") == (
        '--env: got "qa"; allowed: one of production, development, test',
        f'{path}: server.port: got "abc"; {PORT}',
        f'{path}: engine.stuck_after_ms: got "abc"; allowed: an integer from 100 to 3600000',
        "--x: x: unknown key; known keys: server, stream_registry, admission, engine, models, features, "
        "telemetry, slo, remediation, alerts, logging",
        "impossible combination: "
        f"engine.max_batch_rows = 1 ({path}), engine.prefill_batch_rows = 8 (config/runtime.yaml); "
        "rule: engine.max_batch_rows >= engine.prefill_batch_rows",
    )


def test_an_option_that_no_source_sets() -> None:
    with pytest.raises(ConfigError) as error:
        merge([Layer(values={"server.port": 1}, origin={"server.port": "here"})])
    missing = [f"config/runtime.yaml: {key}: missing" for key in OPTIONS if key != "server.port"]
    assert list(error.value.problems) == missing


@st.composite
def edited(draw: st.DrawFn, text: str) -> str:
    """Draw a text that is one edit away: a character left out, put in, replaced, or two swapped."""
    at = draw(st.integers(0, len(text) - 1))
    new = draw(st.sampled_from(string.ascii_letters + string.digits + "_-. "))
    edits = [
        text[:at] + text[at + 1 :],
        text[:at] + new + text[at:],
        text[:at] + new + text[at + 1 :],
        text[:at] + text[at : at + 2][::-1] + text[at + 2 :],
    ]
    return draw(st.sampled_from(edits))


@settings(deadline=None)  # The time of a call says nothing on a busy machine.
@given(data=st.data(), path=st.sampled_from(PATHS))
def test_a_mistyped_key_is_never_ignored(data: st.DataObject, path: str) -> None:
    section, _, name = path.rpartition(".")
    wrong = data.draw(edited(name))
    assume(wrong not in SECTIONS[section])
    flags: dict[str, Any] = {wrong: 1}
    for outer in reversed(section.split(".") if section else []):
        flags = {outer: flags}
    (problem,) = refused(flags=flags)
    assert "unknown key; nearest known key: " in problem or "unknown key; known keys: " in problem


@settings(deadline=None)
@given(data=st.data(), path=st.sampled_from(PATHS))
def test_a_mistyped_key_in_a_file_is_never_ignored(
    data: st.DataObject, path: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    section, _, name = path.rpartition(".")
    wrong = data.draw(edited(name))
    assume(wrong not in SECTIONS[section])
    nested: dict[str, Any] = {wrong: 1}
    for outer in reversed(section.split(".") if section else []):
        nested = {outer: nested}
    file = tmp_path_factory.getbasetemp() / "mistyped.yaml"
    file.write_text(yaml.safe_dump(nested), encoding="utf-8")
    (problem,) = refused(file)
    assert "unknown key; " in problem


@settings(deadline=None)
@given(data=st.data(), variable=st.sampled_from(sorted(VARIABLES)))
def test_a_mistyped_variable_is_never_ignored(data: st.DataObject, variable: str) -> None:
    wrong = PREFIX + data.draw(edited(variable.removeprefix(PREFIX)))
    assume(wrong.upper() not in VARIABLES.keys() | FOREIGN_VARIABLES)
    (problem,) = refused(environ={wrong: "1"})
    assert problem.startswith(f"environment {wrong}: unknown variable; nearest known variable: PENSTOCK_")


@settings(deadline=None)
@given(text=st.text(st.sampled_from("server: port1.~-[]{}&*!|>?#%@'\"\n,<")))
def test_any_text_loads_or_is_refused(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(text, encoding="utf-8")
    problems: tuple[str, ...] = ()
    try:
        load(None, file, {}, {})
    except ConfigError as error:
        problems = error.problems
    assert not any("\n" in problem for problem in problems)
