"""Disturbs a server with two workers and checks that nothing is lost: `python -m benchmarks.chaos`."""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from benchmarks.chaos.callers import VIOLATION
from benchmarks.chaos.plan import WEIGHTS
from benchmarks.chaos.run import LOG, Found, Size, run
from benchmarks.report import write_json
from benchmarks.result import Cell, Result, Row, make_result, print_result

_EVENTS_PER_MINUTE = 40


def read_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Of the command line unless given. SystemExit for values that make no sense."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long events happen (5)")
    parser.add_argument("--seed", type=int, default=1, help="of events and requests (1)")
    parser.add_argument("--events", type=int, help=f"how many (default {_EVENTS_PER_MINUTE} a minute)")
    parser.add_argument("--requests", type=int, default=24, help="different requests (24)")
    parser.add_argument("--max-tokens", type=int, default=120, help="output of a request at most (120)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the result")
    arguments = parser.parse_args(given)
    if arguments.minutes <= 0 or arguments.requests < 1 or arguments.max_tokens < 8:
        parser.error("--minutes must be above 0, --requests at least 1, --max-tokens at least 8")
    return arguments


def as_result(found: Found, size: Size) -> Result:
    """A row for each kind of event and each way that a stream ended; what it comes to below."""
    rows: list[Row] = [{"what": f"event: {kind}", "count": count} for kind, count in found.events.items()]
    rows += [{"what": f"did not happen: {kind}", "count": n} for kind, n in found.skipped.items()]
    rows += [
        {"what": f"stream {ending}", "count": count}
        for ending, count in Counter(each.ending for each in found.ended).items()
    ]
    refusals = Counter(reason for each in found.ended for reason in each.refusals)
    rows += [{"what": f"refused and asked again: {reason}", "count": n} for reason, n in refusals.items()]
    gaps = [each.longest_gap_s for each in found.ended]
    ratios: dict[str, Cell] = {
        "date": datetime.now(UTC).date().isoformat(),
        "seed": size.seed,
        "events": found.events.total(),
        "seconds": size.duration_s,
        "streams": len(found.ended),
        "violations": len(violations(found)),
        "failovers": found.failovers,
        "streams told of one": sum(each.failovers > 0 for each in found.ended),
        "restarts of the workers that run now": found.restarts,
        "longest pause of a stream, s": max(gaps, default=0.0),
        "pool whole and empty after, s": found.settled_s,
        "exit status": found.exit_status,
    }
    if found.before is not None and found.after is not None:
        ratios["server's memory before, MB"] = found.before.rss_bytes / 1e6
        ratios["server's memory after, MB"] = found.after.rss_bytes / 1e6
        ratios["open files before"] = found.before.files
        ratios["open files after"] = found.after.files
    return make_result("chaos", rows, ratios)


def violations(found: Found) -> list[str]:
    """All that must not have happened."""
    broken = [f"{each.request}: {each.problem}" for each in found.ended if each.ending == VIOLATION]
    return [*found.problems, *broken]


def main() -> int:
    arguments = read_arguments()
    duration_s = arguments.minutes * 60
    events = arguments.events or round(arguments.minutes * _EVENTS_PER_MINUTE)
    size = Size(duration_s, events, arguments.requests, arguments.max_tokens, arguments.seed, WEIGHTS)
    with tempfile.TemporaryDirectory() as directory:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(run(size, Path(directory)))
        wrong = violations(found)
        if wrong:
            log = Path(directory, LOG).read_text(encoding="utf-8", errors="replace")
            print("The end of the server's log:", log[-3000:], sep="\n", file=sys.stderr)
    result = as_result(found, size)
    print_result(result)
    if arguments.json is not None:
        write_json(result, arguments.json)
    for each in wrong:
        print(f"VIOLATION {each}")
    print("FAILED" if wrong else "PASSED: nothing was lost, repeated or leaked")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
