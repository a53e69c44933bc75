"""`penstock limits`, run as a user runs it: as a process, against a server in this one."""

import json
from dataclasses import replace

import pytest

from flowcontrol.limits.contract import StrategyName
from penstock.v1 import limits_pb2 as pb
from service.cli_limits import REASONS, limits_table
from tests.client.commands import Penstock, Result
from tests.service.admission_subjects import OPTIONS, LimitsServer, a_governor, serving_limits, tickets


def rows(result: Result) -> dict[str, str]:
    """The printed table, whose names are in the first 13 columns."""
    return {line[:13].strip(): line[13:].strip() for line in result.out.splitlines()}


async def penstock_limits(server: LimitsServer, *arguments: str) -> Result:
    return await Penstock(server.address)("limits", *arguments)


async def test_a_table_of_what_stands() -> None:
    governor = a_governor()
    tickets(governor, 7)
    async with serving_limits(governor) as server:
        server.clock.now_s += 75
        result = await penstock_limits(server)
    assert (result.code, result.err) == (0, "")
    assert max(len(line) for line in result.out.splitlines()) <= 80
    assert rows(result).pop("Queue").startswith("3 waiting")
    assert {name: value for name, value in rows(result).items() if name != "Queue"} == {
        "Strategy": "pid",
        "Bounds": "2..8 streams",
        "First token": "target 1000 ms",
        "Next token": "target 200 ms",
        "Limit": "4 streams",
        "In flight": "4, 3 waiting",
        "Last change": "none for 1 min 15 s",
        "Reason": "as at the start: nothing was measured yet",
        "Load": "first token -, next token -; 1 is on target",
    }


async def test_a_change_is_printed_as_before_and_after() -> None:
    governor = a_governor()
    async with serving_limits(governor) as server:
        result = await penstock_limits(
            server,
            *("--strategy", "gradient", "--min", "5", "--max", "80", "--target-ttft-ms", "800"),
            *("--target-latency-ms", "0", "--note", "evening"),
        )
    assert (result.code, result.err) == (0, "")
    assert rows(result) == {
        "Strategy": "pid -> gradient",
        "Bounds": "2..8 streams -> 5..80 streams",
        "First token": "target 1000 ms -> target 800 ms",
        "Next token": "target 200 ms -> target none",
        "Limit": "4 streams -> 5 streams",
    }
    assert governor.options == replace(
        OPTIONS,
        limits=replace(OPTIONS.limits, strategy=StrategyName.GRADIENT, min_streams=5, max_streams=80),
        gate=replace(OPTIONS.gate, target_ttft_s=0.8, target_latency_s=0.0),
    )


async def test_json() -> None:
    async with serving_limits(a_governor()) as server:
        shown = json.loads((await penstock_limits(server, "--json")).out)
        assert (shown["strategy"], shown["limit"], shown["queued"]) == ("LIMIT_STRATEGY_PID", 4, 0)
        answer = json.loads((await penstock_limits(server, "--max", "3", "--json")).out)
    assert (answer["before"], answer["after"]["limit"]) == (shown, 3)


async def test_a_refused_change() -> None:
    async with serving_limits(a_governor()) as server:
        result = await penstock_limits(server, "--max", "1")
        as_json = await penstock_limits(server, "--note", "nothing else", "--json")
    assert (result.code, result.out) == (2, "")
    text = "max_streams: got 1; allowed: at least min_streams, which is 2"
    assert result.err == f"penstock: {text} (INVALID_REQUEST)\n"
    assert as_json.code == 2
    assert json.loads(as_json.out)["error"]["violations"][0]["field"] == "request"


def test_every_reason_has_words() -> None:
    assert REASONS.keys() == set(pb.LimitReason.values()) - {pb.LIMIT_REASON_UNSPECIFIED}


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"last_change": -2, "changed_ago_ms": 14_000}, "Last change", "-2, 14 s ago"),
        ({"last_change": 5, "changed_ago_ms": 14_000}, "Last change", "+5, 14 s ago"),
        ({"ttft_load": 0, "latency_load": 1.5}, "Load", "first token 0.00, next token 1.50; 1 is on target"),
        ({"target_latency_ms": 0}, "Next token", "target none"),
        ({"queued": 0, "drain_ms": 0}, "Queue", "empty"),
        ({"queued": 2, "drain_ms": 0}, "Queue", "2 waiting"),
        ({"queued": 2, "drain_ms": 1250}, "Queue", "2 waiting, the last one starts in about 1.2 s"),
        ({"reason": 99}, "Reason", "reason 99"),
        ({"limit": 8}, "Limit", "8 streams"),
        ({"limit": 8, "cap": 8}, "Limit", "8 streams, held to 8 by the guard"),
        ({"limit": 8, "fixed_by_guard": True}, "Limit", "8 streams, fixed by the guard"),
        ({"strategy": 99}, "Strategy", "unknown"),
    ],
)
def test_cells(fields: dict[str, float], name: str, value: str) -> None:
    names, values = limits_table(pb.Limits(**fields)).columns  # type: ignore[arg-type]
    cells = dict(zip(names.cells, map(str, values.cells), strict=True))
    assert cells[name] == value
