"""Our server beside its peers: tokens/s, first token, pace, CPU, memory, refusals."""

import asyncio
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import msgspec

from benchmarks.jobs import GREEDY, Job, Sampling
from benchmarks.measure import percentile
from benchmarks.peers_load import DONE, FAILED, REFUSED, Stream, mixed_samplings, read_all
from benchmarks.plots import Panel, draw
from benchmarks.processes import cpu_s, forget_peak_rss, machine_busy_s, peak_rss_bytes
from benchmarks.result import Cell, Result, Row, make_result
from benchmarks.serving import prompts
from benchmarks.systems import System, installed_peers, peer, penstock, random_model
from benchmarks.wires import WIRES
from engine.model_source import EMBEDDED, resolve

OURS = "Penstock"
MOST_STREAMS = 75
MIXES = ("greedy", "mixed")
LOADS = ("burst", "loop")
AS_SHIPPED = " (32)"
OPTIONS = {
    "STREAM_REGISTRY__MAX_ACTIVE_STREAMS": "96",
    "STREAM_REGISTRY__ADAPTIVE_LIMITS__MAX_STREAMS": "128",
    "STREAM_REGISTRY__ADAPTIVE_LIMITS__MIN_STREAMS": "96",
    "ENGINE__MAX_BATCH_ROWS": "96",
}
"""What a user sets for 75 streams at a time; all else is as it comes."""
_PEER_ROWS = 96
_WARM_UP_TOKENS = 16
_GOALS = {8: 1.1, 32: 1.3, 75: 1.3}
_FIRST_TOKEN_GOAL = 0.5


class Plan(msgspec.Struct, frozen=True):
    """tokens: of each stream. turns: streams that each caller of a loop has, one after the other.

    limit_s: when to begin no more rounds.
    """

    streams: tuple[int, ...]
    tokens: int
    turns: int
    rounds: int
    limit_s: float


class Sample(msgspec.Struct, frozen=True):
    """One run of one case at one system."""

    tokens_per_s: float
    first_s: list[float]
    gaps_s: list[float]
    tokens: int
    messages: int
    cpu_s: float | None
    peak_rss_bytes: int
    refused: int
    failed: int
    elsewhere_cores: float | None


class Case(msgspec.Struct, frozen=True):
    """burst: each stream once, all at the same time. loop: each caller goes on with its next stream."""

    mix: str
    load: str
    streams: int


def run(quick: bool, rounds: int | None, embedded: bool) -> Result:
    """rounds: None for as many as there is time for. embedded: the model that comes with Penstock."""
    plan = Plan((8, 75), 48, 2, 1, 150.0) if quick else Plan((1, 8, 32, 75), 128, 3, 5, 720.0)
    if rounds is not None:
        plan = msgspec.structs.replace(plan, rounds=rounds, limit_s=float("inf"))
    with ExitStack() as stack:
        model = resolve(EMBEDDED)[0] if embedded else stack.enter_context(random_model())
        systems = [stack.enter_context(system) for system in _systems(model)]
        runner = stack.enter_context(asyncio.Runner())
        samples = _measure(runner, systems, plan, f"{model}/tokenizer.json")
    return summarise(samples, "embedded" if embedded else "random 5.3 M")


def _systems(model: str) -> Iterator[AbstractContextManager[System]]:
    """All are kept running, so that they take turns. The peers also as they are shipped, for 75 streams."""
    yield penstock(model, OPTIONS)
    for wire in installed_peers():
        yield peer(wire, model, _PEER_ROWS)
        yield _renamed(wire, model)


@contextmanager
def _renamed(wire: str, model: str) -> Iterator[System]:
    with peer(wire, model) as system:
        yield msgspec.structs.replace(system, name=system.name + AS_SHIPPED)


