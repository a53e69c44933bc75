"""The `penstock` command."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from config import ConfigError, Loaded, load, load_tenants, report
from service import cli_bench, cli_canary, cli_generate, cli_limits, cli_models, cli_status, cli_top, demo

app = typer.Typer(
    name="penstock",
    help="gRPC streaming service for MLX language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
config_app = typer.Typer(help="Show or check the configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.command("generate")(cli_generate.generate)
app.command("status")(cli_status.status)
app.command("top")(cli_top.top)
app.command("limits")(cli_limits.limits)
app.add_typer(cli_models.app, name="models")
app.add_typer(cli_canary.app, name="canary")
app.command("bench")(cli_bench.bench)
app.command("demo")(demo.demo)

EnvOption = Annotated[
    str | None, typer.Option("--env", help="Overlay: production, development or test.", show_default=False)
]
FileOption = Annotated[
    Path | None, typer.Option("--config", help="YAML file with options to change.", show_default=False)
]
ProfileOption = Annotated[
    str | None, typer.Option("--profile", help="Preset; docs/profiles.md has them.", show_default=False)
]


def _load(
    environment: str | None, file: Path | None, profile: str | None, flags: dict[str, Any] | None = None
) -> Loaded:
    """The configuration in force; a problem is printed and ends the command with status 2."""
    try:
        return load(environment, file, os.environ, flags or {}, profile=profile)
    except ConfigError as error:
        raise _refusal(error) from None


def _refusal(error: ConfigError) -> typer.Exit:
    print(f"penstock: {error}", file=sys.stderr)
    return typer.Exit(2)


@app.command()
def serve(
    model: Annotated[
        str | None, typer.Option(help='"embedded", a model directory or a hub name.', show_default=False)
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 for any free one.", show_default=False)] = None,
    environment: EnvOption = None,
    profile: ProfileOption = None,
    config: FileOption = None,
) -> None:
    """Serve a model until SIGTERM or Ctrl-C."""
    flags = {"engine": {"model": model}, "server": {"host": host, "port": port}}
    loaded = _load(environment, config, profile, flags)
    # Imported here: the other commands need not wait for the server's packages.
    from service.assembly import run

    raise typer.Exit(run(loaded))


@config_app.command("show")
def show_config(
    environment: EnvOption = None,
    profile: ProfileOption = None,
    config: FileOption = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only what is not at its default.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show every option in force and where its value came from."""
    loaded = _load(environment, config, profile)
    if as_json:
        print(json.dumps(report.as_dict(loaded, changed=changed), indent=2))
    elif not changed:
        _print_table(("Option", "Value", "From"), report.rows(loaded))
    elif changes := report.changes(loaded):
        rows = [(change.key, change.value, change.default, change.origin) for change in changes]
        _print_table(("Option", "Value", "Default", "From"), rows)
    else:
        print("Every option has its default.")


def _print_table(names: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console(highlight=False).print(table)


@config_app.command("check")
def check_config(
    environment: EnvOption = None, profile: ProfileOption = None, config: FileOption = None
) -> None:
    """Check the configuration, and the file of tenants that it names, without starting anything."""
    loaded = _load(environment, config, profile)
    tenants = loaded.settings.admission.tenants
    try:
        named = load_tenants(Path(tenants.file), tenants) if tenants.file else {}
    except ConfigError as error:
        raise _refusal(error) from None
    known = f", tenants {len(named)}" if tenants.file else ""
    where = f"environment {loaded.environment}, profile {loaded.profile}{known}"
    print(f"The configuration is valid ({where}).")


def main() -> None:
    app()
