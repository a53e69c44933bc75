"""Draws panels of the Grafana dashboard with matplotlib, as far as the dashboard uses Grafana's features."""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import matplotlib
import msgspec
import numpy
from matplotlib import dates
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import FuncFormatter, MaxNLocator

from benchmarks.dashboard_units import with_unit

matplotlib.use("Agg")  # No display is needed, nor looked for.

COLORS = {
    "green": "#73BF69", "yellow": "#F2CC0C", "blue": "#5794F2", "orange": "#FF9830", "red": "#F2495C",
    "purple": "#B877D9", "light-blue": "#8AB8FF", "dark-red": "#C4162A", "transparent": "#22252b",
}  # fmt: skip
PANEL, TEXT, DIM, GRID = "#181b1f", "#ccccdc", "#8e8e9c", "#2c2f36"
_PALETTE = ("green", "yellow", "blue", "orange", "red", "purple", "light-blue", "dark-red")
_HEAT = LinearSegmentedColormap.from_list("heat", [PANEL, "#5a2a0c", "#c4560f", "#ff9830", "#fff0d0"])
# A heat map whose few busy cells hide the others tells less.
_HEAT_EXPONENT = 0.5
_LEGEND_ENTRIES = 8
_LEGEND_CHARACTERS = 10
_SMALL, _TINY = 7.0, 6.0
_TABLE_ROW = 0.17
_GAUGES = 5


class Line(msgspec.Struct, frozen=True):
    """One series. labels: of Prometheus. times_s: since the epoch. letter: refId of its query."""

    name: str
    labels: dict[str, str]
    letter: str
    times_s: list[float]
    values: list[float]

    def known(self) -> list[float]:
        return [value for value in self.values if math.isfinite(value)]


Panel = Mapping[str, Any]


def draw_panel(axes: Axes, panel: Panel, lines: Sequence[Line], span_s: tuple[float, float]) -> None:
    """Draw one panel into axes of its own; span_s: first and last moment of the picture."""
    axes.set_facecolor(PANEL)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(colors=DIM, labelsize=_TINY, length=0)
    if not any(line.known() for line in lines):
        _nothing(axes)
        return
    _KINDS[panel["type"]](axes, panel, lines)
    if panel["type"] in ("timeseries", "heatmap", "state-timeline"):
        axes.set_xlim(_times(span_s)[0], _times(span_s)[1])
        form: Any = dates.DateFormatter
        axes.xaxis.set_major_formatter(form("%H:%M:%S"))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("center")


def _times(times_s: Sequence[float]) -> Any:
    to_days: Any = dates.date2num  # Without types.
    return to_days([datetime.fromtimestamp(time_s) for time_s in times_s])


def _nothing(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, "No data", color=DIM, fontsize=9, ha="center", va="center", transform=axes.transAxes)


def _defaults(panel: Panel) -> Mapping[str, Any]:
    defaults: Mapping[str, Any] = panel["fieldConfig"]["defaults"]
    return defaults


def _override(panel: Panel, name: str, key: str) -> Any:
    """What an override says for the series of that name; None without one."""
    for one in panel["fieldConfig"]["overrides"]:
        if one["matcher"]["options"] == name:
            for each in one["properties"]:
                if each["id"] == key:
                    return each["value"]
    return None


def _color(panel: Panel, name: str, index: int) -> str:
    chosen = _override(panel, name, "color")
    return COLORS[chosen["fixedColor"] if chosen else _PALETTE[index % len(_PALETTE)]]


