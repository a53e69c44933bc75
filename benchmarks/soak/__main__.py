"""A mixed load for a long time, with disturbances: does anything leak? `python -m benchmarks.soak`."""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.chaos import plan
from benchmarks.chaos.__main__ import as_result, violations
from benchmarks.chaos.run import Found, Size, run
from benchmarks.report import write_json
from benchmarks.result import Cell, Result, Row, make_result, print_result
from benchmarks.soak.picture import draw
from benchmarks.soak.samples import Sample, Sampler, every, quantile
from benchmarks.soak.slopes import Slope, slope

ALLOWED = 0.005
"""Share of the streams that may end by a fault of the server."""
LONG_S = 600.0
MOST_GROWTH, MOST_GROWTH_SHORT = 0.01, 0.02
"""Growth of the server's memory, as a share, that is let pass though it is beyond the noise: over a run of
LONG_S or more, and over a shorter one, which ends while memory still finds its size."""

_EVENTS_PER_MINUTE = 30
_WEIGHTS = {
    plan.KILL: 1,
    plan.STALL: 7,
    plan.CANCEL: 7,
    plan.DISCONNECT: 7,
    plan.LEAVE: 5,
    plan.BURST: 3,
}
_REQUESTS, _MAX_TOKENS = 28, 120
# Memory settles first: caches fill, and Python's allocator finds its size.
_WARM_UP_SHARE = 0.3
_TICK_S = 0.5


def read_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Of the command line unless given. SystemExit for values that make no sense."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long (20)")
    parser.add_argument("--seed", type=int, default=1, help="of events and requests (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the report")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where to write the picture (PNG)")
    arguments = parser.parse_args(given)
    if arguments.minutes < 0.5:
        parser.error("--minutes must be at least 0.5")
    return arguments


def minute_rows(samples: Sequence[Sample]) -> list[Row]:
    """The run minute by minute."""
    rows: list[Row] = []
    looks = every(samples, 60.0)
    for a, b in zip(looks, [*looks[1:], samples[-1]], strict=True):
        if b.at_s <= a.at_s:
            continue
        rows.append(
            {
                "minute": round(a.at_s / 60),
                "server MB": b.rss_bytes / 1e6,
                "workers MB": b.workers_rss_bytes / 1e6,
                "blocks": b.blocks,
                "files": b.files,
                "tasks": b.tasks,
                "active": b.active,
                "ended": b.ended - a.ended,
                "server faults": b.server_faults - a.server_faults,
                "tokens/s": (b.tokens - a.tokens) / (b.at_s - a.at_s),
                "TTFT p50 <=, s": quantile(a.ttft, b.ttft, 0.5),
                "TTFT p95 <=, s": quantile(a.ttft, b.ttft, 0.95),
            }
        )
    return rows


def slopes(samples: Sequence[Sample]) -> dict[str, Slope | None]:
    """Of what may leak, after the warm-up."""
    late = samples[int(len(samples) * _WARM_UP_SHARE) :]
    times_s = [each.at_s for each in late]
    return {
        "server MB": slope(times_s, [each.rss_bytes / 1e6 for each in late]),
        "blocks": slope(times_s, [float(each.blocks) for each in late]),
        "files": slope(times_s, [float(each.files) for each in late]),
        "tasks": slope(times_s, [float(each.tasks) for each in late]),
        "active": slope(times_s, [float(each.active) for each in late]),
    }


def leaks(samples: Sequence[Sample]) -> list[str]:
    """What grew, what is left, and an error budget used up. The first and the last sample are at rest."""
    if len(samples) < 2:
        return [f"{len(samples)} samples, too few to say anything"]
    first, last = samples[0], samples[-1]
    wrong = []
    if last.ended <= first.ended:
        wrong.append("no stream ended, so nothing was tried")
    if last.server_faults > ALLOWED * last.ended:
        wrong.append(f"{last.server_faults} of {last.ended} streams ended by a fault of the server")
    for name in ("active", "tasks", "files"):
        before, after = getattr(first, name), getattr(last, name)
        if after > before:
            wrong.append(f"{name}: {after} at the end, {before} at the beginning")
    grown = slopes(samples)
    most = MOST_GROWTH if last.at_s - first.at_s >= LONG_S else MOST_GROWTH_SHORT
    for name in ("server MB", "blocks"):
        growth = grown[name]
        if growth is not None and not growth.within_noise and growth.share > most:
            wrong.append(
                f"the server's memory, {name}: grew by {growth.per_minute:.2f} a minute "
                f"(standard error {growth.error:.2f}), {growth.share:.1%} over the run"
            )
    return wrong


def report(found: Found, size: Size, samples: Sequence[Sample]) -> Result:
    told = as_result(found, size)
    ratios: dict[str, Cell] = {str(row["what"]): row["count"] for row in told.rows} | told.ratios
    last = samples[-1]
    ratios["ended by a fault of the server, share"] = last.server_faults / max(1, last.ended)
    ratios["scrape, longest, s"] = max(each.scrape_s for each in samples)
    for name, each in slopes(samples).items():
        ratios[f"slope of {name}, per minute"] = each.per_minute if each is not None else None
        ratios[f"standard error of it, {name}"] = each.error if each is not None else None
    return make_result("soak", minute_rows(samples), ratios)


def main() -> int:
    arguments = read_arguments()
    duration_s = arguments.minutes * 60
    events = round(arguments.minutes * _EVENTS_PER_MINUTE)
    size = Size(duration_s, events, _REQUESTS, _MAX_TOKENS, arguments.seed, _WEIGHTS)
    sampler = Sampler()
    with (
        tempfile.TemporaryDirectory() as directory,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        found = runner.run(_run(size, Path(directory), sampler))
    wrong = [*violations(found), *leaks(sampler.samples)]
    if sampler.samples:
        result = report(found, size, sampler.samples)
        print_result(result)
        if arguments.json is not None:
            write_json(result, arguments.json)
        if arguments.plot is not None:
            title = f"Soak: {arguments.minutes:g} minutes, seed {arguments.seed}"
            draw(arguments.plot, sampler.samples, allowed=ALLOWED, title=title)
    for each in wrong:
        print(f"VIOLATION {each}")
    print("FAILED" if wrong else "PASSED: nothing was lost, repeated or leaked")
    return 1 if wrong else 0


async def _run(size: Size, directory: Path, sampler: Sampler) -> Found:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("soak", total=size.duration_s, now="")
        ticking = asyncio.create_task(_tick(progress, bar, sampler))
        try:
            return await run(size, directory, tell=lambda _: None, watch=sampler.watching)
        finally:
            ticking.cancel()


async def _tick(progress: Progress, bar: TaskID, sampler: Sampler) -> None:
    while True:
        await asyncio.sleep(_TICK_S)
        if sampler.samples:
            now = sampler.samples[-1]
            text = f"{now.active} active, {now.ended} ended, {now.rss_bytes / 1e6:.0f} MB"
            progress.update(bar, completed=now.at_s, now=text)


if __name__ == "__main__":
    sys.exit(main())
