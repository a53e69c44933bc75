"""`penstock status`: what a server is doing."""

from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from penstock import Client
from penstock.v1.generation_pb2 import Priority
from penstock.v1.model_pb2 import Model, ModelState
from penstock.v1.status_pb2 import Admission, Status, StreamState, StreamStatus
from service.cli_limits import drain, last_change, reason
from service.cli_workers import worker_lines, worker_table
from service.terminal import TARGET, TargetOption, count, duration, json_line, run_command
from service.top.guard import guard_lines
from service.top.tables import tenant_name
from service.top.words import enum_name

_TIMEOUT_S = 10.0
# Of a longer name the beginning is shown; --json has the whole.
_TENANT_COLUMNS = 12
_SHOWN_TENANTS = 5


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print the Status message as JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it every second until Ctrl-C.")] = False,
    streams: Annotated[bool, typer.Option("--streams", help="List every active stream.")] = False,
    target: TargetOption = TARGET,
) -> None:
    """Show the workers, the streams and the models of a server."""
    show = _watch if watch else _show
    run_command(
        lambda: show(target, as_json=as_json, streams=streams), target, as_json=as_json, on_interrupt=""
    )


async def _show(target: str, *, as_json: bool, streams: bool) -> None:
    async with Client(target) as client:
        now = await client.status(include_streams=streams, timeout_s=_TIMEOUT_S)
    if as_json:
        print(json_line(now, zeros=True))
    else:
        Console(highlight=False).print(status_table(now, target, streams=streams))


async def _watch(target: str, *, as_json: bool, streams: bool) -> None:
    console = Console(highlight=False)
    async with Client(target) as client:
        updates = client.watch_status(include_streams=streams)
        if as_json:
            async for now in updates:
                print(json_line(now, zeros=True), flush=True)
        elif not console.is_terminal:
            async for now in updates:
                console.print(status_table(now, target, streams=streams))
        else:
            with Live(console=console, auto_refresh=False) as live:
                async for now in updates:
                    live.update(status_table(now, target, streams=streams), refresh=True)


