"""The result of a benchmark whose cases are rows of numbers: a table, then what it comes to, and JSON."""

import statistics
from collections.abc import Sequence

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Comparison
from benchmarks.report import Environment, this_environment

Cell = str | int | float | None
Row = dict[str, Cell]

_WIDTH = 120
_MOST_COLUMNS = 12
_WIDE = 170


class Result(msgspec.Struct, frozen=True):
    """rows: one for each case. ratios: what it comes to, printed last; names say the unit or the goal."""

    benchmark: str
    environment: Environment
    rows: list[Row]
    ratios: Row


def make_result(benchmark: str, rows: Sequence[Row], ratios: Row) -> Result:
    return Result(benchmark, this_environment(), list(rows), ratios)


def print_result(result: Result) -> None:
    """The cases below each other, or beside each other when a case has more numbers than there are cases."""
    names = list(dict.fromkeys(name for row in result.rows for name in row))
    lines = [[shown(row.get(name)) for name in names] for row in result.rows]
    head = names
    if len(names) > len(lines):
        head, *lines = ([name, *values] for name, *values in zip(names, *lines, strict=True))
    table = Table(title=result.benchmark, title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    for number_of_column, name in enumerate(head):
        table.add_column(name, justify="right" if number_of_column else "left")
    for line in lines:
        table.add_row(*line)
    console = Console(width=_WIDTH if len(head) <= _MOST_COLUMNS else _WIDE, highlight=False)
    console.print(table)
    for name, value in result.ratios.items():
        console.print(f"{name}: [bold]{shown(value)}[/]")


def shown(value: Cell) -> str:
    """Three significant digits; thousands apart."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value


def number(row: Row, name: str) -> float:
    """A cell that must be a number."""
    value = row[name]
    if not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}")
    return float(value)


class Ratios(msgspec.Struct, frozen=True):
    """Subject by reference in neighbouring runs: the median and the extremes."""

    median: float
    low: float
    high: float


def ratios_of(references: Sequence[float], subjects: Sequence[float]) -> Ratios:
    each = [subject / reference for reference, subject in zip(references, subjects, strict=True)]
    return Ratios(statistics.median(each), min(each), max(each))


def comparison_row(compared: Comparison, reference: str, subject: str) -> Row:
    """A Comparison of two ways to serve the same job, as cells."""
    return {
        **compared.what,
        f"{reference}, tokens/s": compared.reference.tokens_per_s,
        f"{subject}, tokens/s": compared.subject.tokens_per_s,
        f"{reference}, CPU us/token": compared.reference.cpu_us_per_token,
        f"{subject}, CPU us/token": compared.subject.cpu_us_per_token,
        f"{subject}, tokens/chunk": compared.subject.tokens_per_chunk,
        "ratio": compared.ratio,
        "low": compared.ratio_low,
        "high": compared.ratio_high,
        "pairs": compared.repetitions,
        "others, cores": compared.elsewhere_cores,
    }
