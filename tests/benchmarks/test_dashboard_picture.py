"""What the picture of the dashboard is made of: units, legends, and a drawing of each kind of panel."""

from pathlib import Path

import pytest

from benchmarks import dashboard
from benchmarks.dashboard import Query
from benchmarks.dashboard_panels import Line
from benchmarks.dashboard_picture import VARIABLES, draw
from benchmarks.dashboard_units import with_unit

PANELS = dashboard.panels(dashboard.dashboard())
KINDS = {panel["type"]: panel for panel in PANELS}
BEGAN_S, SECONDS = 1_700_000_000.0, 5


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "text"),
    [
        (0.0125, "s", None, "12.5 ms"),
        (90.0, "s", None, "1.5 min"),
        (3 * 2**20, "bytes", None, "3 MiB"),
        (0.0512, "percentunit", 1, "5.1%"),
        (12_500, "short", None, "12.5 K"),
        (7.0, "short", 0, "7"),
        (1.5, "suffix: tok/s", None, "1.5 tok/s"),
        (float("nan"), "s", None, ""),
    ],
)
def test_a_number_has_its_unit(value: float, unit: str, decimals: int | None, text: str) -> None:
    assert with_unit(value, unit, decimals) == text


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))
def test_units_of_the_dashboard_can_be_written(panel: dict[str, dict[str, dict[str, str]]]) -> None:
    assert with_unit(1.0, panel["fieldConfig"]["defaults"]["unit"])


def test_a_legend_takes_the_labels() -> None:
    assert dashboard.legend(Query("x", "y", "{{class}} of {{ model }}"), {"class": "bulk"}) == "bulk of"


def test_variables_are_replaced_with_and_without_braces() -> None:
    assert dashboard.substituted("a[$__interval] ${arm}", {"__interval": "5s", "arm": ".*"}) == "a[5s] .*"
    with pytest.raises(KeyError):
        dashboard.substituted("$nothing", {})


def test_metrics_of_an_expression_are_found() -> None:
    expression = 'rate(penstock_refusals_total{job="penstock"}[5m]) / up > penstock:burn_rate'
    assert dashboard.metrics_of(expression) == {"penstock_refusals_total", "up", "penstock:burn_rate"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("empty", [False, True])
def test_every_kind_of_panel_is_drawn(kind: str, empty: bool, tmp_path: Path) -> None:
    panel = KINDS[kind]
    names = ["0.1", "1.0", "+Inf"] if kind == "heatmap" else ["first", "second"]
    times_s = [BEGAN_S + second for second in range(SECONDS)]
    values = [float("nan")] * SECONDS if empty else [0.0, 1.0, float("nan"), 3.0, 2.0]
    letters = [target["refId"] for target in panel["targets"]]
    lines = [Line(name, {"arm": name}, letter, times_s, values) for name in names for letter in letters]
    file = tmp_path / "panel.png"
    draw(file, [panel], {panel["id"]: lines}, (times_s[0], times_s[-1]))
    assert file.read_bytes().startswith(b"\x89PNG")


def test_every_variable_of_the_dashboard_has_a_value() -> None:
    for panel in PANELS:
        for query in dashboard.queries(panel):
            assert "$" not in dashboard.substituted(query.expression, VARIABLES)
