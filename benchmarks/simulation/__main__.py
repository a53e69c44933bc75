"""Runs the simulation: `python -m benchmarks.simulation`."""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.report import write_json
from benchmarks.result import print_result
from benchmarks.simulation.plots import plot
from benchmarks.simulation.report import Verdicts, as_result, judge, print_summary
from benchmarks.simulation.scenarios import SCENARIOS
from benchmarks.simulation.setups import HISTORIC, STRATEGIES
from benchmarks.simulation.study import Study, study

_RESULTS = Path(__file__).parent.parent / "results" / "simulation"
_PROCESSES = 2
_SEEDS = (1, 2, 3)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulation", description="Study admission in virtual time."
    )
    parser.add_argument("--only", choices=tuple(SCENARIOS), action="append", help="one of the scenarios")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES)
    parser.add_argument("--default", choices=STRATEGIES, default="pid", help="whose gates are shown")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--json", type=Path, metavar="DIRECTORY", help="where to write the results")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    seeds = _SEEDS[:1] if arguments.quick else _SEEDS
    # A quick run does not replace the results of a full one, unless it is told where to write.
    directory: Path | None = arguments.json or (None if arguments.quick else _RESULTS)
    results: dict[str, tuple[Study, Verdicts]] = {}
    with ProcessPoolExecutor(_PROCESSES) as pool:
        for name in arguments.only or SCENARIOS:
            done = study(SCENARIOS[name], (*arguments.strategies, *HISTORIC), seeds, pool)
            judged = judge(done)
            results[name] = done, judged
            result = as_result(done, judged, arguments.default)
            print_result(result)
            sys.stdout.flush()
            if directory is not None:
                write_json(result, directory / f"{name}.json")
                plot(done, directory / f"{name}.png")
    print_summary(results)


if __name__ == "__main__":
    main()
