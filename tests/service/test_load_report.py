"""What a person reads, and what a program does."""

import json
from typing import Any

import pytest
from rich.console import Console

from service.load.attempt import Ending
from service.load.options import Targets
from service.load.report import as_dict, tables, warnings
from service.load.tally import Tally
from tests.service.load_runs import load_options
from tests.service.test_load_tally import attempt, refused, tally


def lines_of(numbers: Tally, **options: Any) -> list[str]:
    """The tables at 80 columns, spaces squeezed."""
    console = Console(width=80, highlight=False)
    with console.capture() as capture:
        console.print(tables(numbers, load_options(**options)))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    return [" ".join(line.split()) for line in lines]


def test_tables() -> None:
    answered = [attempt(n, messages=((1.25, 1), (1.5, 2)), queue_s=0.002) for n in range(1, 21)]
    lines = lines_of(tally(*answered, refused(21, ended_s=1.003), window_s=2.0))
    assert lines[:2] == [
        "Requests 21 asked, 20 answered, 1 refused, 0 failed, 0 lost, 0 unfinished,",
        "0 not sent",
    ]
    assert "Refused 1 QUEUE_FULL: full" in lines
    assert "Throughput 30.0 tokens/s in 2.0 s" in lines
    assert "Time to first token 250.0 250.0 - 20" in lines
    assert "Between tokens 125.0 125.0 - 20" in lines
    assert "Time to a refusal 3.0 - - 1" in lines
    assert "Queue, by the server 2.0 2.0 - 20" in lines
    assert not any(line.startswith(("Retries", "from the first try", "Tenant")) for line in lines)


def test_tables_with_retries_and_tenants() -> None:
    calls = (
        refused(1, tenant="a"),
        attempt(1, tries=2, tenant="a", messages=((2.0, 4),)),
        attempt(2, tenant="[b]", messages=((2.0, 4),)),
    )
    lines = lines_of(tally(*calls, tenants=("a", "[b]")), max_tries=3)
    assert "Retries 1 sent; refused: 1 first tries, 0 retries" in lines
    assert "from the first try 1000.0 - - 2" in lines
    assert "a 1 1 1 4" in lines
    assert "[b] 1 1 0 4" in lines
    assert lines[-1] == "Jain's index of the tokens: 1.000 (1 is equal)"


@pytest.mark.parametrize(
    ("targets", "text"),
    [
        (Targets(0.5, 0.1), "(TTFT 500 ms, 100 ms between tokens)"),
        (Targets(0.5, 0.0), "(TTFT 500 ms)"),
        (Targets(0.0, 0.0), "(none)"),
    ],
)
def test_targets_are_shown(targets: Targets, text: str) -> None:
    assert text in " ".join(lines_of(tally(), targets=targets))


def test_warnings() -> None:
    late = [attempt(number, due_s=0.0, sent_s=0.5) for number in range(1, 21)]
    said = warnings(tally(*late, attempt(21, ending=Ending.NOT_SENT)))
    assert len(said) == 2
    assert said[0].startswith("requests were sent late (p95 500.0 ms, 50 ms allowed)")
    assert said[1].startswith("1 requests were not sent")
    assert warnings(tally(attempt())) == []


def test_json_has_all_of_it() -> None:
    calls = (attempt(1, tenant="a", messages=((1.25, 1), (1.5, 2))), refused(2, tenant="b"))
    options = load_options(tenants={"a": 1.0, "b": 2.0})
    numbers = as_dict(tally(*calls, tenants=("a", "b")), options, interrupted=True, connections=2)
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert numbers["requests"]["asked"] == 2
    assert numbers["ttft_ms"] == {"p50": 250.0, "p95": None, "p99": None, "samples": 1}
    assert numbers["inter_token_ms"]["p50"] == 125.0
    assert "divided over the tokens" in numbers["inter_token_ms"]["of"]
    assert (numbers["interrupted"], numbers["connections"], numbers["jain"]) == (True, 2, 0.5)
    parameters = numbers["parameters"]
    assert (parameters["seed"], parameters["tenants"], parameters["arrivals"]) == (
        7,
        {"a": 1.0, "b": 2.0},
        "constant",
    )
    assert [second["refused_first"] for second in numbers["seconds"]] == [0, 0, 1]
