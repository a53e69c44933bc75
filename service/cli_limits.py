"""`penstock limits`: how many streams may be in flight, and what steers that."""

from typing import Annotated

import grpc
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flowcontrol.limits.contract import StrategyName
from penstock.aio_stream import translated
from penstock.channel import channel_options
from penstock.v1 import limits_pb2 as pb
from penstock.v1.limits_pb2_grpc import LimitsServiceStub
from service.admission_messages import MAX_STREAMS, MAX_TARGET_MS, STRATEGIES
from service.terminal import TARGET, TargetOption, duration, json_line, run_command

_TIMEOUT_S = 10.0

REASONS = {
    pb.LIMIT_REASON_STARTED: "as at the start: nothing was measured yet",
    pb.LIMIT_REASON_RAISED: "raised: below target, and requests waited",
    pb.LIMIT_REASON_LOWERED_TTFT: "lowered: time to first token was over target",
    pb.LIMIT_REASON_LOWERED_LATENCY: "lowered: time between tokens was over target",
    pb.LIMIT_REASON_LOWERED_DROPS: "lowered: streams ran out of time before their first token",
    pb.LIMIT_REASON_RECOVERED: "raised: load fell or the guard let go, back to the last good limit",
    pb.LIMIT_REASON_HELD: "held: the strategy wants no change",
    pb.LIMIT_REASON_NO_SAMPLES: "held: too few first tokens to judge by",
    pb.LIMIT_REASON_NO_DEMAND: "no demand for more",
    pb.LIMIT_REASON_AT_BOUND: "at its bound",
    pb.LIMIT_REASON_SET: "set by an operator",
    pb.LIMIT_REASON_CAPPED: "the guard holds it down",
}

Strategy = Annotated[StrategyName | None, typer.Option(help="How the limit moves.", show_default=False)]
Minimum = Annotated[
    int | None,
    typer.Option("--min", min=1, max=MAX_STREAMS, help="Least streams in flight.", show_default=False),
]
Maximum = Annotated[
    int | None,
    typer.Option("--max", min=1, max=MAX_STREAMS, help="Most streams in flight.", show_default=False),
]
TargetTtft = Annotated[
    int | None,
    typer.Option(min=1, max=MAX_TARGET_MS, help="What a first token may take, ms.", show_default=False),
]
TargetLatency = Annotated[
    int | None,
    typer.Option(
        min=0, max=MAX_TARGET_MS, help="What the next token may take, ms; 0: no target.", show_default=False
    ),
]


def limits(
    strategy: Strategy = None,
    min_streams: Minimum = None,
    max_streams: Maximum = None,
    target_ttft_ms: TargetTtft = None,
    target_latency_ms: TargetLatency = None,
    note: Annotated[str, typer.Option(help="Why, for the server's log.", show_default=False)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    target: TargetOption = TARGET,
) -> None:
    """Show the limit on streams in flight, or change what steers it until the server ends.

    For a limit that stays where it is: --strategy fixed, and the same number for --min and --max.
    """
    request = pb.UpdateLimitsRequest(
        strategy=pb.LIMIT_STRATEGY_UNSPECIFIED if strategy is None else STRATEGIES[strategy],
        min_streams=min_streams,
        max_streams=max_streams,
        target_ttft_ms=target_ttft_ms,
        target_latency_ms=target_latency_ms,
        note=note,
    )
    change = request if request.ByteSize() else None
    run_command(lambda: _run(target, change, as_json=as_json), target, as_json=as_json, on_interrupt="")


async def _run(target: str, change: pb.UpdateLimitsRequest | None, *, as_json: bool) -> None:
    async with grpc.aio.insecure_channel(target, options=channel_options(None)) as channel:
        stub = LimitsServiceStub(channel)
        with translated():
            if change is None:
                shown = (await stub.GetLimits(pb.GetLimitsRequest(), timeout=_TIMEOUT_S)).limits
            else:
                answer = await stub.UpdateLimits(change, timeout=_TIMEOUT_S)
    if as_json:
        print(json_line(shown if change is None else answer, zeros=True))
    elif change is None:
        Console(highlight=False).print(limits_table(shown))
    else:
        Console(highlight=False).print(change_table(answer))


def limits_table(now: pb.Limits) -> Table:
    """For a terminal of 80 columns or more."""
    rows = _settings(now)
    rows["Limit"] = f"{now.limit} streams{_guarded(now)}"
    rows["In flight"] = f"{now.in_flight}, {now.queued} waiting"
    rows["Last change"] = last_change(now)
    rows["Reason"] = reason(now)
    rows["Load"] = _loads(now)
    rows["Queue"] = drain(now)
    return _table(rows)


def change_table(answer: pb.UpdateLimitsResponse) -> Table:
    """Each setting, as "before -> after" where the two differ."""
    before, after = _settings(answer.before), _settings(answer.after)
    before["Limit"], after["Limit"] = f"{answer.before.limit} streams", f"{answer.after.limit} streams"
    return _table(
        {
            name: value if before[name] == value else f"{before[name]} -> {value}"
            for name, value in after.items()
        }
    )


def reason(now: pb.Limits) -> str:
    """Why the limit is what it is, in words."""
    return REASONS.get(now.reason, f"reason {now.reason}")


def last_change(now: pb.Limits) -> str:
    """By how much the limit moved last, and when."""
    ago = duration(now.changed_ago_ms / 1e3)
    return f"{now.last_change:+d}, {ago} ago" if now.last_change else f"none for {ago}"


def drain(now: pb.Limits) -> str:
    """How long those who wait are expected to."""
    if not now.queued:
        return "empty"
    # 0 while nothing was measured to predict from.
    when = f", the last one starts in about {now.drain_ms / 1e3:.1f} s" if now.drain_ms else ""
    return f"{now.queued} waiting{when}"


def _guarded(now: pb.Limits) -> str:
    """What the guard does to the limit."""
    held = f", held to {now.cap} by the guard" if now.cap else ""
    return held + (", fixed by the guard" if now.fixed_by_guard else "")


def _settings(now: pb.Limits) -> dict[str, str]:
    name = pb.LimitStrategy.Name(now.strategy) if now.strategy in pb.LimitStrategy.values() else "unknown"
    latency = f"{now.target_latency_ms} ms" if now.target_latency_ms else "none"
    return {
        "Strategy": name.removeprefix("LIMIT_STRATEGY_").lower(),
        "Bounds": f"{now.min_streams}..{now.max_streams} streams",
        "First token": f"target {now.target_ttft_ms} ms",
        "Next token": f"target {latency}",
    }


def _loads(now: pb.Limits) -> str:
    ttft = f"{now.ttft_load:.2f}" if now.HasField("ttft_load") else "-"
    latency = f"{now.latency_load:.2f}" if now.HasField("latency_load") else "-"
    return f"first token {ttft}, next token {latency}; 1 is on target"


def _table(rows: dict[str, str]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table