def _measure(
    runner: asyncio.Runner, systems: list[System], plan: Plan, tokenizer: str
) -> dict[Case, dict[str, list[Sample]]]:
    """Rounds of all cases; the systems take turns in each, in an order that moves on from round to round."""
    cases = [Case(*each) for each in product(MIXES, LOADS, plan.streams)]
    samples: dict[Case, dict[str, list[Sample]]] = {case: {} for case in cases}
    for system in systems:
        # Every value that will be used: MLX compiles for each, which takes seconds.
        for case in (Case("greedy", "burst", MOST_STREAMS), Case("mixed", "burst", MOST_STREAMS)):
            job = Job(case.streams, [], _WARM_UP_TOKENS, tokenizer=tokenizer)
            runner.run(_run(system, prompts(case.streams, seed=-1), job, _samplings(case, system)))
    began_s = time.monotonic()
    for number in range(plan.rounds):
        if number and time.monotonic() - began_s > plan.limit_s * number / (number + 1):
            break
        turn = number % len(systems)
        for index, case in enumerate(cases):
            for system in systems[turn:] + systems[:turn]:
                if AS_SHIPPED in system.name and case.streams <= 32:
                    continue
                turns = plan.turns if case.load == "loop" else 1
                # New prompts each time, or caches of earlier ones would answer.
                texts = prompts(case.streams * turns, seed=number * len(cases) + index)
                job = Job(case.streams, [], plan.tokens, tokenizer=tokenizer)
                sample = runner.run(_run(system, texts, job, _samplings(case, system)))
                samples[case].setdefault(system.name, []).append(sample)
            told = ", ".join(f"{name} {each[-1].tokens_per_s:.0f}" for name, each in samples[case].items())
            print(
                f"  round {number + 1}, {case.mix} {case.load} {case.streams}: {told}",
                file=sys.stderr,
                flush=True,
            )
    return samples


def _samplings(case: Case, system: System) -> Sequence[Sampling]:
    """mlx_lm.server gets no seeds: it decodes a seeded stream alone, which is a case of its own."""
    if case.mix == "greedy":
        return [GREEDY]
    return mixed_samplings(case.streams, seeds=system.wire != "mlx-lm")


async def _run(system: System, texts: list[str], job: Job, samplings: Sequence[Sampling]) -> Sample:
    pid = system.server.pid
    wire = await WIRES[system.wire](system.target)
    try:
        forget_peak_rss(pid)
        cpu, busy, own, began_s = cpu_s([pid]), machine_busy_s(), time.process_time(), time.perf_counter()
        streams = await read_all(wire, texts, job, samplings)
        took_s = time.perf_counter() - began_s
        used = _difference(cpu_s([pid]), cpu)
        all_used = _difference(machine_busy_s(), busy)
        own = time.process_time() - own
    finally:
        await wire.close()
    elsewhere = None if used is None or all_used is None else max(0.0, all_used - used - own) / took_s
    return make_sample(streams, used, peak_rss_bytes(pid), elsewhere)


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def make_sample(streams: Sequence[Stream], cpu: float | None, rss: int, elsewhere: float | None) -> Sample:
    """tokens_per_s: of the streams that were answered, from the first start to the last end."""
    answered = [stream for stream in streams if stream.ending == DONE]
    tokens = sum(stream.tokens for stream in answered)
    took_s = max(stream.ended_s for stream in streams) - min(stream.began_s for stream in streams)
    return Sample(
        tokens_per_s=tokens / took_s,
        first_s=[stream.first_s for stream in answered if stream.first_s is not None],
        gaps_s=[gap for stream in answered for gap in stream.gaps_s()],
        tokens=tokens,
        messages=sum(len(stream.arrivals_s) for stream in answered),
        cpu_s=cpu,
        peak_rss_bytes=rss,
        refused=sum(stream.ending == REFUSED for stream in streams),
        failed=sum(stream.ending == FAILED for stream in streams),
        elsewhere_cores=elsewhere,
    )


def summarise(samples: dict[Case, dict[str, list[Sample]]], model: str) -> Result:
    rows: list[Row] = []
    ratios: Row = {"model": model, "date": datetime.now(UTC).date().isoformat()}
    for case, by_system in samples.items():
        for name, runs in by_system.items():
            rows.append(
                {"mix": case.mix, "load": case.load, "streams": case.streams, "system": name, **_row(runs)}
            )
        ratios |= _ratios(case, by_system)
    return make_result("peers-serving", rows, ratios)


