"""The picture for a large terminal, from 100 columns by 34 rows: frames, with charts of several rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from penstock.v1.status_pb2 import Status
from service.cli_limits import last_change, reason
from service.top import tables
from service.top.attention import by_need
from service.top.charts import Area, spark
from service.top.compact import peak
from service.top.history import History
from service.top.lines import NO_OBJECTIVES, actions, cut, ends, packed, queue_note
from service.top.parts import Part
from service.top.readings import first_token
from service.top.words import clean, milliseconds, number, seconds

_FRAME = 2
_EDGES = 4
_SIDE_CHART = 28  # percent of the width
_CHART_ROWS = 6
_MOST_CHART_ROWS = 12
_WISHED_WORKERS = 6
_ACTION_ROWS = 4


def parts(now: Status, history: History, width: int) -> list[Part]:
    """From the top. The streams are left out first when there is no room."""
    return [
        _charts(now, history, width),
        _levels(now, history, width),
        _work(now, history, width),
        *_actions(now, width),
        *_streams(now, width),
    ]


def _panel(title: str, content: Iterable[RenderableType], width: int, rows: int) -> Panel:
    return Panel(
        Group(*content),
        title=Text(title, "bold not dim"),
        title_align="left",
        border_style="dim",
        box=box.ROUNDED,
        width=width,
        height=rows,
        padding=(0, 1),
    )


def _beside(panels: Sequence[Panel]) -> Table:
    grid = Table.grid()
    grid.add_row(*panels)
    return grid


@dataclass(frozen=True)
class _Chart:
    """A panel: the value of now and a remark, the chart, and a line below."""

    title: str
    value: str
    note: str
    area: Area
    below: str

    def panel(self, width: int, rows: int) -> Panel:
        inner = width - _EDGES
        head = ends(Text(self.value, "bold"), Text(self.note, "dim"), inner)
        chart = self.area.rows(inner, rows - _FRAME - 2)
        return _panel(self.title, [head, *chart, cut(Text(self.below, "dim"), inner)], width, rows)


def _charts(now: Status, history: History, width: int) -> Part:
    widths = [width - 2 * (width * _SIDE_CHART // 100), *([width * _SIDE_CHART // 100] * 2)]
    charts = (
        _limit_chart(now, history),
        _tokens_chart(history, widths[1] - _EDGES),
        _first_token_chart(now, history),
    )
    return Part(
        lambda rows: [_beside([one.panel(own, rows) for one, own in zip(charts, widths, strict=True)])],
        _FRAME + 2 + 3,
        _FRAME + 2 + _CHART_ROWS,
        _FRAME + 2 + _MOST_CHART_ROWS,
        rank=1,
    )


def _limit_chart(now: Status, history: History) -> _Chart:
    limits, latest = now.admission.limits, history.latest
    flying = [sample.in_flight for sample in history.samples]
    return _Chart(
        f"In flight, limit {limits.min_streams}..{limits.max_streams}",
        f"{number(latest.in_flight)} of {number(latest.limit)}",
        f"limit {last_change(limits)}",
        Area(flying, [sample.limit for sample in history.samples], "cyan"),
        reason(limits),
    )


def _tokens_chart(history: History, columns: int) -> _Chart:
    tokens = [sample.tokens_per_s for sample in history.samples]
    shown_s = None if history.interval_s is None else columns * history.interval_s
    span = "" if shown_s is None else f"the last {seconds(shown_s)}"
    return _Chart(
        "Tokens/s", number(history.latest.tokens_per_s), peak(history), Area(tokens, (), "green"), span
    )


def _first_token_chart(now: Status, history: History) -> _Chart:
    ttft = first_token(now, history)
    target = [None if value is None else ttft.target_ms for value in ttft.values]
    return _Chart("Time to first token", ttft.value, "", Area(ttft.values, target, "magenta"), ttft.note)


def _split(width: int) -> tuple[int, int]:
    left = width * 6 // 10
    return left, width - left


def _levels(now: Status, history: History, width: int) -> Part:
    left, right = _split(width)
    listed = now.service_levels.objectives

    def draw(rows: int) -> Iterable[RenderableType]:
        inner = left - _EDGES
        content: RenderableType = (
            tables.objectives(listed, history, inner, rows - _FRAME - 1) if listed else _steering(now, inner)
        )
        queue = _queue(now, history, right - _EDGES, rows - _FRAME)
        return [
            _beside(
                [
                    _panel("Service levels", [content], left, rows),
                    _panel("Queue and refusals", queue, right, rows),
                ]
            )
        ]

    wanted = max(4, 1 + len(listed))
    return Part(draw, _FRAME + 3, _FRAME + wanted, rank=2)


def _steering(now: Status, width: int) -> Group:
    """What the limit follows, on a server without objectives."""
    limits = now.admission.limits
    ttft_load = limits.ttft_load if limits.HasField("ttft_load") else None
    latency_load = limits.latency_load if limits.HasField("latency_load") else None
    followed = (
        ("first token", ttft_load, limits.target_ttft_ms),
        ("next token", latency_load, limits.target_latency_ms),
    )
    lines = [Text(NO_OBJECTIVES, "dim"), Text("the limit follows:", "dim")]
    for name, load, target_ms in followed:
        if load is not None:
            lines.append(Text(f"{name} {milliseconds(load * target_ms)} of {milliseconds(target_ms)}"))
    return Group(*(cut(line, width) for line in lines))


def _queue(now: Status, history: History, width: int, rows: int) -> list[Text]:
    queued = [sample.queued for sample in history.samples]
    refused = [sample.refused_per_s for sample in history.samples]
    lines = [
        ends(Text(f"{number(history.latest.queued)} waiting", "bold"), Text(queue_note(now), "dim"), width),
        Text(spark(queued, width), "cyan"),
    ]
    total = sum(history.refused_per_s.values())
    share_of = f"{number(total)} refused/s" if total else "none refused now"
    ever = number(sum(now.admission.refused.values()))
    lines.append(ends(Text(share_of, "bold yellow" if total else "bold"), Text(f"{ever} ever", "dim"), width))
    if total:
        lines.append(Text(spark(refused, width), "yellow"))
    lines += [
        ends(Text(clean(name)), Text(f"{number(rate)}/s"), width)
        for name, rate in history.refused_per_s.items()
    ]
    return [cut(line, width) for line in lines[:rows]]


def _work(now: Status, history: History, width: int) -> Part:
    left, right = _split(width)
    workers, tenants = now.workers, now.admission.tenants

    def draw(rows: int) -> Iterable[RenderableType]:
        shown = rows - _FRAME - 1
        return [
            _beside(
                [
                    _panel("Workers", [tables.workers(workers, history, left - _EDGES, shown)], left, rows),
                    _panel("Tenants", [tables.tenants(tenants, right - _EDGES, shown)], right, rows),
                ]
            )
        ]

    longer = max(len(workers), len(tenants), 1)
    return Part(draw, _FRAME + 2, _FRAME + 1 + min(longer, _WISHED_WORKERS), _FRAME + 1 + longer, rank=3)


def _actions(now: Status, width: int) -> list[Part]:
    found = actions(now)
    if not found:
        return []
    inner = width - _EDGES
    title = "Actions and features" + (", dry run" if now.remediation.dry_run else "")
    return [
        Part(
            lambda rows: [_panel(title, packed(found, inner, rows - _FRAME), width, rows)],
            _FRAME + 1,
            _FRAME + len(packed(found, inner, _ACTION_ROWS)),
            rank=4,
        )
    ]


def _streams(now: Status, width: int) -> list[Part]:
    count = len(now.active_streams)
    if not count:
        none = [Text("none", "dim")]
        return [Part(lambda rows: [_panel("Streams", none, width, rows)], _FRAME + 1, _FRAME + 1, rank=5)]
    listed = by_need(now.active_streams)

    def draw(rows: int) -> Iterable[RenderableType]:
        table = tables.streams(listed, width - _EDGES, rows - _FRAME - 1)
        return [_panel(f"Streams: {count:,}, the stalled ones first", [table], width, rows)]

    return [Part(draw, _FRAME + 2, _FRAME + 1 + min(count, 6), _FRAME + 1 + count, rank=5)]
