"""What it brings to put more than one token into a message, on an engine that is never the bottleneck."""

import sys
from pathlib import Path

from benchmarks.jobs import Job
from benchmarks.measure import Side, alternate, compare
from benchmarks.plots import Panel, draw
from benchmarks.processes import Child
from benchmarks.result import Result, Row, comparison_row, make_result, number
from benchmarks.scripted_server import ScriptedOptions

# Tokens for each of so many streams in a run with coalescing, and the goal for all of them together.
_TOKENS = {1: 120_000, 100: 2_400}
# Without it a run has fewer, so that both take about as long.
_FEWER = 6
_GOALS = {1: 50_000, 100: 100_000}
_STEPS_PER_TURN = 16
_REFERENCE, _SUBJECT = "off", "on"


def run(*, quick: bool) -> Result:
    """One server; off and on are what the client asks for: 1 token in a message, or the server's maximum."""
    repetitions, limit_s = (3, 10.0) if quick else (15, 80.0)
    rows: list[Row] = []
    ratios: Row = {}
    options = ScriptedOptions(steps_per_turn=_STEPS_PER_TURN)
    with (
        Child("benchmarks.scripted_server", options.encoded()) as server,
        Child("benchmarks.load_client") as client,
    ):
        client.read_line()
        target = server.read_line()
        for streams, tokens in _TOKENS.items():
            max_tokens = tokens // (3 if quick else 1)
            off = Side(client, server, target, max_tokens_per_chunk=1, max_tokens=max_tokens // _FEWER)
            on = Side(client, server, target)
            job = Job(streams, ["Count."] * streams, max_tokens)
            for side in (off, on):
                side.run(job)
            pairs = alternate(off, on, job, repetitions=repetitions, limit_s=limit_s)
            row = comparison_row(compare({"streams": streams}, pairs), _REFERENCE, _SUBJECT)
            print(f"  {row}", file=sys.stderr, flush=True)
            rows.append(row)
            ratios[f"{streams} streams: tokens/s on / off"] = row["ratio"]
            ratios[f"{streams} streams: tokens/s on (goal {_GOALS[streams]:,})"] = row["on, tokens/s"]
    return make_result("coalescing", rows, ratios)


def plot(result: Result, path: Path) -> None:
    labels = [f"{row['streams']} streams" for row in result.rows]
    rates = {
        f"coalescing {name}": [number(row, f"{name}, tokens/s") for row in result.rows]
        for name in (_REFERENCE, _SUBJECT)
    }
    sizes = {"on": [number(row, "on, tokens/chunk") for row in result.rows]}
    draw(
        path,
        "Coalescing, scripted engine",
        [
            Panel("Throughput of all streams", "tokens/s", labels, rates),
            Panel("Tokens in a message", "tokens", labels, sizes),
        ],
    )
