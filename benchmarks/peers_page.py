"""Writes the results of peers-serving and peers-cases into peers.md: `python -m benchmarks.peers_page`."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import msgspec

from benchmarks.result import Cell, Result, Row, shown

_HERE = Path(__file__).parent
_BEGIN = "<!-- written by benchmarks.peers_page from results/: begin -->"
_END = "<!-- end -->"
_SERVING_COLUMNS = (
    "streams", "system", "tokens/s", "TTFT p50 ms", "TTFT p95 ms", "between p95 ms", "CPU s/1k", "RSS MB",
    "refused", "failed",
)  # fmt: skip
_MIXES = {"greedy": "Greedy", "mixed": "Mixed sampling"}
_LOADS = {"burst": "all streams at once", "loop": "each caller one stream after the other"}
_NAMES = ("peers-serving", "peers-cases")


def update_page(results: Path, page: Path = _HERE / "peers.md") -> None:
    """Put the tables of those results that there are between the page's two marks."""
    parts = []
    for name, section in zip(_NAMES, (serving_section, cases_section), strict=True):
        file = results / f"{name}.json"
        if file.exists():
            parts += [*section(msgspec.json.decode(file.read_bytes(), type=Result)), ""]
    before, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text(f"{before}{_BEGIN}\n\n" + "\n".join(parts) + _END + after, encoding="utf-8")


def serving_section(result: Result) -> list[str]:
    lines = ["## Results: streams", "", _where(result), "", "![](results/peers-serving.png)", ""]
    for (mix, load), rows in groupby(result.rows, key=lambda row: (str(row["mix"]), str(row["load"]))):
        lines += [f"{_MIXES[mix]}, {_LOADS[load]}:", "", *table(_SERVING_COLUMNS, list(rows)), ""]
    return [*lines, *_ratios(result)]


def cases_section(result: Result) -> list[str]:
    lines = ["## Results: cases", "", _where(result), "", "![](results/peers-cases.png)", ""]
    columns = [name for name in result.rows[0] if name != "case"]
    for case, rows in groupby(result.rows, key=lambda row: str(row["case"])):
        lines += [f"{case[0].upper()}{case[1:]}:", "", *table(columns, list(rows)), ""]
    return [*lines, *_ratios(result)]


def table(columns: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Lines of a markdown table; what a row does not have is "-"."""
    cells = [[_escaped(row.get(name)) for name in columns] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (list(columns), ["---"] * len(columns), *cells)]


def _escaped(cell: Cell) -> str:
    return (shown(cell) or "-").replace("|", "\\|")


def _where(result: Result) -> str:
    """Date and machine of a run."""
    environment = result.environment
    packages = ", ".join(f"{name} {number}" for name, number in environment.packages.items())
    model = result.ratios.get("model")
    return (
        f"{result.ratios.get('date')}, {environment.cores} cores, {environment.architecture}, "
        f"Python {environment.python}, {packages}" + (f"; model: {model}." if model else ".")
    )


def _ratios(result: Result) -> list[str]:
    rows: list[Row] = [
        {"ratio": name, "": value} for name, value in result.ratios.items() if name not in ("date", "model")
    ]
    return table(("ratio", ""), rows)


if __name__ == "__main__":
    update_page(_HERE / "results")
