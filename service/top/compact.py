"""The picture for a small terminal, from 80 columns by 24 rows: lines and tables without frames."""

from collections.abc import Iterable

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from penstock.v1.status_pb2 import Status
from service.top import tables
from service.top.attention import by_need
from service.top.charts import greatest
from service.top.guard import breached
from service.top.history import History
from service.top.lines import (
    LABEL,
    NO_OBJECTIVES,
    actions,
    changed,
    labelled,
    objective_line,
    packed,
    queue_note,
    refusals,
    tenant_line,
    trend,
)
from service.top.parts import Part, one_line
from service.top.readings import Trend, first_token
from service.top.words import number

_TWO_OBJECTIVES_WIDTH = 76
_WISHED_WORKERS = 6
_MOST_ACTION_ROWS = 4
_NATURAL_STREAMS = 20


def parts(now: Status, history: History, width: int) -> list[Part]:
    """From the top. The streams are left out first when there is no room, then tenants and actions."""
    return [
        *_trends(now, history, width),
        _objectives(now, width),
        _workers(now, history, width),
        *_actions(now, width),
        *_tenants(now, width),
        *_streams(now, width),
    ]


def _trends(now: Status, history: History, width: int) -> list[Part]:
    samples, latest = history.samples, history.latest
    limits = [sample.limit for sample in samples]
    flying = [sample.in_flight for sample in samples]
    tokens = [sample.tokens_per_s for sample in samples]
    queued = [sample.queued for sample in samples]
    ttft = first_token(now, history)
    bounds = f"of {now.admission.limits.min_streams}..{now.admission.limits.max_streams}"
    stalled = f"{now.streams.stalled} stalled, {now.streams.prefill} in prefill"

    def part(rank: int, label: str, value: str, one: Trend, style: str) -> Part:
        return one_line(lambda: trend(label, value, one, width, style), rank)

    return [
        part(1, "Limit", number(latest.limit), Trend(limits, flying, bounds), "yellow"),
        part(1, "In flight", number(latest.in_flight), Trend(flying, limits, stalled), "cyan"),
        one_line(lambda: labelled("", changed(now), width), 7),
        part(1, "Tokens/s", number(latest.tokens_per_s), Trend(tokens, (), peak(history)), "green"),
        part(2, "First token", ttft.value, ttft.trend, "magenta"),
        part(2, "Queue", number(latest.queued), Trend(queued, (), queue_note(now)), "cyan"),
        one_line(lambda: labelled("Refused", refusals(history), width), 3),
    ]


def peak(history: History) -> str:
    """The most tokens per second that are remembered."""
    most = greatest([sample.tokens_per_s for sample in history.samples])
    return f"peak {number(most)}" if most else ""


def _objectives(now: Status, width: int) -> Part:
    listed = sorted(now.service_levels.objectives, key=lambda one: not breached(one))
    if not listed:
        return one_line(lambda: labelled("Objectives", Text(NO_OBJECTIVES, "dim"), width), 4)
    columns = 2 if width >= _TWO_OBJECTIVES_WIDTH else 1
    rows = -(-len(listed) // columns)

    def draw(given: int) -> Iterable[RenderableType]:
        grid = Table.grid(padding=(0, 2, 0, 0))
        for place in range(0, min(len(listed), given * columns), columns):
            half = listed[place : place + columns]
            cells = [objective_line(one, (width - 2) // columns) for one in half]
            grid.add_row(*cells, *(Text() for _ in range(columns - len(cells))))
        return [grid]

    return Part(draw, least=1, wish=rows, rank=4)


def _workers(now: Status, history: History, width: int) -> Part:
    count = len(now.workers)
    if not count:
        return one_line(lambda: labelled("Workers", Text("none"), width), 5)
    return Part(
        lambda rows: [tables.workers(now.workers, history, width, rows - 1)],
        least=2,
        wish=1 + min(count, _WISHED_WORKERS),
        most=1 + count,
        rank=5,
    )


def _actions(now: Status, width: int) -> list[Part]:
    found = actions(now)
    if not found:
        return []

    def draw(rows: int) -> Iterable[RenderableType]:
        return [
            labelled("Actions" if not place else "", line, width)
            for place, line in enumerate(packed(found, width - LABEL, rows))
        ]

    return [Part(draw, most=len(packed(found, width - LABEL, _MOST_ACTION_ROWS)), rank=6)]


def _tenants(now: Status, width: int) -> list[Part]:
    if not any(one.name for one in now.admission.tenants):
        return []
    return [one_line(lambda: labelled("Tenants", tenant_line(now), width), 8)]


def _streams(now: Status, width: int) -> list[Part]:
    count = len(now.active_streams)
    if not count:
        return [one_line(lambda: labelled("Streams", Text("none"), width), 9)]
    listed = by_need(now.active_streams)
    return [
        Part(
            lambda rows: [tables.streams(listed, width, rows - 1)],
            least=2,
            wish=1 + min(count, _NATURAL_STREAMS),
            most=1 + count,
            rank=9,
        )
    ]
