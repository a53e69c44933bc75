"""The time that our code, not grpc's, adds to each message (see benchmarks.timed for what is counted)."""

import statistics
import sys
from pathlib import Path

import msgspec

from benchmarks.jobs import Job
from benchmarks.measure import Side, percentile
from benchmarks.plots import Panel, draw
from benchmarks.processes import Child
from benchmarks.result import Result, Row, make_result, number
from benchmarks.scripted_server import Internals, ScriptedOptions

_GOALS_MS = {"p50": 0.15, "p95": 0.35, "p99": 0.55}
_FRACTIONS = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class _Case(msgspec.Struct, frozen=True):
    """tokens: of each stream in a run. step_ms: between the engine's steps, 0 for as fast as it can."""

    name: str
    streams: int
    tokens: int
    step_ms: int
    max_tokens_per_chunk: int


_CASES = (
    _Case("1 stream, 200 tokens/s", 1, 600, 5, 1),
    _Case("32 streams, 50 tokens/s each", 32, 150, 20, 1),
    _Case("1 stream at full speed", 1, 20_000, 0, 1),
    _Case("100 streams at full speed", 100, 400, 0, 1),
    _Case("100 streams, coalescing", 100, 1_500, 0, 16),
)


def run(*, quick: bool) -> Result:
    rows = [_measure(case, runs=1 if quick else 8) for case in _CASES]
    ratios: Row = {}
    for name, goal_ms in _GOALS_MS.items():
        worst = max(number(row, f"own {name} ms") for row in rows)
        ratios[f"our code per message, {name} ms, worst case (goal below {goal_ms})"] = worst
    return make_result("per-message", rows, ratios)


def _measure(case: _Case, *, runs: int) -> Row:
    options = ScriptedOptions(kind="timed", step_s=case.step_ms / 1e3)
    own_ms: list[float] = []
    wall_ms: list[float] = []
    others: list[float] = []
    with (
        Child("benchmarks.scripted_server", options.encoded()) as server,
        Child("benchmarks.load_client") as client,
    ):
        client.read_line()
        side = Side(client, server, server.read_line(), max_tokens_per_chunk=case.max_tokens_per_chunk)
        job = Job(case.streams, ["Count."] * case.streams, case.tokens)
        for number_of_run in range(runs + 1):
            sample = side.run(job)
            internals = msgspec.json.decode(server.ask(""), type=Internals)
            if number_of_run:  # The first run warms up.
                own_ms += [us / 1e3 for us in internals.own_us]
                wall_ms += [us / 1e3 for us in internals.wall_us]
                others += [] if sample.elsewhere_cores is None else [sample.elsewhere_cores]
    own_ms.sort()
    wall_ms.sort()
    row: Row = {"case": case.name, "messages": len(own_ms)}
    row |= {f"own {name} ms": percentile(own_ms, fraction) for name, fraction in _FRACTIONS.items()}
    row["own mean ms"] = statistics.fmean(own_ms)
    # At full speed tokens wait for earlier writes, so this time is the queue's and says nothing of our code.
    paced = case.step_ms > 0
    row |= {
        f"arrival to write {name} ms": percentile(wall_ms, fraction) if paced else None
        for name, fraction in _FRACTIONS.items()
    }
    row["others, cores"] = statistics.median(others) if others else None
    print(f"  {row}", file=sys.stderr, flush=True)
    return row


def plot(result: Result, path: Path) -> None:
    labels = [str(row["case"]) for row in result.rows]
    panels = [
        Panel(
            f"{name}, goal below {goal_ms} ms",
            "ms",
            labels,
            {name: [number(row, f"own {name} ms") for row in result.rows]},
            goal=goal_ms,
        )
        for name, goal_ms in _GOALS_MS.items()
    ]
    draw(path, "Time of our code for each message", panels)
