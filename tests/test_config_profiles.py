"""The profiles: what each sets, where it lies among the sources, and what is written about it."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from config import PROFILES, Settings, load, report
from config.loader import defaults, profile_layer, stack
from config.options import OPTIONS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "config" / "profiles"
DOCS = (ROOT / "docs" / "profiles.md").read_text(encoding="utf-8")
STEP = "engine.prefill_step_tokens"
STEP_VARIABLE = "PENSTOCK_ENGINE__PREFILL_STEP_TOKENS"


def settings(profile: str) -> Settings:
    return load(None, None, {}, {}, profile=profile).settings


def table() -> dict[str, list[str]]:
    """Return the cells of each option's row in the documentation; "" has the names of the profiles."""
    rows = re.findall(r"^\| (?:Option|`(\S+\.\S+)`) \| (.+) \|$", DOCS, re.MULTILINE)
    return {key: cells.split(" | ") for key, cells in rows}


def test_each_profile_has_a_file_and_a_column() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.yaml" for name in PROFILES}
    assert table()[""] == [f"`{name}`" for name in PROFILES]


@pytest.mark.parametrize("name", PROFILES)
def test_the_documentation_has_the_values_of_a_profile(name: str) -> None:
    rows = table()
    set_here = profile_layer(name).values
    assert set_here.keys() <= rows.keys()
    values = {key: value for key, value, _ in report.rows(load(None, None, {}, {}, profile=name))}
    for key in rows.keys() - {""}:
        expected = f"**{values[key]}**" if key in set_here else str(values[key])
        assert rows[key][PROFILES.index(name)] == expected, key


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_sets_only_what_differs_from_the_default_and_says_why(name: str) -> None:
    layer = profile_layer(name)
    assert layer.problems == []
    assert [key for key, value in layer.values.items() if value == defaults()[key]] == []
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    bare = [
        line
        for above, line in pairwise(lines)
        if re.search(r": \S", line)
        and not line.lstrip().startswith("#")
        and not above.lstrip().startswith("#")
    ]
    assert bare == []


def test_balanced_is_the_default_and_changes_nothing() -> None:
    assert profile_layer("balanced").values == {}
    assert load(None, None, {}, {}) == load(None, None, {}, {}, profile="balanced")
    assert report.changes(load(None, None, {}, {})) == []


def test_each_other_profile_goes_in_its_direction() -> None:
    balanced, latency = settings("balanced"), settings("low-latency")
    throughput, memory = settings("high-throughput"), settings("memory-constrained")
    tenants = settings("multi-tenant").admission.tenants
    target = [each.stream_registry.adaptive_limits.target_ttft_ms for each in (latency, balanced, throughput)]
    rows = [each.engine.max_batch_rows for each in (memory, latency, balanced, throughput)]
    assert target == sorted(set(target))
    assert rows == sorted(set(rows))
    assert memory.admission.max_kv_bytes > 0
    assert memory.engine.max_parked_kv_bytes < balanced.engine.max_parked_kv_bytes
    assert memory.engine.max_prefix_cache_bytes < balanced.engine.max_prefix_cache_bytes
    assert 0 < latency.engine.max_decode_gap_ms < balanced.engine.max_decode_gap_ms
    assert throughput.engine.max_decode_gap_ms == 0
    assert tenants.max_streams > 0
    assert tenants.max_class == "default"


@pytest.mark.parametrize("name", PROFILES)
def test_the_limits_of_a_profile_fit_each_other(name: str) -> None:
    options = settings(name)
    limits, queue = options.stream_registry.adaptive_limits, options.admission.queue
    assert limits.min_streams <= options.stream_registry.max_active_streams <= limits.max_streams
    assert queue.ageing_ms < queue.ttl_ms < options.stream_registry.default_timeout_ms
    if name in ("low-latency", "memory-constrained"):
        assert limits.max_streams <= options.engine.max_batch_rows


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        (None, {}, "balanced"),
        (None, {"PENSTOCK_PROFILE": "low-latency"}, "low-latency"),
        (None, {"penstock_profile": "low-latency"}, "low-latency"),
        ("multi-tenant", {"PENSTOCK_PROFILE": "low-latency"}, "multi-tenant"),
        ("multi-tenant", {"PENSTOCK_PROFILE": "unknown"}, "multi-tenant"),
    ],
)
def test_the_profile_is_chosen(given: str | None, environ: dict[str, str], expected: str) -> None:
    loaded = load(None, None, environ, {}, profile=given)
    assert loaded.profile == expected
    changed = {origin for origin in loaded.origin.values() if origin.startswith("profile")}
    assert changed == ({f"profile {expected}"} if expected != "balanced" else set())


def test_the_sources_lie_over_each_other_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("server: {port: 1}\n", encoding="utf-8")
    flags = {"server": {"port": 3}}
    layers = stack("low-latency", "test", path, {"PENSTOCK_SERVER__PORT": "2"}, flags)
    assert [set(layer.origin.values()) for layer in layers] == [
        {"config/runtime.yaml"},
        {"profile low-latency"},
        {"config/environments/test.yaml"},
        {str(path)},
        {"PENSTOCK_SERVER__PORT"},
        {"--port"},
    ]


@pytest.mark.parametrize(
    ("text", "environ", "flags", "expected"),
    [
        (None, {}, {}, (256, "profile low-latency")),
        ("engine: {prefill_step_tokens: 1}", {}, {}, (1, "FILE")),
        ("engine: {prefill_step_tokens: 1}", {STEP_VARIABLE: "2"}, {}, (2, STEP_VARIABLE)),
        (None, {STEP_VARIABLE: "2"}, {"engine": {"prefill_step_tokens": 3}}, (3, "--prefill-step-tokens")),
        # The default again, which the profile would have changed.
        (None, {STEP_VARIABLE: "512"}, {}, (512, STEP_VARIABLE)),
    ],
)
def test_higher_sources_replace_single_values_of_a_profile(
    text: str | None,
    environ: dict[str, str],
    flags: dict[str, Any],
    expected: tuple[int, str],
    tmp_path: Path,
) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    loaded = load("test", path if text is not None else None, environ, flags, profile="low-latency")
    value, origin = expected
    assert (STEP, value, origin.replace("FILE", str(path))) in report.rows(loaded)
    assert loaded.settings.engine.prefill_batch_rows == 4


def test_changes_are_what_differs_from_the_defaults() -> None:
    environ = {STEP_VARIABLE: "512", "PENSTOCK_SERVER__PORT": "50051"}
    loaded = load("development", None, environ, {}, profile="low-latency")
    changes = report.changes(loaded)
    found = {change.key: (change.value, change.default, change.origin) for change in changes}
    assert found.keys() == profile_layer("low-latency").values.keys() - {STEP} | {
        "logging.level",
        "logging.format",
    }
    assert found["engine.max_batch_rows"] == (16, 32, "profile low-latency")
    assert found["logging.level"] == ("debug", "info", "config/environments/development.yaml")
    assert [change.key for change in changes] == [key for key in OPTIONS if key in found]
    assert report.as_dict(loaded, changed=True) == {
        "environment": "development",
        "profile": "low-latency",
        "options": {
            key: {"value": value, "default": default, "origin": origin}
            for key, (value, default, origin) in found.items()
        },
    }