def _row(runs: Sequence[Sample]) -> Row:
    first = sorted(seconds for run in runs for seconds in run.first_s)
    gaps = sorted(seconds for run in runs for seconds in run.gaps_s)
    cpu = [run.cpu_s / run.tokens * 1e3 for run in runs if run.cpu_s is not None and run.tokens]
    elsewhere = [run.elsewhere_cores for run in runs if run.elsewhere_cores is not None]
    return {
        "tokens/s": statistics.median(run.tokens_per_s for run in runs),
        "TTFT p50 ms": _percentile_ms(first, 0.5),
        "TTFT p95 ms": _percentile_ms(first, 0.95),
        "between p95 ms": _percentile_ms(gaps, 0.95),
        "CPU s/1k": statistics.median(cpu) if cpu else None,
        "RSS MB": max(run.peak_rss_bytes for run in runs) / 1e6,
        "refused": sum(run.refused for run in runs),
        "failed": sum(run.failed for run in runs),
        "tokens/message": sum(r.tokens for r in runs) / max(1, sum(r.messages for r in runs)),
        "rounds": len(runs),
        "others, cores": statistics.median(elsewhere) if elsewhere else None,
    }


def _percentile_ms(ascending: Sequence[float], fraction: float) -> float | None:
    return percentile(ascending, fraction) * 1e3 if ascending else None


def _ratios(case: Case, by_system: dict[str, list[Sample]]) -> Row:
    """Ours by the peer that is better in the figure, with and without its 32 rows."""
    peers = [runs for name, runs in by_system.items() if name != OURS]
    if not peers:
        return {}
    at = f"{case.mix} {case.load}, {case.streams} streams"
    goal = f" (goal {_GOALS[case.streams]})" if case.mix == "mixed" and case.streams in _GOALS else ""
    each = [
        ours.tokens_per_s / max(peer.tokens_per_s for peer in others)
        for ours, *others in zip(by_system[OURS], *peers, strict=True)
    ]
    ratios: Row = {f"{at}: tokens/s by the better peer{goal}": statistics.median(each)}
    ours_ms = _row(by_system[OURS])["TTFT p95 ms"]
    others_ms = [value for runs in peers if isinstance(value := _row(runs)["TTFT p95 ms"], float)]
    if isinstance(ours_ms, float) and others_ms:
        goal = f" (goal at most {_FIRST_TOKEN_GOAL})" if case.streams == MOST_STREAMS else ""
        ratios[f"{at}: TTFT p95 by the better peer{goal}"] = ours_ms / min(others_ms)
    return ratios


def plot(result: Result, path: Path) -> None:
    """The loop with mixed parameters, and first tokens of the bursts, over the number of streams."""
    names = list(dict.fromkeys(str(row["system"]) for row in result.rows))
    streams = sorted({int(str(row["streams"])) for row in result.rows})

    def series(mix: str, load: str, column: str) -> dict[str, list[float | None]]:
        cells: dict[tuple[Cell, Cell], Cell] = {
            (row["system"], row["streams"]): row[column]
            for row in result.rows
            if (row["mix"], row["load"]) == (mix, load)
        }
        return {name: [_as_float(cells.get((name, count))) for count in streams] for name in names}

    labels = [str(count) for count in streams]
    draw(
        path,
        f"{OURS} and its peers, by streams",
        [
            Panel("Loop, mixed sampling", "tokens/s", labels, series("mixed", "loop", "tokens/s")),
            Panel("Loop, greedy", "tokens/s", labels, series("greedy", "loop", "tokens/s")),
            Panel("Burst, mixed: TTFT p95", "ms", labels, series("mixed", "burst", "TTFT p95 ms")),
            Panel("Loop, mixed: CPU", "s per 1,000 tokens", labels, series("mixed", "loop", "CPU s/1k")),
        ],
    )


def _as_float(cell: Cell) -> float | None:
    return float(cell) if isinstance(cell, int | float) else None
