"""The tables of `penstock top`: workers, tenants, streams, objectives. Each row is one line."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from penstock.v1.generation_pb2 import Priority
from penstock.v1.status_pb2 import (
    Objective,
    StreamState,
    StreamStatus,
    TenantStatus,
    Verdict,
    Worker,
)
from service.terminal import size
from service.top.attention import MARKS, STYLES, Severity, low_credit, severity_of, worker_state
from service.top.charts import bar, spark
from service.top.guard import breached, burn, fast, in_unit, title, verdict
from service.top.history import History, worker_key
from service.top.words import clean, enum_name, finite, milliseconds, number, seconds, share

Cell = Text | str

_CREDIT_BAR = 8
_SHARE_BAR = 10
_OBJECTIVE_SPARK = 12


@dataclass(frozen=True, slots=True)
class Column:
    """rank: columns of a higher one are left out first where the table is too wide; 0: never.

    most: how wide it grows where there is room; 0: not at all.
    """

    name: str
    width: int
    rank: int = 0
    right: bool = False
    most: int = 0


def fitting(columns: Sequence[Column], width: int) -> list[int]:
    """The places of the columns that fit into a width, with one blank between them."""
    kept = list(range(len(columns)))
    while sum(columns[place].width + 1 for place in kept) - 1 > width:
        last = max(kept, key=lambda place: columns[place].rank)
        if not columns[last].rank:
            break
        kept.remove(last)
    return kept


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], total: int, width: int) -> Table:
    """One line of names, then one for each row; what is too long ends with an ellipsis.

    total: rows that there are; when that is more than are given, the first name tells both numbers.
    """
    of = f" {len(rows)}/{number(total)}" if len(rows) < total else ""
    kept = fitting(columns, width)
    spare = width - sum(columns[place].width + 1 for place in kept) + 1
    shown = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for place in kept:
        column = columns[place]
        more = min(max(0, spare), max(0, column.most - column.width))
        spare -= more
        shown.add_column(
            Text(column.name if place else column.name + of, "" if place else "bold not dim"),
            width=column.width + more,
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in rows:
        shown.add_row(
            *(Text(cell) if isinstance(cell, str) else cell for cell in (row[place] for place in kept))
        )
    return shown


WORKERS = (
    Column("Worker", 10, most=24),
    Column("State", 10),
    Column("Run", 3, right=True),
    Column("Wait", 4, right=True),
    Column("Paused", 6, right=True),
    Column("KV cache", 9, right=True),
    Column("Step", 7, right=True),
    Column("Busy", 5, rank=2, right=True),
    Column("Tokens/s", 8, rank=3, right=True),
    Column("Restarts", 8, rank=1, right=True),
    Column("Memory", 9, rank=4, right=True),
)


def workers(listed: Sequence[Worker], history: History, width: int, rows: int) -> Table:
    """Those that are not well first."""
    unwell_first = sorted(listed, key=lambda one: -severity_of(one))
    return table(WORKERS, [_worker(one, history) for one in unwell_first[:rows]], len(listed), width)


def _worker(one: Worker, history: History) -> Sequence[Cell]:
    rates = history.workers.get(worker_key(one))
    severity = severity_of(one)
    return (
        f"{one.index} {clean(one.model)}",
        Text(f"{MARKS[severity]} {worker_state(one)}", STYLES[severity]),
        str(one.running_rows),
        str(one.waiting_rows),
        str(one.paused_rows),
        size(one.kv_bytes),
        milliseconds(rates.step_ms if rates else None),
        share(round(rates.busy, 2) if rates and rates.busy is not None else None),
        number(rates.tokens_per_s if rates else None),
        str(one.restarts),
        size(one.rss_bytes),
    )


TENANTS = (
    Column("Tenant", 10, most=20),
    Column("Share of tokens", _SHARE_BAR + 6),
    Column("Tokens", 7, rank=1, right=True),
    Column("Running", 7, rank=2, right=True),
    Column("Queued", 6, rank=3, right=True),
    Column("Refused", 7, rank=4, right=True),
)


def tenants(listed: Sequence[TenantStatus], width: int, rows: int) -> Table:
    """Those with the most tokens first, as the server sends them."""
    total = sum(one.tokens for one in listed)
    return table(TENANTS, [_tenant(one, total) for one in listed[:rows]], len(listed), width)


def _tenant(one: TenantStatus, total: int) -> Sequence[Cell]:
    part = one.tokens / total if total else 0.0
    return (
        tenant_name(one.name),
        bar(part, _SHARE_BAR, "cyan").append(f"{share(round(part, 2)):>6}"),
        number(one.tokens),
        str(one.in_flight),
        str(one.queued),
        number(one.refused),
    )


def tenant_name(name: str) -> str:
    return clean(name) or "(no name)"


STREAMS = (
    Column("Stream", 11, most=38),
    Column("State", 14),
    Column("Class", 11, rank=6),
    Column("Tenant", 10, rank=5, most=20),
    Column("Credit", _CREDIT_BAR + 8),
    Column("Unsent", 6, right=True),
    Column("Age", 6, rank=1, right=True),
    Column("Sent", 7, rank=7, right=True),
    Column("Ack", 7, rank=8, right=True),
    Column("Notes", 11, rank=9),
)


def streams(listed: Sequence[StreamStatus], width: int, rows: int) -> Table:
    """In the order given."""
    return table(STREAMS, [_stream(one) for one in listed[:rows]], len(listed), width)


def _stream(one: StreamStatus) -> Sequence[Cell]:
    notes = [name for name, holds in (("parked", one.parked), ("slow", one.slow)) if holds]
    return (
        clean(one.request_id),
        _stream_state(one),
        enum_name(Priority, one.priority, "PRIORITY_"),
        clean(one.tenant) or "-",
        _credit(one),
        number(one.waiting_tokens),
        seconds(one.age_ms / 1e3),
        number(one.sent),
        milliseconds(one.mean_ack_ms) if one.mean_ack_ms else "-",
        " ".join(notes) or "-",
    )


def _stream_state(one: StreamStatus) -> Text:
    text = enum_name(StreamState, one.state, "STREAM_STATE_")
    if one.state == StreamState.STREAM_STATE_STALLED:
        return Text(f"{text} {seconds(one.stalled_ms / 1e3)}", "yellow")
    return Text(f"{text} #{one.queue_position}" if one.queue_position else text)


def _credit(one: StreamStatus) -> Text:
    if not one.credits_enforced or not one.window:
        return Text("-", "dim")
    low = low_credit(one)
    style = "red" if not one.credit else "yellow" if low else "green"
    number_style = style if low else ""
    return bar(one.credit / one.window, _CREDIT_BAR, style).append(
        f" {one.credit}/{one.window}", number_style
    )


OBJECTIVES = (
    Column("Objective", 10, most=18),
    Column("Now", 8, right=True),
    Column("Target", 8, right=True),
    Column("Burn", 8, rank=1, right=True),
    Column("Verdict", 17),
    Column("Over time", _OBJECTIVE_SPARK, rank=2, most=24),
)


def objectives(listed: Sequence[Objective], history: History, width: int, rows: int) -> Table:
    """Those that are breached first."""
    breached_first = sorted(listed, key=lambda one: not breached(one))
    return table(OBJECTIVES, [_objective(one, history) for one in breached_first[:rows]], len(listed), width)


def _objective(one: Objective, history: History) -> Sequence[Cell]:
    values = [sample.objectives.get(one.name) for sample in history.samples]
    return (
        title(one),
        in_unit(one, fast(one)),
        in_unit(one, one.target),
        burn(one),
        objective_mark(one).append(f" {verdict(one)}"),
        Text(spark(values, _OBJECTIVE_SPARK, beside=[finite(one.target)]), "cyan"),
    )


def objective_mark(one: Objective) -> Text:
    """A sign for its verdict, in the colour for it."""
    if breached(one):
        return Text(MARKS[Severity.CRITICAL], STYLES[Severity.CRITICAL])
    if one.verdict == Verdict.VERDICT_MET:
        return Text(MARKS[Severity.GOOD], STYLES[Severity.GOOD])
    return Text("?", "dim")
