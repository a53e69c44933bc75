"""One picture for each scenario: limit, queue and time to first token over time, setups side by side."""

from io import BytesIO
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from PIL import Image

from benchmarks.simulation.run import Record, Sample
from benchmarks.simulation.scenarios import Scenario
from benchmarks.simulation.study import Study

matplotlib.use("Agg")  # No display is needed, nor looked for.
from matplotlib import pyplot

_PANEL_INCHES = (2.1, 1.7)
_DPI = 80
# Enough for the eye, and a small file.
_MOST_DOTS = 400
_COLOURS = 32


def plot(study: Study, path: Path) -> None:
    names = ["oracle", *study.outcomes]
    width, height = _PANEL_INCHES
    figure, rows = pyplot.subplots(
        3, len(names), figsize=(width * len(names), 3 * height), sharex=True, sharey="row", squeeze=False
    )
    figure.suptitle(f"{study.scenario.name}: {study.scenario.about}", fontsize="medium")
    for place, name in enumerate(names):
        column = [row[place] for row in rows]
        column[0].set_title(name, fontsize="small")
        _limit(column[0], study, study.records[name])
        _queue(column[1], study.records[name])
        _ttft(column[2], study.scenario, study.records[name])
    for row, label in zip(rows, ("streams", "waiting", "TTFT, s"), strict=True):
        row[0].set_ylabel(label, fontsize="small")
        row[0].set_ylim(bottom=0)
    for axes in rows.flat:
        axes.tick_params(labelsize="x-small")
    rows[0][0].legend(fontsize="x-small", loc="upper left")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(memory := BytesIO(), dpi=_DPI, format="png")
    pyplot.close(figure)
    # Few colours make a small file.
    Image.open(memory).convert("RGB").quantize(_COLOURS).save(path, optimize=True)


def _limit(axes: Axes, study: Study, record: Record) -> None:
    times, shown = _times(study.scenario, record)
    for phase, band in zip(study.scenario.phases, study.oracle.bands, strict=True):
        if band is not None:
            high = band.high if band.bounded else study.scenario.max_streams
            axes.fill_between([phase.start_s, phase.end_s], band.low, high, color="0.85", linewidth=0)
    axes.plot(times, [one.in_flight for one in shown], linewidth=0.7, color="tab:orange", label="in flight")
    axes.plot(times, [one.limit for one in shown], linewidth=1.0, color="tab:blue", label="limit")


def _queue(axes: Axes, record: Record) -> None:
    axes.plot([one.at_s for one in record.samples], [one.queued for one in record.samples], linewidth=0.7)


def _ttft(axes: Axes, scenario: Scenario, record: Record) -> None:
    streams = [one for one in record.streams if one.ttft_s is not None]
    streams = streams[:: len(streams) // _MOST_DOTS + 1]
    axes.plot([one.asked_s for one in streams], [one.ttft_s or 0.0 for one in streams], ".", markersize=1.5)
    axes.axhline(scenario.target_ttft_s, linestyle="--", linewidth=0.7, color="black")
    axes.set_xlim(0, scenario.duration_s)
    axes.set_ylim(0, 3 * scenario.target_ttft_s)


def _times(scenario: Scenario, record: Record) -> tuple[list[float], list[Sample]]:
    shown = [one for one in record.samples if one.at_s <= scenario.duration_s]
    return [one.at_s for one in shown], shown
