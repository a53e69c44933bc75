"""Runs the benchmarks: `python -m benchmarks`."""

import argparse
import sys
from pathlib import Path

from benchmarks import messages, serving
from benchmarks.measure import Comparison
from benchmarks.report import Report, make_report, print_report, write_json

_RESULTS = Path(__file__).parent / "results"
_CASE_LIMIT_S = {"full": 20.0, "quick": 8.0}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run the benchmarks.")
    parser.add_argument("--quick", action="store_true", help="fewer cases and shorter runs, below 90 s")
    parser.add_argument("--only", choices=("engine", "messages"), help="one of the benchmarks")
    parser.add_argument("--json", type=Path, metavar="DIRECTORY", help="where to write the results as JSON")
    parser.add_argument("--repetitions", type=int, metavar="N", help="runs of each side (default 5, quick 3)")
    return parser.parse_args()


def _told(case: Comparison) -> Comparison:
    """Say on standard error that a case is done: a full run takes minutes."""
    what = ", ".join(f"{name} {value}" for name, value in case.what.items())
    print(f"  {what}: {case.ratio:.2f}", file=sys.stderr, flush=True)
    return case


def main() -> None:
    arguments = _arguments()
    quick: bool = arguments.quick
    repetitions: int = arguments.repetitions or (3 if quick else 5)
    limit_s = _CASE_LIMIT_S["quick" if quick else "full"]
    # A quick run does not replace the results of a full one, unless it is told where to write.
    directory: Path | None = arguments.json or (None if quick else _RESULTS)
    if arguments.only != "messages":
        cases = serving.run(quick=quick, repetitions=repetitions, limit_s=limit_s)
        report = make_report("serving", "engine alone", "server", [_told(case) for case in cases])
        _show(report, directory)
    if arguments.only != "engine":
        cases = messages.run(quick=quick, repetitions=repetitions, limit_s=limit_s)
        report = make_report("messages", "bare handler", "full servicer", [_told(case) for case in cases])
        _show(report, directory)


def _show(report: Report, directory: Path | None) -> None:
    print_report(report)
    sys.stdout.flush()
    if directory is not None:
        write_json(report, directory / f"{report.benchmark}.json")
        print(f"Written: {report.benchmark}.json in {directory}")


if __name__ == "__main__":
    main()
