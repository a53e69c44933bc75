"""The numbers of a run for a person and for a program."""

import dataclasses
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from service.load.attempt import Ending
from service.load.options import LoadOptions
from service.load.quantiles import Quantiles
from service.load.tally import LATE_S, Tally

INTER_TOKEN = "time between two messages, divided over the tokens of the later one; one sample per message"
_MS_DIGITS = 3


def as_dict(tally: Tally, options: LoadOptions, *, interrupted: bool, connections: int) -> dict[str, Any]:
    """Everything, for JSON. Times in milliseconds; quantiles of too few samples are null."""
    rates = {"throughput_tokens_per_s": tally.throughput_per_s, "goodput_tokens_per_s": tally.goodput_per_s}
    return {
        "parameters": dataclasses.asdict(options),
        "interrupted": interrupted,
        "connections": connections,
        "requests": {"asked": tally.asked, **{e.value: n for e, n in tally.endings.items()}},
        "refusals": {
            "first_tries": tally.refused_first,
            "retries": tally.refused_retries,
            "by_reason": dict(tally.refusals),
        },
        "retries_sent": tally.retries,
        "failures": dict(tally.failures),
        "losses": dict(tally.losses),
        "messages": dict(tally.messages),
        "window_s": round(tally.window_s, 3),
        **{name: round(rate, 3) for name, rate in rates.items()},
        "good_answers": tally.good,
        "output_tokens": tally.output_tokens,
        "good_tokens": tally.good_tokens,
        "ttft_ms": _in_ms(tally.ttft),
        "ttft_with_retries_ms": _in_ms(tally.ttft_with_retries),
        "inter_token_ms": {**_in_ms(tally.inter_token), "of": INTER_TOKEN},
        "refusal_ms": _in_ms(tally.refusal),
        "queue_ms": _in_ms(tally.queue),
        "admission_ms": _in_ms(tally.admission),
        "lag_ms": {**_in_ms(tally.lag), "late": tally.late},
        "tenants": [dataclasses.asdict(tenant) for tenant in tally.tenants],
        "jain": tally.jain,
        "seconds": [dataclasses.asdict(second) for second in tally.seconds],
    }


def tables(tally: Tally, options: LoadOptions) -> RenderableType:
    """For a terminal of 80 columns or more."""
    counts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    counts.add_column(style="bold", no_wrap=True)
    counts.add_column(overflow="fold")
    for name, value in _rows(tally, options):
        counts.add_row(name, Text(value))
    parts: list[RenderableType] = [counts, Text(), _times(tally, options), Text(), Text(_NOTE, style="dim")]
    if len(tally.tenants) > 1:
        parts += [Text(), _tenants(tally)]
    return Group(*parts)


_NOTE = "Between tokens: time between two messages, divided over the later one's tokens."


def warnings(tally: Tally) -> list[str]:
    """What a reader of the numbers has to know, one line each."""
    lines = []
    if tally.late:
        lines.append(
            f"requests were sent late (p95 {_ms(tally.lag.p95)} ms, {LATE_S * 1000:.0f} ms allowed): "
            "this process was too slow, and the times are its own as much as the server's"
        )
    if tally.endings[Ending.NOT_SENT]:
        lines.append(f"{tally.endings[Ending.NOT_SENT]} requests were not sent: too many streams were open")
    return lines


def _rows(tally: Tally, options: LoadOptions) -> list[tuple[str, str]]:
    endings = tally.endings
    rows = [
        (
            "Requests",
            f"{tally.asked} asked, {endings[Ending.ANSWERED]} answered, {endings[Ending.REFUSED]} refused, "
            f"{endings[Ending.FAILED]} failed, {endings[Ending.LOST]} lost, "
            f"{endings[Ending.UNFINISHED]} unfinished, {endings[Ending.NOT_SENT]} not sent",
        )
    ]
    if options.max_tries > 1:
        first, retries = tally.refused_first, tally.refused_retries
        rows.append(("Retries", f"{tally.retries} sent; refused: {first} first tries, {retries} retries"))
    for name, causes in (("Refused", tally.refusals), ("Failed", tally.failures), ("Lost", tally.losses)):
        for cause, count in sorted(causes.items(), key=lambda pair: -pair[1]):
            rows.append((name, f"{count} {cause}: {tally.messages[cause]}"))
            name = ""
    return [
        *rows,
        ("Throughput", f"{tally.throughput_per_s:.1f} tokens/s in {tally.window_s:.1f} s"),
        (
            "Goodput",
            f"{tally.goodput_per_s:.1f} tokens/s, of {tally.good} answers within the targets "
            f"({_targets(options)})",
        ),
    ]


def _targets(options: LoadOptions) -> str:
    ttft_s, latency_s = options.targets.ttft_s, options.targets.latency_s
    limits = [f"TTFT {ttft_s * 1000:g} ms"] if ttft_s else []
    limits += [f"{latency_s * 1000:g} ms between tokens"] if latency_s else []
    return ", ".join(limits) or "none"


def _times(tally: Tally, options: LoadOptions) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("Milliseconds", no_wrap=True)
    for name in ("p50", "p95", "p99", "Samples"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [("Time to first token", tally.ttft)]
    if options.max_tries > 1:
        rows.append(("  from the first try", tally.ttft_with_retries))
    rows += [
        ("Between tokens", tally.inter_token),
        ("Time to a refusal", tally.refusal),
        ("Queue, by the server", tally.queue),
        ("Sent late by", tally.lag),
    ]
    for name, times in rows:
        table.add_row(name, _ms(times.p50), _ms(times.p95), _ms(times.p99), str(times.samples))
    return table


def _tenants(tally: Tally) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("Tenant", overflow="fold")
    for name in ("Asked", "Answered", "Refused", "Tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    for tenant in tally.tenants:
        numbers = (tenant.asked, tenant.answered, tenant.refused, tenant.tokens)
        table.add_row(Text(tenant.name), *map(str, numbers))
    index = "-" if tally.jain is None else f"{tally.jain:.3f}"
    return Group(table, Text(f"Jain's index of the tokens: {index} (1 is equal)"))


def _in_ms(times: Quantiles) -> dict[str, float | int | None]:
    return {
        "p50": _rounded_ms(times.p50),
        "p95": _rounded_ms(times.p95),
        "p99": _rounded_ms(times.p99),
        "samples": times.samples,
    }


def _rounded_ms(time_s: float | None) -> float | None:
    return None if time_s is None else round(time_s * 1000, _MS_DIGITS)


def _ms(time_s: float | None) -> str:
    return "-" if time_s is None else f"{time_s * 1000:.1f}"
