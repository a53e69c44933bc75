"""Pictures of the dashboard in deploy/ from a real run: `python -m benchmarks.dashboard_picture`.

Runs the server with the embedded model under load and a real Prometheus beside it, asks Prometheus what each
panel asks it, and draws the panels where the dashboard has them. It is not Grafana that draws.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from matplotlib.patches import Rectangle

from benchmarks import dashboard
from benchmarks.dashboard_load import put_load, wait_ready
from benchmarks.dashboard_panels import DIM, PANEL, TEXT, Line, draw_panel, has_right_axis
from benchmarks.processes import Child
from benchmarks.prometheus import Prometheus, find, free_port, running_prometheus

_DOCS = Path(__file__).parents[1] / "docs"
_LISTENING = "penstock listening on "
_PAGE = "#111217"
_SCRAPE_S, _EVALUATE_S, _STEP_S = 1.0, 2.0, 1.0
VARIABLES = {
    "instance": ".*", "model": ".*", "class": ".*", "arm": ".*", "__rate_interval": "8s", "__interval": "2s",
}  # fmt: skip
_COLUMN_INCHES, _UNIT_INCHES = 0.6, 0.33
_HEAD_UNITS = 1.6
_DPI = 100
# Parts of a panel's place, inches: for the axis' texts, the title, and the legend.
_LEFT, _RIGHT, _TITLE, _BELOW, _GAP = 0.55, 0.15, 0.3, 0.55, 0.05
_BELOW_FLAT = 0.12
_RIGHT_AXIS = 0.5
_FLAT = ("stat", "table", "bargauge")
_LEFT_NAMES = 1.7
_FIRST_ROWS = 2
OPTIONS = {
    "PENSTOCK_ENGINE__WORKERS": "2",
    "PENSTOCK_ENGINE__FIRST_TOKEN__ENABLED": "true",
    "PENSTOCK_STREAM_REGISTRY__BACKPRESSURE__ACK_TIMEOUT_MS": "20000",
    "PENSTOCK_STREAM_REGISTRY__BACKPRESSURE__MAX_BACKLOG_TOKENS": "16",
    "PENSTOCK_ADMISSION__QUEUE__MAX_REQUESTS": "64",
    "PENSTOCK_ADMISSION__MAX_KV_BYTES": "67108864",
    "PENSTOCK_FEATURES__COALESCING__ENABLED": "false",
    "PENSTOCK_FEATURES__COALESCING__CANARY_PERCENT": "25",
    "PENSTOCK_SLO__MIN_SAMPLES": "5",
    "PENSTOCK_SLO__EVALUATION_INTERVAL_MS": "2000",
    "PENSTOCK_SLO__FAST_WINDOW_MS": "10000",
    "PENSTOCK_SLO__SLOW_WINDOW_MS": "30000",
    "PENSTOCK_SERVER__DRAIN_GRACE_MS": "1000",
    "PENSTOCK_LOGGING__LEVEL": "warning",
}
"""Options of the server that is watched: a small queue and short windows, so that two minutes show much."""

Lines = dict[int, list[Line]]


def watch(duration_s: float, folder: Path) -> tuple[Lines, tuple[float, float]]:
    """What Prometheus has for each panel, by the panel's id, and the time of the picture, since the epoch."""
    program = find("prometheus")
    if program is None:
        raise SystemExit("Prometheus is not here: deploy/prometheus/fetch.sh build/prometheus fetches it")
    port = free_port()
    environ = OPTIONS | {"PENSTOCK_TELEMETRY__PROMETHEUS_PORT": str(port)}
    targets = [f"127.0.0.1:{port}"]
    with (
        Child("service", "serve", "--port", "0", environ=environ, log=folder / "server") as server,
        running_prometheus(
            program, folder, targets, scrape_s=_SCRAPE_S, evaluate_s=_EVALUATE_S
        ) as prometheus,
    ):
        address = server.read_line().removeprefix(_LISTENING)
        asyncio.run(wait_ready(address))
        began_s = time.time()
        asyncio.run(put_load(address, duration_s))
        span_s = (began_s, began_s + duration_s)
        return {panel["id"]: lines_of(prometheus, panel, span_s) for panel in _panels()}, span_s


