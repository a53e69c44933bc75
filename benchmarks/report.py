"""Tables on the terminal and JSON beside them. Neither names the machine."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Comparison, Summary

Show = Callable[[Comparison], str]

_WIDTH = 120
_PACKAGES = ("mlx", "mlx-lm", "grpcio", "protobuf", "uvloop")


class Environment(msgspec.Struct, frozen=True):
    """Where a benchmark ran, in general terms."""

    cores: int
    architecture: str
    python: str
    packages: dict[str, str]


class Report(msgspec.Struct, frozen=True):
    """One benchmark of comparisons: where it ran and what came out."""

    benchmark: str
    reference: str
    subject: str
    environment: Environment
    comparisons: list[Comparison]


def this_environment() -> Environment:
    return Environment(
        cores=os.cpu_count() or 0,
        architecture=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        packages={name: version(name) for name in _PACKAGES},
    )


def make_report(benchmark: str, reference: str, subject: str, comparisons: Sequence[Comparison]) -> Report:
    return Report(benchmark, reference, subject, this_environment(), list(comparisons))


def write_json(result: msgspec.Struct, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(_rounded(result)), indent=2) + b"\n")


def _rounded(value: object) -> object:
    """The same as plain data with four significant digits: more would be noise."""
    plain = msgspec.to_builtins(value)
    if isinstance(plain, dict):
        return {key: _rounded(item) for key, item in plain.items()}
    if isinstance(plain, list):
        return [_rounded(item) for item in plain]
    return float(f"{plain:.4g}") if isinstance(plain, float) else plain


def print_report(report: Report) -> None:
    """Two tables with one line for each comparison: what it costs, and the rates with their ratio."""
    console = Console(width=_WIDTH, highlight=False)
    _print_table(console, report, _COSTS)
    _print_table(console, report, _RATES)


def _print_table(console: Console, report: Report, columns: Mapping[str, Show]) -> None:
    title = f"{report.benchmark}: {report.reference} / {report.subject}"
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    for name in report.comparisons[0].what:
        table.add_column(name, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for one in report.comparisons:
        what = (str(value) for value in one.what.values())
        table.add_row(*what, *(show(one) for show in columns.values()))
    console.print(table)


def _pair(show: Callable[[Summary], str]) -> Show:
    return lambda one: f"{show(one.reference)} / {show(one.subject)}"


def _seconds_per_1k(us_per_token: float | None) -> str:
    """CPU seconds per 1,000 tokens; "-" where it is not known."""
    return "-" if us_per_token is None else f"{us_per_token / 1e3:.3f}"


_COSTS: dict[str, Show] = {
    "TTFT p50 ms": _pair(lambda side: f"{side.first_token_p50_ms:.0f}"),
    "TTFT p95 ms": _pair(lambda side: f"{side.first_token_p95_ms:.0f}"),
    "CPU s/1k tokens": _pair(lambda side: _seconds_per_1k(side.cpu_us_per_token)),
    "client's CPU": _pair(lambda side: _seconds_per_1k(side.client_cpu_us_per_token)),
}
_RATES: dict[str, Show] = {
    "tokens/chunk": lambda one: f"{one.subject.tokens_per_chunk:.1f}",
    "runs": lambda one: f"{one.repetitions}",
    "others, cores": lambda one: "-" if one.elsewhere_cores is None else f"{one.elsewhere_cores:.2f}",
    "tokens/s": _pair(lambda side: f"{side.tokens_per_s:,.0f}"),
    "ratio (range)": lambda one: f"[bold]{one.ratio:.2f}[/] ({one.ratio_low:.2f}-{one.ratio_high:.2f})",
}
