"""The ghz fixtures against the real server, and the runner that stands in for ghz."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ghz_runner import Report, run, run_stand_in, seconds, unmet
from tests.integration.processes import ROOT
from tests.integration.processes import run as run_program
from tests.integration.states import idle
from tests.service.servers import Stubs

FIXTURES = sorted((ROOT / "tests" / "ghz").glob("*.json"))


def config_of(path: Path, address: str) -> dict[str, Any]:
    """A fixture for a server; its paths hold wherever pytest was started."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if "proto" in config:
        config["proto"] = str(ROOT / config["proto"])
        config["import-paths"] = [str(ROOT / folder) for folder in config["import-paths"]]
    return {**config, "host": address}


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_all_calls_of_a_fixture_are_ok(path: Path, grpc_addr: str) -> None:
    report = run(config_of(path, grpc_addr))
    assert unmet(report) == []
    assert report["statusCodeDistribution"] == {"OK": 40}
    assert report["count"] == 40
    assert report["fastest"] <= report["average"] <= report["slowest"]


async def test_cancelled_calls_leave_nothing_behind(stubs: Stubs, grpc_addr: str) -> None:
    before = await idle(stubs)
    path = ROOT / "tests" / "ghz" / "generate-cancel.json"
    report = await run_stand_in({**config_of(path, grpc_addr), "total": 10, "concurrency": 5})
    assert report["statusCodeDistribution"] == {"OK": 10}
    after = await idle(stubs)
    assert after.streams.ended.cancelled == before.streams.ended.cancelled + 10


async def test_an_error_is_reported_under_its_go_name(grpc_addr: str) -> None:
    path = ROOT / "tests" / "ghz" / "generate-text.json"
    config = {**config_of(path, grpc_addr), "total": 3, "concurrency": 1, "data": [{"start": {}}]}
    report = await run_stand_in(config)
    assert report["statusCodeDistribution"] == {"InvalidArgument": 3}
    ((error, count),) = report["errorDistribution"].items()
    assert error.startswith("rpc error: code = InvalidArgument desc = start.input")
    assert count == 3
    # The three expectations of the fixture: OK, 40 calls, 10 responses.
    assert len(unmet(report)) == 3


GOOD: Report = {
    "count": 2,
    "statusCodeDistribution": {"OK": 2},
    "errorDistribution": {},
    "details": [{"status": "OK", "responses": 5}, {"status": "OK", "responses": 7}],
    "tags": {"expect.status": "OK", "expect.count": "2", "expect.min_responses": "5"},
}


def changed(**keys: Any) -> Report:
    return {**copy.deepcopy(GOOD), **keys}


@pytest.mark.parametrize(
    ("report", "named"),
    [
        (GOOD, []),
        (changed(tags={}), []),
        (changed(tags=None, count=0, statusCodeDistribution={}), []),
        (changed(statusCodeDistribution={"OK": 1, "Unavailable": 1}), ["expect.status"]),
        (changed(statusCodeDistribution={}), ["expect.status"]),
        (changed(count=1), ["expect.count"]),
        (changed(details=[{"status": "OK", "responses": 4}]), ["expect.min_responses"]),
        # The real ghz does not count the messages of a call.
        (changed(details=[{"status": "OK"}]), []),
        (changed(count=0, statusCodeDistribution={"Aborted": 2}), ["expect.status", "expect.count"]),
    ],
)
def test_expectations_in_tags(report: Report, named: list[str]) -> None:
    assert [problem.split()[0] for problem in unmet(report)] == named


@pytest.mark.parametrize(
    ("duration", "expected"),
    [("20s", 20.0), ("5ms", 0.005), ("1m30s", 90.0), ("1.5h", 5400.0), ("0", 0.0), (None, 0.0)],
)
def test_durations_of_go(duration: str | None, expected: float) -> None:
    assert seconds(duration) == pytest.approx(expected)


def test_the_runner_as_a_program(grpc_addr: str) -> None:
    module = "tests.ghz_runner"
    done = run_program(sys.executable, "-m", module, "tests/ghz/get-status.json", grpc_addr)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tags"]["expect.status"] == "OK"