def lines_of(prometheus: Prometheus, panel: Mapping[str, Any], span_s: tuple[float, float]) -> list[Line]:
    """The series of a panel, of all its queries."""
    lines = []
    for target, query in zip(panel["targets"], dashboard.queries(panel), strict=True):
        expression = dashboard.substituted(query.expression, VARIABLES)
        if target.get("instant"):
            found = prometheus.instant(expression, span_s[1])
            series = [(one["metric"], [one["value"]]) for one in found]
        else:
            found = prometheus.over_time(expression, *span_s, _STEP_S)
            series = [(one["metric"], one["values"]) for one in found]
        for labels, pairs in series:
            times_s, values = [float(at) for at, _ in pairs], [float(value) for _, value in pairs]
            lines.append(Line(dashboard.legend(query, labels), labels, target["refId"], times_s, values))
    return lines


def draw(path: Path, panels: Sequence[Mapping[str, Any]], lines: Lines, span_s: tuple[float, float]) -> None:
    """Draw these panels and rows, in their places, into a PNG."""
    top = min(panel["gridPos"]["y"] for panel in panels)
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    width, height = 24 * _COLUMN_INCHES, (bottom - top + _HEAD_UNITS) * _UNIT_INCHES
    figure = pyplot.figure(figsize=(width, height), facecolor=_PAGE)
    said = "drawn from the queries of deploy/grafana/penstock.json, asked of Prometheus in a real run"
    figure.text(0.12 / width, 1 - 0.3 / height, "Penstock", color=TEXT, fontsize=13, va="center")
    figure.text(1 - 0.12 / width, 1 - 0.3 / height, said, color=DIM, fontsize=8, va="center", ha="right")
    for panel in panels:
        place = panel["gridPos"]
        x, w = place["x"] * _COLUMN_INCHES, place["w"] * _COLUMN_INCHES
        y = height - (place["y"] - top + _HEAD_UNITS + place["h"]) * _UNIT_INCHES
        h = place["h"] * _UNIT_INCHES
        if panel["type"] == "row":
            text = f"▾  {panel['title']}"
            figure.text((x + 0.12) / width, (y + h / 2) / height, text, color=TEXT, fontsize=10, va="center")
            continue
        _draw_panel(figure, panel, lines[panel["id"]], span_s, (x, y, w, h))
    figure.savefig(path, dpi=_DPI, facecolor=_PAGE, metadata={"Software": None})
    pyplot.close(figure)


def _draw_panel(
    figure: Any,
    panel: Mapping[str, Any],
    lines: list[Line],
    span_s: tuple[float, float],
    place: tuple[float, float, float, float],
) -> None:
    """place: left, bottom, width and height in inches."""
    x, y, w, h = place
    width, height = figure.get_size_inches()
    frame = (x + _GAP) / width, (y + _GAP) / height, (w - 2 * _GAP) / width, (h - 2 * _GAP) / height
    figure.add_artist(
        Rectangle(frame[:2], frame[2], frame[3], color=PANEL, zorder=-1, transform=figure.transFigure)
    )
    title = (x + 0.15) / width, (y + h - _GAP - 0.15) / height
    figure.text(*title, panel["title"], color=TEXT, fontsize=8, va="center")
    flat = panel["type"] in _FLAT
    left = _LEFT_NAMES if panel["type"] in ("bargauge", "state-timeline") else 0.15 if flat else _LEFT
    below = _BELOW_FLAT if flat or panel["type"] == "state-timeline" else _BELOW
    if panel["type"] in ("heatmap", "state-timeline"):
        below = 0.3
    right = _RIGHT_AXIS if has_right_axis(panel) else _RIGHT
    inner = (x + left, y + below, w - left - right, h - below - _TITLE - _GAP)
    axes = figure.add_axes((inner[0] / width, inner[1] / height, inner[2] / width, inner[3] / height))
    draw_panel(axes, panel, lines, span_s)


def _panels() -> list[dict[str, Any]]:
    return dashboard.panels(dashboard.dashboard())


def _halves() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The first rows of the dashboard, which an operator sees first, and the others."""
    everything = dashboard.dashboard()["panels"]
    rows = [at for at, panel in enumerate(everything) if panel["type"] == "row"]
    return everything[: rows[_FIRST_ROWS]], everything[rows[_FIRST_ROWS] :]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboard_picture", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long to put load on the server")
    parser.add_argument("--to", type=Path, default=_DOCS, help="folder for the pictures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines, span_s = watch(given.seconds, Path(folder))
    first, rest = _halves()
    draw(given.to / "dashboard.png", first, lines, span_s)
    draw(given.to / "dashboard-more.png", rest, lines, span_s)


if __name__ == "__main__":
    main()