def status_table(now: Status, target: str, *, streams: bool = False) -> RenderableType:
    """A status for a terminal of 80 columns or more. streams: with one line for each active stream."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(now, target):
        table.add_row(name, Text(value))
    parts: list[RenderableType] = [table]
    if len(now.workers) > 1:
        parts += [Text(), worker_table(now.workers)]
    if now.models:
        parts += [Text(), _models(now)]
    if streams:
        parts += [Text(), _streams(now) if now.active_streams else Text("No active streams")]
    return Group(*parts)


def _rows(now: Status, target: str) -> list[tuple[str, str]]:
    streams, ended = now.streams, now.streams.ended
    return [
        ("Server", f"Penstock {now.version} at {target}" + (", draining" if now.draining else "")),
        ("Uptime", duration(now.uptime_s)),
        *worker_lines(now),
        ("Streams", _active(now)),
        (
            "",
            f"{streams.queued} queued, {streams.prefill} prefill, "
            f"{streams.streaming} streaming, {streams.stalled} stalled",
        ),
        (
            "Ended",
            f"{ended.finished} finished, {ended.cancelled} cancelled, {ended.failed} failed, "
            f"{streams.refused} refused",
        ),
        ("Slow", f"{streams.slow_consumers} slow consumers"),
        *_admission(now),
        ("Messages", _pool(now)),
        *guard_lines(now),
    ]


def _active(now: Status) -> str:
    # With admission the active ones are also those that wait, of whom there may be more than the limit.
    of = "" if now.HasField("admission") else f" of {now.streams.max_active}"
    return f"{now.streams.active}{of} active"


def _admission(now: Status) -> list[tuple[str, str]]:
    if not now.HasField("admission"):
        return []
    limits = now.admission.limits
    refused = sorted(now.admission.refused.items(), key=lambda item: (-item[1], item[0]))
    return [
        (
            "Admission",
            f"limit {limits.limit} of {limits.min_streams}..{limits.max_streams}, "
            f"{limits.in_flight} in flight, {limits.queued} waiting",
        ),
        ("", f"last change {last_change(limits)}"),
        ("", reason(limits)),
        ("Refused", ", ".join(f"{number} {name}" for name, number in refused) or "none"),
        *_queue(now.admission),
        *_tenants(now.admission),
    ]


def _queue(now: Admission) -> list[tuple[str, str]]:
    if not now.limits.queued:
        return []
    waiting = [f"{one.queued} {_class(one.priority)}" for one in now.priorities if one.queued]
    return [
        ("Queue", f"{drain(now.limits)}; {count(now.queued_tokens)} tokens"),
        *([("", ", ".join(waiting))] if waiting else []),
    ]


def _tenants(now: Admission) -> list[tuple[str, str]]:
    """Those with the most tokens; nothing where all callers are without a name."""
    if not any(one.name for one in now.tenants):
        return []
    shown = [
        f"{tenant_name(one.name)} {count(one.tokens)} tokens, {one.in_flight} in flight, {one.queued} waiting"
        for one in now.tenants[:_SHOWN_TENANTS]
    ]
    return [("Tenants", shown[0]), *(("", line) for line in shown[1:])]


def _pool(now: Status) -> str:
    if not now.HasField("message_pool"):
        return "not pooled"
    pool = now.message_pool
    return (
        f"{pool.in_use} of {pool.size} in use, {pool.idle} idle, {pool.hits} hits, {pool.misses} misses, "
        f"{pool.retired} retired, {pool.trimmed} trimmed"
    )


def _streams(now: Status) -> Table:
    tenants = any(stream.tenant for stream in now.active_streams)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("Stream", overflow="fold", min_width=8)
    table.add_column("State", no_wrap=True)
    table.add_column("Class", no_wrap=True)
    if tenants:
        table.add_column("Tenant", no_wrap=True, max_width=_TENANT_COLUMNS)
    for name in ("Sent", "Credit", "Unsent"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Notes")
    for stream in now.active_streams:
        table.add_row(*(Text(cell) for cell in _stream_cells(stream, tenants=tenants)))
    return table


def _stream_cells(stream: StreamStatus, *, tenants: bool) -> tuple[str, ...]:
    notes = [name for name, holds in (("parked", stream.parked), ("slow", stream.slow)) if holds]
    return (
        stream.request_id,
        _stream_state(stream),
        _class(stream.priority),
        *((stream.tenant or "-",) if tenants else ()),
        str(stream.sent),
        f"{stream.credit}/{stream.window}" if stream.credits_enforced else "-",
        str(stream.waiting_tokens),
        " ".join(notes) or "-",
    )


def _class(priority: int) -> str:
    return enum_name(Priority, priority, "PRIORITY_")


def _stream_state(stream: StreamStatus) -> str:
    name = StreamState.Name(stream.state).removeprefix("STREAM_STATE_").lower()
    if stream.stalled_ms:
        name += f" {stream.stalled_ms / 1000:.1f} s"
    return f"{name} #{stream.queue_position}" if stream.queue_position else name


def _models(now: Status) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("Model", overflow="fold")
    table.add_column("State", no_wrap=True)
    table.add_column("Parameters", justify="right", no_wrap=True)
    table.add_column("Context", justify="right", no_wrap=True)
    table.add_column("Source", overflow="fold")
    for model in now.models:
        table.add_row(*(Text(cell) for cell in _model_cells(model)))
    return table


def _model_cells(model: Model) -> tuple[str, str, str, str, str]:
    return (
        model.name + (" (default)" if model.is_default else ""),
        ModelState.Name(model.state).removeprefix("MODEL_STATE_").lower(),
        count(model.parameters),
        str(model.context_tokens),
        model.source,
    )
