"""Runs the benchmarks: `python -m benchmarks`."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from benchmarks import (
    admission,
    admission_callers,
    buffers,
    coalescing,
    messages,
    observability,
    overhead,
    peers_cases,
    peers_serving,
    per_message,
    pooling,
    serving,
    single,
    stall,
    stalled_memory,
)
from benchmarks.measure import Comparison
from benchmarks.peers_page import update_page
from benchmarks.plots import draw_comparisons
from benchmarks.report import Report, make_report, print_report, write_json
from benchmarks.result import Result, print_result

_RESULTS = Path(__file__).parent / "results"
_CASE_LIMIT_S = {"full": 20.0, "quick": 8.0}


class _Compare(Protocol):
    """Yields the comparisons of a benchmark as they are done."""

    def __call__(self, *, quick: bool, repetitions: int, limit_s: float) -> Iterator[Comparison]: ...


class _Run(Protocol):
    def __call__(self, *, quick: bool) -> Result: ...


class _RunRounds(Protocol):
    """rounds: None for the benchmark's own number."""

    def __call__(self, quick: bool, rounds: int | None, embedded: bool, /) -> Result: ...


_COMPARISONS: dict[str, tuple[_Compare, str, str, str]] = {
    "engine": (serving.run, "serving", "engine alone", "server"),
    "messages": (messages.run, "messages", "bare handler", "full servicer"),
}
_OTHERS: dict[str, tuple[_Run, Callable[[Result, Path], None]]] = {
    "stall": (stall.run, stall.plot),
    "stalled-memory": (stalled_memory.run, stalled_memory.plot),
    "buffers": (buffers.run, buffers.plot),
    "pooling": (pooling.run, pooling.plot),
    "coalescing": (coalescing.run, coalescing.plot),
    "overhead": (overhead.run, overhead.plot),
    "observability": (observability.run, observability.plot),
    "per-message": (per_message.run, per_message.plot),
    "admission": (admission.run, admission.plot),
    "callers": (admission_callers.run, admission_callers.plot),
    "single": (single.run, single.plot),
    "peers": (stall.run_peers, stall.plot),
}
_BESIDE_PEERS: dict[str, tuple[_RunRounds, Callable[[Result, Path], None]]] = {
    "peers-serving": (peers_serving.run, peers_serving.plot),
    "peers-cases": (peers_cases.run, peers_cases.plot),
}
# Peers need what `make bench-peers` builds.
_ALL = tuple(name for name in (*_COMPARISONS, *_OTHERS) if name != "peers")


def read_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Of the command line unless given. SystemExit for what does not go together."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run the benchmarks.")
    parser.add_argument("--quick", action="store_true", help="fewer cases and shorter runs")
    parser.add_argument(
        "--only", choices=(*_COMPARISONS, *_OTHERS, *_BESIDE_PEERS), nargs="+", help="some of the benchmarks"
    )
    parser.add_argument("--json", type=Path, metavar="DIRECTORY", help="where to write the results")
    parser.add_argument(
        "--repetitions",
        type=int,
        metavar="N",
        help="engine, messages: runs of each side (5, quick 3); peers-serving, peers-cases: rounds",
    )
    parser.add_argument("--embedded", action="store_true", help="peers-serving: the embedded model")
    arguments = parser.parse_args(given)
    if arguments.embedded and arguments.only != ["peers-serving"]:
        parser.error("--embedded goes with --only peers-serving")
    if arguments.repetitions is not None and arguments.repetitions < 1:
        parser.error("--repetitions must be at least 1")
    return arguments


def _told(case: Comparison) -> Comparison:
    """Say on standard error that a case is done: a full run takes minutes."""
    what = ", ".join(f"{name} {value}" for name, value in case.what.items())
    print(f"  {what}: {case.ratio:.2f}", file=sys.stderr, flush=True)
    return case


def main() -> None:
    arguments = read_arguments()
    quick: bool = arguments.quick
    repetitions: int = arguments.repetitions or (3 if quick else 5)
    limit_s = _CASE_LIMIT_S["quick" if quick else "full"]
    # A quick run does not replace the results of a full one, unless it is told where to write.
    directory: Path | None = arguments.json or (None if quick else _RESULTS)
    for name in arguments.only or _ALL:
        if name in _COMPARISONS:
            compare, title, reference, subject = _COMPARISONS[name]
            cases = compare(quick=quick, repetitions=repetitions, limit_s=limit_s)
            _show(make_report(title, reference, subject, [_told(case) for case in cases]), directory)
        else:
            if name in _BESIDE_PEERS:
                run_rounds, plot = _BESIDE_PEERS[name]
                result = run_rounds(quick, arguments.repetitions, arguments.embedded)
            else:
                run, plot = _OTHERS[name]
                result = run(quick=quick)
            if directory is not None:
                write_json(result, directory / f"{name}.json")
                plot(result, directory / f"{name}.png")
                if name in _BESIDE_PEERS and directory == _RESULTS:
                    update_page(directory)
                print(f"Written: {name}.json and {name}.png in {directory}")
            print_result(result)


def _show(report: Report, directory: Path | None) -> None:
    print_report(report)
    sys.stdout.flush()
    if directory is not None:
        name = report.benchmark
        write_json(report, directory / f"{name}.json")
        draw_comparisons(directory / f"{name}.png", report)
        print(f"Written: {name}.json and {name}.png in {directory}")


if __name__ == "__main__":
    main()
