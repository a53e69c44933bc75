"""The options of `penstock bench`: wrong ones are refused by name before anything is sent."""

import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from service import cli_bench

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(cli_bench.bench)

BURST = ["--arrivals", "burst"]
CLOSED = ["--arrivals", "closed"]


def refusal(*arguments: str) -> str:
    """What the command says, in one line."""
    result = CliRunner().invoke(app, [*arguments, "--target", "127.0.0.1:1"], env={"COLUMNS": "200"})
    assert result.exit_code == 2, result.output
    return " ".join(re.sub("[│╭╮╰╯─]", " ", result.output).split())


@pytest.mark.parametrize(
    ("arguments", "option", "allowed"),
    [
        (["--rate", "0"], "--rate", "0.01"),
        (["--rate", "nan"], "--rate", "2000"),
        (["--duration", "601"], "--duration", "600"),
        (["--max-tokens", "0"], "--max-tokens", "1"),
        (["--callers", "2001", *CLOSED], "--callers", "2000"),
        (["--arrivals", "often"], "--arrivals", "'poisson', 'burst', 'constant', 'closed'"),
        (["--priority", "high"], "--priority", "bulk, default, interactive, system"),
        ([*BURST, "--burst-seconds", "15"], "--burst-seconds", "less than --period-seconds, 15"),
        ([*BURST, "--duration", "14"], "--period-seconds", "up to --duration, 14"),
        (["--rate", "2000", "--duration", "101"], "--rate", "up to 200000"),
        (["--callers", "3"], "--callers", "only with --arrivals closed"),
        (["--requests", "3"], "--requests", "only with --arrivals closed"),
        (["--rate", "3", *CLOSED], "--rate", "only with --arrivals poisson, burst or constant"),
        (["--max-tries", "3"], "--max-tries", "only with --retry"),
        (["--tenant", "größe"], "--tenant", "printable ASCII"),
        (["--tenants", "a=1,b"], "--tenants", "NAME=SHARE"),
        (["--tenants", "a=0"], "--tenants", "NAME=SHARE, with a share above 0"),
        (["--tenants", "a=inf"], "--tenants", "NAME=SHARE, with a share above 0"),
        (["--tenants", "a=nan"], "--tenants", "NAME=SHARE, with a share above 0"),
        (["--tenants", "a=1,a=2"], "--tenants", "twice"),
        (["--tenants", "=1"], "--tenants", "printable ASCII"),
        (["--tenants", ",".join(f"t{n}=1" for n in range(101))], "--tenants", "up to 100"),
        (["--tenant", "a", "--tenants", "a=1"], "--tenants", "either --tenant or --tenants"),
        (["--json", "/nowhere/at/all.json"], "--json", "No such file"),
    ],
)
def test_wrong_values(arguments: list[str], option: str, allowed: str) -> None:
    said = refusal(*arguments)
    assert f"Invalid value for '{option}': " in said
    assert allowed in said


def test_no_server(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    result = CliRunner().invoke(app, ["--target", "127.0.0.1:1", "--json", str(file)])
    assert result.exit_code == 3
    assert "cannot reach 127.0.0.1:1" in result.output
