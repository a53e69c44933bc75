"""The Grafana dashboard in deploy/ as a program reads it: its panels and their queries."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

FILE = Path(__file__).parents[1] / "deploy" / "grafana" / "penstock.json"
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
_LABEL_VALUES = re.compile(r"label_values\((?P<selector>.+), (?P<label>\w+)\)")
_LABEL = re.compile(r"\{\{ *(\w+) *\}\}")
_METRIC = re.compile(r"\b(?:(?:penstock|gen_ai|grpc)[_:][a-z0-9_:]+|up)\b")


class Query(msgspec.Struct, frozen=True):
    """One query of a panel. legend: with {{label}} in it."""

    where: str
    expression: str
    legend: str = ""


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return read


def panels(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All panels but the rows, in their order."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries(panel: Mapping[str, Any]) -> list[Query]:
    return [
        Query(f"{panel['title']} {target['refId']}", target["expr"], target["legendFormat"])
        for target in panel["targets"]
    ]


def annotation_queries(board: Mapping[str, Any]) -> list[Query]:
    return [
        Query(f"annotation {one['name']}", one["expr"])
        for one in board["annotations"]["list"]
        if "expr" in one
    ]


def variable_queries(board: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Of each variable that asks Prometheus for its values: name, selector and label."""
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            found = _LABEL_VALUES.fullmatch(variable["definition"])
            if found is None:
                raise ValueError(
                    f"variable {variable['name']}: {variable['definition']}: not label_values(...)"
                )
            yield variable["name"], found["selector"], found["label"]


def substituted(expression: str, values: Mapping[str, str]) -> str:
    """The expression with Grafana's variables replaced. Raises KeyError for one without a value."""
    return _VARIABLE.sub(lambda found: values[found[1]], expression)


def metrics_of(expression: str) -> set[str]:
    """Names of the metrics that an expression reads."""
    return set(_METRIC.findall(expression))


def legend(query: Query, labels: Mapping[str, str]) -> str:
    """The name of a series."""
    return _LABEL.sub(lambda found: labels.get(found[1], ""), query.legend).strip()
