"""`penstock config`: profiles, what is changed, and the file of tenants."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from service.cli import app


def penstock_config(*args: str, **environ: str) -> Result:
    """Run the command without options of Penstock that happen to be set here, on a wide terminal."""
    ours = {name: None for name in os.environ if name.startswith("PENSTOCK_")}
    return CliRunner().invoke(app, ["config", *args], env={**ours, "COLUMNS": "200", **environ})


def table(result: Result) -> list[list[str]]:
    assert result.exit_code == 0, result.output
    return [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in result.stdout.splitlines()
    ]


def test_show_tells_that_a_value_came_from_the_profile() -> None:
    rows = table(penstock_config("show", "--profile", "low-latency"))
    assert rows[0] == ["Option", "Value", "From"]
    assert ["engine.max_batch_rows", "16", "profile low-latency"] in rows
    assert ["engine.max_parked_ms", "0", "config/runtime.yaml"] in rows
    assert ["engine.max_batch_rows", "64", "profile high-throughput"] in table(
        penstock_config("show", PENSTOCK_PROFILE="high-throughput")
    )


def test_show_changed_has_the_defaults_beside_the_values() -> None:
    rows = table(penstock_config("show", "--changed", PENSTOCK_SERVER__PORT="7"))
    assert rows == [
        ["Option", "Value", "Default", "From"],
        ["server.port", "7", "50051", "PENSTOCK_SERVER__PORT"],
    ]
    as_json = penstock_config("show", "--changed", "--json", PENSTOCK_SERVER__PORT="7")
    assert json.loads(as_json.stdout)["options"] == {
        "server.port": {"value": 7, "default": 50051, "origin": "PENSTOCK_SERVER__PORT"}
    }


def test_show_changed_says_that_nothing_is() -> None:
    result = penstock_config("show", "--changed")
    assert (result.exit_code, result.stdout) == (0, "Every option has its default.\n")


@pytest.mark.parametrize("command", ["show", "check"])
def test_an_unknown_profile_is_refused(command: str) -> None:
    result = penstock_config(command, "--profile", "fast")
    assert result.exit_code == 2
    assert result.stderr == (
        'penstock: --profile: got "fast"; '
        "allowed: one of balanced, low-latency, high-throughput, memory-constrained, multi-tenant\n"
    )


def test_an_unknown_profile_is_refused_before_anything_is_served() -> None:
    result = CliRunner().invoke(app, ["serve", "--profile", "fast"])
    assert result.exit_code == 2
    assert '--profile: got "fast"' in result.stderr


def test_check_says_what_it_checked() -> None:
    result = penstock_config("check", "--profile", "multi-tenant", "--env", "test")
    assert (result.exit_code, result.stdout) == (
        0,
        "The configuration is valid (environment test, profile multi-tenant).\n",
    )


def test_check_reads_the_file_of_tenants(tmp_path: Path) -> None:
    path = tmp_path / "tenants.yaml"
    path.write_text("tenants: {acme: {weight: 2}, other: }", encoding="utf-8")
    result = penstock_config("check", PENSTOCK_ADMISSION__TENANTS__FILE=str(path))
    assert result.exit_code == 0
    assert "tenants 2)" in result.stdout
    path.write_text("tenants: {acme: {wieght: 2}}", encoding="utf-8")
    result = penstock_config("check", PENSTOCK_ADMISSION__TENANTS__FILE=str(path))
    assert result.exit_code == 2
    assert result.stderr == f"penstock: {path}: tenants.acme.wieght: unknown key; nearest known key: weight\n"
