"""Single cases beside the peers: a long prompt, a conversation, a seed, a burst of connections,
clients that leave, requests that kill, and the end of the server."""

import asyncio
import statistics
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from pathlib import Path

import grpc
import msgspec

from benchmarks import peers_faults, peers_steady
from benchmarks.peers_serving import OPTIONS, OURS
from benchmarks.peers_steady import GAP, GROWTH
from benchmarks.plots import Panel, draw
from benchmarks.result import Cell, Result, Row, make_result
from benchmarks.systems import System, installed_peers, peer, penstock, random_model

Figures = dict[str, Cell]
Measure = Callable[[System, str, int], Awaitable[Figures]]
"""Takes a system, the file of the model's tokenizer and the number of the round."""

_ROWS = 96
_FEW_ROWS = 8
_FEW_OPTIONS = {
    "STREAM_REGISTRY__MAX_ACTIVE_STREAMS": "8",
    "STREAM_REGISTRY__ADAPTIVE_LIMITS__ENABLED": "false",
    "ENGINE__MAX_BATCH_ROWS": "8",
}
_GOALS = {GAP: "goal at most 0.2 of the better peer's", GROWTH: "goal at most 1.3"}


class Case(msgspec.Struct, frozen=True):
    """rounds: how often, in full. lower: the figures in which less is better; a ratio is made of them.
    rows: of the servers. fresh: whether a server is of no use afterwards. shape: of the random model.
    slow: left out when quick.
    """

    title: str
    measure: Measure
    rounds: int
    lower: tuple[str, ...] = ()
    rows: int = _ROWS
    fresh: bool = False
    shape: str = ""
    slow: bool = False


CASES = (
    Case("a prompt of 6,000 tokens beside 8 streams", peers_steady.long_prompt, 3, (GAP,)),
    Case("a conversation", peers_steady.conversation, 8, ("TTFT of turn 5, ms",)),
    Case("a conversation, 34 M model", peers_steady.conversation, 3, ("TTFT of turn 5, ms",), shape="wide"),
    Case(
        "a conversation, layers as in Llama 3 8B", peers_steady.conversation, 2, ("TTFT of turn 5, ms",),
        shape="layers", slow=True,
    ),
    Case("a seeded stream beside 8 others", peers_steady.seeded, 3),
    Case("400 new connections, 32 tokens each", peers_steady.connections, 1, ("TTFT p95, ms",)),
    Case("12 clients leave while queued", peers_faults.leavers, 2, rows=_FEW_ROWS),
    *(
        Case(title, measure, 1, fresh=True)
        for title, measure in peers_faults.KILLERS.items()
    ),
    Case("SIGTERM beside 8 streams", peers_faults.end_under_load, 1, fresh=True),
)  # fmt: skip


def run(quick: bool, rounds: int | None, _: bool) -> Result:
    """rounds: of each case; None for the cases' own numbers, one when quick."""
    cases = [case for case in CASES if not (quick and case.slow)]
    figures: dict[str, dict[str, list[Figures]]] = {case.title: {} for case in cases}
    kept = dict.fromkeys((case.shape, case.rows) for case in cases if not case.fresh)
    with asyncio.Runner() as runner:
        for shape, rows in kept:
            with random_model("words", shape) as model, ExitStack() as stack:
                systems = [stack.enter_context(system) for system in _systems(model, rows)]
                for case in cases:
                    if not case.fresh and (case.shape, case.rows) == (shape, rows):
                        for number in range(rounds or (1 if quick else case.rounds)):
                            for system in systems:
                                _add(figures, case, system, _measured(runner, case, system, model, number))
        with random_model("words") as model:
            for case in cases:
                if case.fresh:
                    for starting in _systems(model, _ROWS):
                        with starting as system:
                            _add(figures, case, system, _measured(runner, case, system, model, 0))
    return make_result("peers-cases", *tabulate(figures))


def _systems(model: str, rows: int) -> Iterator[AbstractContextManager[System]]:
    yield penstock(model, OPTIONS if rows == _ROWS else _FEW_OPTIONS)
    for wire in installed_peers():
        yield peer(wire, model, rows)


def _measured(runner: asyncio.Runner, case: Case, system: System, model: str, number: int) -> Figures:
    try:
        return runner.run(_coroutine(case.measure(system, f"{model}/tokenizer.json", number)))
    except peers_steady.UnavailableCaseError as error:
        return {"": f"not available: {error}"}
    except (grpc.RpcError, OSError, TimeoutError, RuntimeError) as error:
        # A system that does not survive a case must not take the others' figures with it.
        return {"": f"failed: {type(error).__name__}"}


async def _coroutine(figures: Awaitable[Figures]) -> Figures:
    return await figures


def _add(figures: dict[str, dict[str, list[Figures]]], case: Case, system: System, measured: Figures) -> None:
    print(f"  {case.title}, {system.name}: {measured}", file=sys.stderr, flush=True)
    figures[case.title].setdefault(system.name, []).append(measured)


def tabulate(figures: dict[str, dict[str, list[Figures]]]) -> tuple[list[Row], Row]:
    """A row for each figure of each case, a column for each system; medians where there were rounds."""
    rows: list[Row] = []
    ratios: Row = {"date": datetime.now(UTC).date().isoformat()}
    lower = {(case.title, name) for case in CASES for name in case.lower}
    for title, by_system in figures.items():
        names = dict.fromkeys(name for runs in by_system.values() for run in runs for name in run)
        for name in names:
            cells: Row = {
                system: median_cell([run.get(name) for run in runs]) for system, runs in by_system.items()
            }
            rows.append({"case": title, "figure": name, **cells})
            if name == GROWTH and OURS in cells:
                ratios[f"{title}: {name} ({_GOALS[name]})"] = cells[OURS]
            if (title, name) in lower and (ratio := by_the_better(cells)) is not None:
                goal = f" ({_GOALS[name]})" if name in _GOALS else ""
                ratios[f"{title}: {name}, by the better peer{goal}"] = ratio
    return rows, ratios


def median_cell(values: Sequence[Cell]) -> Cell:
    """The median of numbers; the last one of anything else."""
    numbers = [value for value in values if isinstance(value, int | float)]
    if not numbers:
        return values[-1]
    return numbers[0] if len(set(numbers)) == 1 else statistics.median(numbers)


def by_the_better(cells: Row) -> float | None:
    """Ours by the peer whose figure is the least; None where either is missing."""
    ours = cells.get(OURS)
    peers = [v for name, v in cells.items() if name != OURS and isinstance(v, int | float)]
    if not isinstance(ours, int | float) or not peers or min(peers) == 0:
        return None
    return ours / min(peers)


def plot(result: Result, path: Path) -> None:
    """The largest gap, and first tokens by turn."""
    systems = [name for name in result.rows[0] if name not in ("case", "figure")]

    def figure(name: str) -> Row:
        return next((row for row in result.rows if row["figure"] == name), {})

    def value(row: Row, system: str) -> float | None:
        cell = row.get(system)
        return float(cell) if isinstance(cell, int | float) else None

    turns = range(1, peers_steady.TURNS + 1)
    gap = figure(GAP)
    draw(
        path,
        f"{OURS} and its peers, cases",
        [
            Panel(
                "A prompt of 6,000 tokens", "largest gap, ms", systems, {"": [value(gap, s) for s in systems]}
            ),
            Panel(
                "A conversation",
                "TTFT, ms",
                [f"turn {turn}" for turn in turns],
                {s: [value(figure(f"TTFT of turn {turn}, ms"), s) for turn in turns] for s in systems},
                lines=True,
            ),
        ],
    )
