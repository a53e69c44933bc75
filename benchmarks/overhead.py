"""How much of a worker's step is not the model: Python, frames, preparing of sampling."""

import asyncio
import statistics
import sys
import time
from itertools import product
from pathlib import Path

import msgspec

from benchmarks.jobs import GREEDY, Job
from benchmarks.peers_load import mixed_samplings, read_all
from benchmarks.plots import Panel, draw
from benchmarks.result import Result, Row, make_result, number
from benchmarks.serving import prompts
from benchmarks.systems import System, penstock
from benchmarks.wires import WIRES
from engine.model_source import EMBEDDED
from penstock.v1.status_pb2 import Status

BATCH = 32
GOAL = 0.05
_MIXES = ("greedy", "mixed")
_TOKENS = 128
_TURNS = 3
# The worker's counters come with its signs of life, four in a second.
_COUNTERS_S = 0.6


class Spent(msgspec.Struct, frozen=True):
    """A worker's counters, or the difference of two."""

    step_s: float
    outside_s: float
    steps: int
    tokens: int

    def since(self, earlier: "Spent") -> "Spent":
        return Spent(
            self.step_s - earlier.step_s,
            self.outside_s - earlier.outside_s,
            self.steps - earlier.steps,
            self.tokens - earlier.tokens,
        )

    def row(self) -> Row:
        """Nothing is known of a worker that does not count its time."""
        known = self.step_s > 0 and self.steps > 0
        return {
            "ms/step": self.step_s / self.steps * 1e3 if known else None,
            "outside the model, ms/step": self.outside_s / self.steps * 1e3 if known else None,
            "share outside the model": self.outside_s / self.step_s if known else None,
            "rows/step": self.tokens / self.steps if self.steps else None,
        }


def spent(status: Status) -> Spent:
    """Of all workers together."""
    return Spent(
        sum(each.step_s for each in status.workers),
        sum(each.outside_model_s for each in status.workers),
        sum(each.decode_steps for each in status.workers),
        sum(each.generated_tokens for each in status.workers),
    )


def run(*, quick: bool) -> Result:
    """The embedded model, at which everything around the model weighs most."""
    rounds, counts = (1, (BATCH,)) if quick else (5, (1, 8, BATCH))
    rows: list[Row] = []
    with penstock(EMBEDDED) as system, asyncio.Runner() as runner:
        runner.run(_load(system, "mixed", BATCH, seed=-1))
        for mix, streams in product(_MIXES, counts):
            runs = []
            for seed in range(rounds):
                before = _status(system)
                runner.run(_load(system, mix, streams, seed))
                runs.append(spent(_status(system)).since(spent(before)).row())
            row: Row = {"mix": mix, "streams": streams, **_medians(runs), "rounds": rounds}
            print(f"  {row}", file=sys.stderr, flush=True)
            rows.append(row)
    ratios: Row = {
        f"share of a step outside the model, {row['mix']}, {BATCH} streams (goal below {GOAL})": row[
            "share outside the model"
        ]
        for row in rows
        if row["streams"] == BATCH
    }
    return make_result("overhead", rows, ratios)


async def _load(system: System, mix: str, streams: int, seed: int) -> None:
    wire = await WIRES[system.wire](system.target)
    try:
        samplings = [GREEDY] if mix == "greedy" else mixed_samplings(streams, seeds=True)
        await read_all(wire, prompts(streams * _TURNS, seed), Job(streams, [], _TOKENS), samplings)
    finally:
        await wire.close()


def _status(system: System) -> Status:
    if system.status is None:
        raise TypeError(f"{system.name} has no status")
    time.sleep(_COUNTERS_S)
    return system.status()


def _medians(rows: list[Row]) -> Row:
    return {
        name: None
        if any(row[name] is None for row in rows)
        else statistics.median(number(r, name) for r in rows)
        for name in rows[0]
    }


def plot(result: Result, path: Path) -> None:
    labels = [f"{row['mix']} {row['streams']}" for row in result.rows]

    def column(name: str) -> list[float | None]:
        return [None if row[name] is None else number(row, name) for row in result.rows]

    draw(
        path,
        "A worker's step, embedded model",
        [
            Panel(
                "Time", "ms/step", labels,
                {"all": column("ms/step"), "outside the model": column("outside the model, ms/step")},
            ),
            Panel("Outside the model", "share", labels, {"": column("share outside the model")}, goal=GOAL),
        ],
    )  # fmt: skip