def _threshold_color(panel: Panel, value: float) -> str:
    color = "green"
    for step in _defaults(panel)["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            color = step["color"]
    return COLORS[color]


def _stat(axes: Axes, panel: Panel, lines: Sequence[Line]) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    line = next(line for line in lines if line.known())
    value, options = line.known()[-1], panel["options"]
    named = options["textMode"] == "name"
    color = COLORS["blue"] if named else _threshold_color(panel, value)
    defaults = _defaults(panel)
    text = line.name if named else with_unit(value, defaults["unit"], defaults.get("decimals"))
    if options["graphMode"] == "area":
        axes.fill_between(_times(line.times_s), line.values, color=color, alpha=0.18, linewidth=0)
        axes.plot(_times(line.times_s), line.values, color=color, linewidth=0.8)
        axes.set_ylim(0, max(line.known()) * 2.6 or 1)
        axes.margins(x=0)
    axes.text(0.5, 0.6, text, color=color, fontsize=17, ha="center", va="center", transform=axes.transAxes)


def _timeseries(axes: Axes, panel: Panel, lines: Sequence[Line]) -> None:
    defaults = _defaults(panel)
    custom = defaults["custom"]
    stacked, bars = custom["stacking"]["mode"] == "normal", custom["drawStyle"] == "bars"
    right: Axes | None = None
    every_s = sorted({time_s for line in lines for time_s in line.times_s})
    below = numpy.zeros(len(every_s))
    for index, line in enumerate(line for line in lines if line.known()):
        color = _color(panel, line.name, index)
        if stacked or bars:
            at = dict(zip(line.times_s, line.values, strict=True))
            heights = numpy.nan_to_num(numpy.array([at.get(time_s, 0.0) for time_s in every_s]))
            _pile(axes, _times(every_s), below, heights, color, bars, line.name)
            below = below + heights if stacked else below
            continue
        if _override(panel, line.name, "custom.axisPlacement") == "right":
            right = right or _right_axis(axes, _override(panel, line.name, "unit"))
        style = "--" if _override(panel, line.name, "custom.lineStyle") else "-"
        place = right if right is not None and style == "-" and _on_right(panel, line) else axes
        place.plot(_times(line.times_s), line.values, style, color=color, linewidth=1.1, label=line.name)
        if style == "-" and place is axes:
            alpha = custom["fillOpacity"] / 100
            axes.fill_between(_times(line.times_s), line.values, color=color, alpha=alpha, linewidth=0)
        if right is not None and place is right:
            axes.plot([], [], color=color, linewidth=1.1, label=line.name)
    axes.set_ylim(0, defaults.get("max") or max(axes.get_ylim()[1], 1e-9))
    axes.grid(color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)
    _unit_axis(axes, defaults["unit"])
    _legend(axes, panel["gridPos"]["w"])


def has_right_axis(panel: Panel) -> bool:
    """Whether some of its series have an axis of their own at the right."""
    ids = [each["id"] for one in panel["fieldConfig"]["overrides"] for each in one["properties"]]
    return "custom.axisPlacement" in ids


def _on_right(panel: Panel, line: Line) -> bool:
    return bool(_override(panel, line.name, "custom.axisPlacement") == "right")


def _right_axis(axes: Axes, unit: str) -> Axes:
    right = axes.twinx()
    for spine in right.spines.values():
        spine.set_visible(False)
    right.tick_params(colors=DIM, labelsize=_TINY, length=0)
    right.set_ylim(0, 1.02)
    _unit_axis(right, unit)
    return right


def _pile(axes: Axes, times: Any, below: Any, heights: Any, color: str, bars: bool, name: str) -> None:
    if bars:
        width = (times[-1] - times[0]) / max(1, len(times) - 1) if len(times) > 1 else 1e-5
        axes.bar(times, heights, width, bottom=below, color=color, linewidth=0, label=name)
    else:
        axes.fill_between(times, below, below + heights, color=color, alpha=0.45, linewidth=0, label=name)
        axes.plot(times, below + heights, color=color, linewidth=0.7)


def _unit_axis(axes: Axes, unit: str) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: with_unit(value, unit)))


def _legend(axes: Axes, width: int) -> None:
    handles, names = axes.get_legend_handles_labels()
    handles, names = handles[:_LEGEND_ENTRIES], names[:_LEGEND_ENTRIES]
    axes.legend(
        handles, names, ncols=legend_columns(names, width), loc="upper left", bbox_to_anchor=(-0.06, -0.1),
        fontsize=_TINY, frameon=False, labelcolor=TEXT, handlelength=1.2, columnspacing=1.0, borderaxespad=0,
    )  # fmt: skip


