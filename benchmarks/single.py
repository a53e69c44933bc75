"""What a draft model and a quantised KV cache gain and cost for one stream, beside the plain generator."""

import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.plots import Panel, draw
from benchmarks.processes import Child
from benchmarks.result import Result, Row, make_result, number, ratios_of
from benchmarks.single_engine import RANDOM, Answer, Stream
from config import load
from engine.mlx_worker.cpu_blas import AUTO
from engine.model_source import EMBEDDED
from service.assembly_options import worker_options

_PLAIN = "plain"
_VARIANTS: dict[str, dict[str, Any]] = {
    _PLAIN: {},
    # Every proposal is right, at the price of running the model twice: the most that can be accepted.
    "the model as its draft": {"draft_model": EMBEDDED},
    # Hardly a proposal is right: the most that can be lost.
    "a random draft": {"draft_model": RANDOM},
    "KV of 8 bits": {"kv_bits": 8, "kv_group_size": 32},
    "KV of 4 bits": {"kv_bits": 4, "kv_group_size": 32},
}
_TEMPERATURES = (0.0, 1.0)


def run(*, quick: bool) -> Result:
    """Every variant in turn, again and again, so that a slow drift of the machine meets all alike."""
    rounds, tokens = (2, 200) if quick else (7, 1000)
    answers: dict[tuple[str, float], list[Answer]] = {(n, t): [] for n in _VARIANTS for t in _TEMPERATURES}
    with ExitStack() as stack:
        children = {name: stack.enter_context(_child(changes)) for name, changes in _VARIANTS.items()}
        for child in children.values():
            child.read_line()
        for round_number in range(rounds + 1):
            for name, child in children.items():
                for temperature in _TEMPERATURES:
                    line = msgspec.json.encode(Stream(tokens, temperature)).decode()
                    answer = msgspec.json.decode(child.ask(line), type=Answer)
                    if round_number:  # The first round warms up.
                        answers[name, temperature].append(answer)
    rows = []
    for (name, temperature), given in answers.items():
        rows.append(_row(name, temperature, given, answers[_PLAIN, temperature]))
        print(f"  {rows[-1]}", file=sys.stderr, flush=True)
    ratios: Row = {
        f"{row['generator']}, temperature {row['temperature']:g}: tokens/s by plain": row["ratio"]
        for row in rows
        if row["generator"] != _PLAIN
    }
    return make_result("single", rows, ratios)


def _child(changes: dict[str, Any]) -> Child:
    flags = {
        "engine": {
            "model": EMBEDDED,
            "cpu_blas": AUTO,
            "max_batch_rows": 1,
            "prefill_batch_rows": 1,
            **changes,
        }
    }
    options = worker_options(load(None, None, {}, flags).settings, EMBEDDED)
    return Child("benchmarks.single_engine", msgspec.json.encode(options).decode())


def _row(name: str, temperature: float, answers: list[Answer], plain: list[Answer]) -> Row:
    rates = [answer.tokens / answer.elapsed_s for answer in answers]
    ratios = ratios_of([answer.tokens / answer.elapsed_s for answer in plain], rates)
    return {
        "generator": name,
        "temperature": temperature,
        "tokens/s": statistics.median(rates),
        "ratio": ratios.median,
        "low": ratios.low,
        "high": ratios.high,
        "tokens/step": statistics.median(answer.tokens / answer.steps for answer in answers),
        "KV, kB": statistics.median(answer.kv_bytes for answer in answers) / 1e3,
        "runs": len(answers),
    }


def plot(result: Result, path: Path) -> None:
    greedy = [row for row in result.rows if row["temperature"] == 0]
    labels = [str(row["generator"]) for row in greedy]
    draw(
        path,
        "One stream, greedy",
        [
            Panel("Throughput", "tokens/s", labels, {"": [number(row, "tokens/s") for row in greedy]}),
            Panel("KV cache at the end", "kB", labels, {"": [number(row, "KV, kB") for row in greedy]}),
        ],
    )
