"""Plots of results, as PNG beside their JSON."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import msgspec

from benchmarks.report import Report

matplotlib.use("Agg")  # No display is needed, nor looked for.
from matplotlib import pyplot

_PANEL_INCHES = (5.0, 3.6)
# With more labels a panel is wider.
_LABELS_IN_PANEL = 5
_LABEL_CHARACTERS = 10
_DPI = 110
_BARS_WIDTH = 0.8


class Panel(msgspec.Struct, frozen=True):
    """One diagram. series: by name, a value for each label; None leaves a gap.

    goal: a value to draw a line at, named by itself. lines: whether the labels have an order that is
    worth a line, not bars.
    """

    title: str
    y_label: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float | None]]
    goal: float | None = None
    lines: bool = False


def draw(path: Path, title: str, panels: Sequence[Panel]) -> None:
    """Write the panels side by side."""
    width, height = _PANEL_INCHES
    wide = [max(1.0, len(panel.labels) / _LABELS_IN_PANEL) for panel in panels]
    size = (width * sum(wide), height)
    figure, rows = pyplot.subplots(1, len(panels), figsize=size, width_ratios=wide, squeeze=False)
    figure.suptitle(title)
    for axes, panel in zip(rows[0], panels, strict=True):
        _draw(axes, panel)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the software's name and version, which would make equal plots differ.
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    pyplot.close(figure)


def draw_comparisons(path: Path, report: Report) -> None:
    labels = [" ".join(str(value) for value in one.what.values()) for one in report.comparisons]
    rates = {
        report.reference: [one.reference.tokens_per_s for one in report.comparisons],
        report.subject: [one.subject.tokens_per_s for one in report.comparisons],
    }
    ratios = {"ratio": [one.ratio for one in report.comparisons]}
    panels = [
        Panel("Throughput", "tokens/s", labels, rates),
        Panel(f"{report.subject} / {report.reference}", "ratio", labels, ratios, goal=1.0),
    ]
    draw(path, f"{report.benchmark}: {', '.join(report.comparisons[0].what)}", panels)


def _draw(axes: matplotlib.axes.Axes, panel: Panel) -> None:
    places = range(len(panel.labels))
    width = _BARS_WIDTH / len(panel.series)
    for index, (name, values) in enumerate(panel.series.items()):
        known = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
        heights = [value for _, value in known]
        if panel.lines:
            axes.plot([place for place, _ in known], heights, marker="o", label=name)
        else:
            shift = width * (index - (len(panel.series) - 1) / 2)
            axes.bar([place + shift for place, _ in known], heights, width, label=name)
    if panel.goal is not None:
        axes.axhline(panel.goal, linestyle="--", linewidth=1, color="black", label=f"{panel.goal:g}")
    labels = [textwrap.fill(label, _LABEL_CHARACTERS) for label in panel.labels]
    axes.set_xticks(list(places), labels, fontsize="small")
    axes.set_title(panel.title, fontsize="medium")
    axes.set_ylabel(panel.y_label)
    axes.set_ylim(bottom=0)
    if len(panel.series) > 1 or panel.goal is not None:
        axes.legend(fontsize="small")