def legend_columns(names: Sequence[str], width: int) -> int:
    """As many as fit below a panel of that width: by the longest name."""
    longest = max((len(name) for name in names), default=1)
    return max(1, min(len(names), width * _LEGEND_CHARACTERS // (longest + 5)))


def _heatmap(axes: Axes, panel: Panel, lines: Sequence[Line]) -> None:
    """The lines are cumulative buckets, named by their upper bound."""
    ordered = sorted(lines, key=lambda line: float(line.name))
    times_s = sorted({time_s for line in ordered for time_s in line.times_s})
    rows = []
    for line in ordered:
        at = dict(zip(line.times_s, line.values, strict=True))
        rows.append([at.get(time_s, 0.0) for time_s in times_s])
    counts = numpy.diff(numpy.nan_to_num(numpy.array(rows)), axis=0, prepend=0).clip(min=0)
    used = numpy.flatnonzero(counts.sum(axis=1) > 0)
    low, high = max(0, int(used[0]) - 1), min(len(ordered), int(used[-1]) + 2)
    shown = counts[low:high] ** _HEAT_EXPONENT
    heights = numpy.arange(high - low)
    axes.pcolormesh(_times(times_s), heights, shown, cmap=_HEAT, shading="nearest", vmin=0)
    bounds = [line.name for line in ordered[low:high]]
    every = max(1, len(bounds) // 8)
    places = range(0, len(bounds), every)
    texts = ["∞" if math.isinf(float(bounds[at])) else with_unit(float(bounds[at]), "s") for at in places]
    axes.set_yticks([place + 0.5 for place in places], texts)


def _bargauge(axes: Axes, panel: Panel, lines: Sequence[Line]) -> None:
    defaults = _defaults(panel)
    named = {line.name: line.known()[-1] for line in lines if line.known()}
    names = sorted(named, reverse=True)
    axes.barh(names, [defaults["max"]] * len(names), color=GRID, height=0.55)
    axes.barh(
        names,
        [min(max(named[name], 0.05), defaults["max"]) for name in names],
        color=[_threshold_color(panel, named[name]) for name in names],
        height=0.55,
    )
    for place, name in enumerate(names):
        text = with_unit(named[name], defaults["unit"], defaults["decimals"])
        color = _threshold_color(panel, named[name])
        axes.text(defaults["max"] * 1.02, place, text, color=color, fontsize=_SMALL, va="center")
    axes.set_xlim(0, defaults["max"] * 1.2)
    axes.set_ylim(len(names) - _GAUGES - 0.5, len(names) - 0.5)
    axes.set_xticks([])
    axes.tick_params(axis="y", colors=TEXT, labelsize=_TINY)


def _state_timeline(axes: Axes, panel: Panel, lines: Sequence[Line]) -> None:
    ordered = sorted(lines, key=lambda line: line.name, reverse=True)
    for place, line in enumerate(ordered):
        times = _times(line.times_s)
        width = (times[-1] - times[0]) / max(1, len(times) - 1) if len(times) > 1 else 1e-5
        colors = [_threshold_color(panel, value) for value in line.values]
        axes.bar(times, [0.8] * len(times), width * 1.05, bottom=place - 0.4, color=colors, linewidth=0)
    axes.set_yticks(range(len(ordered)), [line.name for line in ordered])


def _table(axes: Axes, panel: Panel, lines: Sequence[Line]) -> None:
    organize = next(one for one in panel["transformations"] if one["id"] == "organize")
    names = organize["options"]["renameByName"]
    letters = sorted({line.letter for line in lines})
    columns = {letter: f"Value #{letter}" if len(panel["targets"]) > 1 else "Value" for letter in letters}
    units = [
        _override(panel, names[column], "unit") or _defaults(panel)["unit"] for column in columns.values()
    ]
    cells = {(line.letter, *sorted(line.labels.items())): line.known() for line in lines}
    rows = sorted({tuple(sorted(line.labels.items())) for line in lines})
    table = [[names.get(column, column) for column in (*dict(rows[0]), *columns.values())]]
    for row in rows:
        found = [cells.get((letter, *row), []) for letter in columns]
        texts = [
            with_unit(known[-1], unit) if known else "" for known, unit in zip(found, units, strict=True)
        ]
        table.append([*dict(row).values(), *texts])
    axes.set_xticks([])
    axes.set_yticks([])
    for height, line_of_texts in enumerate(table):
        for place, text in enumerate(line_of_texts):
            axes.text(
                place / len(table[0]), 0.92 - height * _TABLE_ROW, text, color=TEXT if height else DIM,
                fontsize=_SMALL, va="center", transform=axes.transAxes,
            )  # fmt: skip


_KINDS: dict[str, Callable[[Axes, Panel, Sequence[Line]], None]] = {
    "stat": _stat,
    "timeseries": _timeseries,
    "heatmap": _heatmap,
    "bargauge": _bargauge,
    "state-timeline": _state_timeline,
    "table": _table,
}
