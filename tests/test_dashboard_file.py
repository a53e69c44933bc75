"""The dashboard and the rules as files: whole, and with the objectives of the server's defaults."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import dashboard
from benchmarks.prometheus import DEPLOYED
from config import load

BOARD = dashboard.dashboard()
PANELS = dashboard.panels(BOARD)
RULES = [
    rule
    for group in yaml.safe_load((DEPLOYED / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
SLO = load(None, None, {}, {}).settings.slo
COLUMNS = 24
PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}
BUILT_IN = {"__rate_interval", "__interval"}


def named(panel: dict[str, Any]) -> str:
    return str(panel["title"])


@pytest.mark.parametrize("panel", PANELS, ids=named)
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == PROMETHEUS
    assert panel["targets"]
    assert all(target["datasource"] == PROMETHEUS for target in panel["targets"])
    letters = [target["refId"] for target in panel["targets"]]
    assert len(set(letters)) == len(letters)


def test_panels_have_names_and_places_of_their_own() -> None:
    for key in ("id", "title"):
        values = [panel[key] for panel in BOARD["panels"] if key == "id" or panel["type"] != "row"]
        assert len(set(values)) == len(values)
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in BOARD["panels"]
        for x, y in itertools.product(range(panel["gridPos"]["w"]), range(panel["gridPos"]["h"]))
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < COLUMNS


def test_every_variable_that_a_query_uses_is_there() -> None:
    there = {variable["name"] for variable in BOARD["templating"]["list"]} | BUILT_IN
    values = dict.fromkeys(there, "x")
    queries = [query for panel in PANELS for query in dashboard.queries(panel)]
    for query in (*queries, *dashboard.annotation_queries(BOARD)):
        assert "$" not in dashboard.substituted(query.expression, values)


def test_recorded_series_of_the_dashboard_are_in_the_rules() -> None:
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    used = {
        name
        for panel in PANELS
        for query in dashboard.queries(panel)
        for name in dashboard.metrics_of(query.expression)
        if name.startswith("penstock:")
    }
    assert used
    assert used <= recorded


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["alert"].startswith("Penstock")
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert set(alert["annotations"]) == {"summary", "description", "action"}
    assert all(alert["annotations"].values())


def test_objectives_are_those_of_the_defaults() -> None:
    assert constants("penstock:objective") == pytest.approx(
        {
            "ttft_p50": SLO.ttft_p50_ms / 1e3,
            "ttft_p95": SLO.ttft_p95_ms / 1e3,
            "inter_token_p95": SLO.inter_token_p95_ms / 1e3,
            "refusal_rate": SLO.max_refusal_rate,
            "infrastructure_cancellations": SLO.max_infrastructure_cancellations,
        }
    )
    assert constants("penstock:budget") == pytest.approx(
        {
            "ttft_p50": 0.5,
            "ttft_p95": 0.05,
            "inter_token_p95": 0.05,
            "refusal_rate": SLO.max_refusal_rate,
            "infrastructure_cancellations": SLO.max_infrastructure_cancellations,
        }
    )


@pytest.mark.parametrize("objective", ["ttft_p50", "ttft_p95", "inter_token_p95"])
def test_bounds_of_the_bad_shares_are_the_objectives(objective: str) -> None:
    bound = f'le="{constants("penstock:objective")[objective]}"'
    shares = [
        rule["expr"]
        for rule in RULES
        if rule.get("record") == "penstock:bad_share" and rule["labels"]["objective"] == objective
    ]
    assert len(shares) == 4
    assert all(bound in share for share in shares)


def test_every_objective_has_all_windows() -> None:
    windows = {
        (rule["labels"]["objective"], rule["labels"]["window"])
        for rule in RULES
        if rule.get("record") == "penstock:bad_share"
    }
    assert windows == set(itertools.product(constants("penstock:objective"), ("5m", "30m", "1h", "6h")))


def test_the_floor_of_the_limit_is_that_of_the_defaults() -> None:
    floor = load(None, None, {}, {}).settings.stream_registry.adaptive_limits.min_streams
    (alert,) = (one for one in ALERTS if one["alert"] == "PenstockLimitAtFloor")
    assert f"(penstock_streams_limit) <= {floor} and" in alert["expr"]


def test_the_configuration_names_files_that_are_there() -> None:
    configuration = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
    assert all((DEPLOYED / file).is_file() for file in configuration["rule_files"])
    (job,) = configuration["scrape_configs"]
    port = load(None, None, {}, {}).settings.telemetry.prometheus_port
    assert job["static_configs"] == [{"targets": [f"localhost:{port}"]}]
    assert f'job="{job["job_name"]}"' in Path(DEPLOYED / "rules.yml").read_text()


def constants(metric: str) -> dict[str, float]:
    """What rules record as vector(NUMBER), by objective."""
    return {
        rule["labels"]["objective"]: float(rule["expr"].removeprefix("vector(").removesuffix(")"))
        for rule in RULES
        if rule.get("record") == metric
    }
