"""`penstock models`: the models of a server, shown, loaded and unloaded."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from penstock import Client
from penstock.v1.model_pb2 import (
    ListModelsResponse,
    LoadProgress,
    Model,
    ModelState,
    UnloadModelResponse,
)
from service.terminal import TARGET, TargetOption, count, json_line, run_command, size

_TIMEOUT_S = 10.0
# Means the model that comes with Penstock, also where there is a directory of that name.
_EMBEDDED = "embedded"

app = typer.Typer(help="Show, load or unload models.", invoke_without_command=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


@app.callback()
def models(context: typer.Context, as_json: JsonOption = False, target: TargetOption = TARGET) -> None:
    """Show the models of a server, or load and unload them."""
    if context.invoked_subcommand is None:
        run_command(lambda: _show(target, as_json=as_json), target, as_json=as_json, on_interrupt="")


@app.command()
def load(
    source: Annotated[str, typer.Argument(help='A model directory, a hub name or "embedded".')],
    alias: Annotated[
        list[str] | None, typer.Option(help="Another name for it; may be given more than once.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every message as a JSON line.")] = False,
    target: TargetOption = TARGET,
) -> None:
    """Load a model beside those that are there. Ctrl-C leaves the server loading it."""
    run_command(
        lambda: _load(target, source, alias or [], as_json=as_json),
        target,
        as_json=as_json,
        on_interrupt="the server goes on loading; penstock models shows how far it is",
    )


@app.command()
def unload(
    name: Annotated[str, typer.Argument(help="Its name or an alias.")],
    now: Annotated[bool, typer.Option("--now", help="End its streams in place of waiting for them.")] = False,
    as_json: JsonOption = False,
    target: TargetOption = TARGET,
) -> None:
    """Unload a model when its streams have ended. The default model stays."""
    run_command(
        lambda: _unload(target, name, now=now, as_json=as_json),
        target,
        as_json=as_json,
        on_interrupt="the server unloads it when its streams have ended",
    )


async def _show(target: str, *, as_json: bool) -> None:
    async with Client(target) as client:
        found = await client.models(timeout_s=_TIMEOUT_S)
    if as_json:
        print(json_line(ListModelsResponse(models=found), zeros=True))
    elif found:
        Console(highlight=False).print(models_view(found))
    else:
        print("No model yet")


async def _load(target: str, source: str, aliases: list[str], *, as_json: bool) -> None:
    began_s = time.monotonic()
    async with Client(target) as client:
        with _Shown(source, quiet=as_json) as shown:
            async for told in client.load_model(_absolute(source), aliases=aliases):
                if as_json:
                    print(json_line(told), flush=True)
                elif told.HasField("progress"):
                    shown.update(told.progress)
                else:
                    shown.end()
                    took_s = time.monotonic() - began_s
                    print(f"{_names(told.model)} ready in {took_s:.1f} s")


async def _unload(target: str, name: str, *, now: bool, as_json: bool) -> None:
    async with Client(target) as client:
        if not (now or as_json):
            await _say_what_is_waited_for(client, name)
        streams = await client.unload_model(name, now=now)
    if as_json:
        print(json_line(UnloadModelResponse(streams=streams), zeros=True))
    else:
        how = "cut" if now else "waited for"
        print(f"{name} unloaded" + (f", {_streams(streams)} {how}" if streams else ""))


async def _say_what_is_waited_for(client: Client, name: str) -> None:
    for model in await client.models(timeout_s=_TIMEOUT_S):
        if name in (model.name, *model.aliases) and model.streams and not model.is_default:
            line = f"waiting for {_streams(model.streams)} of {model.name}; --now cuts them"
            print(line, file=sys.stderr, flush=True)


def _streams(number: int) -> str:
    return f"{number} stream{'' if number == 1 else 's'}"


def _absolute(source: str) -> str:
    """The server may run in another directory than this command."""
    path = Path(source).expanduser()
    return str(path.resolve()) if source != _EMBEDDED and path.is_dir() else source


class _Shown:
    """How loading goes, on standard error: a bar on a terminal, else one line for each stage.

    quiet: nothing at all.
    """

    def __init__(self, source: str, *, quiet: bool) -> None:
        console = Console(stderr=True, highlight=False)
        self._stage = ""
        has_bar = console.is_terminal and not console.is_dumb_terminal
        self._lines = not (quiet or has_bar)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if has_bar and not quiet:
            self._bar = Progress(
                TextColumn("{task.fields[stage]}"),
                BarColumn(),
                TextColumn("{task.fields[amount]}"),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )
            # A bar without a total moves to and fro.
            self._task = self._bar.add_task(source, total=None, stage="starting", amount="")

    def __enter__(self) -> "_Shown":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Leave the line to others. Idempotent."""
        if self._bar is not None:
            self._bar.stop()

    def update(self, progress: LoadProgress) -> None:
        if self._lines and progress.stage and progress.stage != self._stage:
            print(progress_line(progress), file=sys.stderr, flush=True)
        self._stage = progress.stage
        if self._bar is not None:
            self._bar.update(
                self._task,
                stage=progress.stage or "starting",
                amount=_amount(progress),
                total=progress.total_bytes or None,
                completed=progress.done_bytes,
            )


def progress_line(progress: LoadProgress) -> str:
    """A stage and how far it is, such as "weights 1.0 of 4.2 GiB"."""
    amount = _amount(progress)
    return f"{progress.stage} {amount}" if amount else progress.stage


def _amount(progress: LoadProgress) -> str:
    if not progress.total_bytes:
        return size(progress.done_bytes) if progress.done_bytes else ""
    return f"{size(progress.done_bytes)} of {size(progress.total_bytes)}"


def models_view(found: list[Model]) -> Group:
    """For a terminal of 80 columns or more; what is wrong with a model is below the table."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("Model", overflow="fold", min_width=14)
    table.add_column("State", overflow="fold", min_width=7)
    for name in ("Parameters", "Context", "Memory", "Streams"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Source", overflow="fold")
    for model in found:
        table.add_row(*(Text(cell) for cell in _cells(model)))
    messages = [Text(f"{model.name}: {model.message}") for model in found if model.message]
    return Group(table, *messages)


def _cells(model: Model) -> tuple[str, ...]:
    notes = [*(["default"] if model.is_default else []), *model.aliases]
    return (
        model.name + (f"\n({', '.join(notes)})" if notes else ""),
        _state(model),
        count(model.parameters) if model.parameters else "-",
        str(model.context_tokens) if model.context_tokens else "-",
        size(model.memory_bytes) if model.memory_bytes else "-",
        str(model.streams),
        model.source,
    )


def _names(model: Model) -> str:
    return f"{model.name} ({', '.join(model.aliases)})" if model.aliases else model.name


def _state(model: Model) -> str:
    known = model.state in ModelState.values()
    state = ModelState.Name(model.state).removeprefix("MODEL_STATE_").lower() if known else "unknown"
    return f"{state}, {progress_line(model.loading)}" if model.loading.stage else state
