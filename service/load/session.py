"""A run from the first call to the numbers on the screen."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from service.load.arrivals import arrivals
from service.load.attempt import Ending
from service.load.caller import ClientCaller
from service.load.connections import Connections
from service.load.options import ArrivalKind, LoadOptions
from service.load.report import as_dict, tables, warnings
from service.load.requests import SAMPLE, Requests, words_for
from service.load.run import LoadRun, LoadSnapshot
from service.load.tally import add_up

_COUNT_TIMEOUT_S = 10.0
_PROGRESS_INTERVAL_S = 0.25


class _Stopwatch:
    """Seconds since it was started."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() - self._began_s


async def run_session(options: LoadOptions, json_file: str | None) -> None:
    """Runs, prints and writes. When cancelled, does so with what there is, and raises CancelledError then."""
    names = list(options.tenants)
    async with Connections(options.target) as connections:
        with connections.borrow(names[0] if names else "") as client:
            # Says at once when there is no server, too.
            sample_tokens = await client.count_tokens(SAMPLE, model=options.model, timeout_s=_COUNT_TIMEOUT_S)
        requests = Requests(options.seed, options.tenants, words_for(options.prompt_tokens, sample_tokens))
        times = None if options.arrivals is ArrivalKind.CLOSED else arrivals(options)
        clock = _Stopwatch()
        run = LoadRun(options, requests, times, ClientCaller(connections, options, clock), clock)
        interrupted = False
        try:
            async with _progress(run, options):
                await run.run()
        except asyncio.CancelledError:
            interrupted = True
        opened = len(connections)
    window_s = min(options.duration_s, run.ended_s)
    tally = add_up(run.attempts, window_s=window_s, targets=options.targets, tenants=names)
    numbers = as_dict(tally, options, interrupted=interrupted, connections=opened)
    text = json.dumps(numbers, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if json_file == "-":
        print(text, end="", flush=True)
    else:
        if json_file is not None:
            await asyncio.to_thread(Path(json_file).write_text, text, encoding="utf-8")
        Console(highlight=False).print(tables(tally, options))
    for line in warnings(tally):
        print(f"penstock: {line}", file=sys.stderr)
    if interrupted:
        raise asyncio.CancelledError


@asynccontextmanager
async def _progress(run: LoadRun, options: LoadOptions) -> AsyncIterator[None]:
    """A bar on standard error while the body runs, where that is a terminal; else nothing."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield
        return
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as progress:
        bar = progress.add_task(progress_line(run.snapshot()), total=options.duration_s)

        async def follow() -> None:
            while True:
                now = run.snapshot()
                progress.update(
                    bar, completed=min(now.now_s, options.duration_s), description=progress_line(now)
                )
                progress.refresh()
                await asyncio.sleep(_PROGRESS_INTERVAL_S)

        following = asyncio.create_task(follow())
        try:
            yield
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


def progress_line(now: LoadSnapshot) -> str:
    """A run in one line."""
    trouble = sum(now.endings[ending] for ending in (Ending.FAILED, Ending.LOST, Ending.NOT_SENT))
    parts = [f"{now.asked} asked", f"{now.open_streams} open", f"{now.endings[Ending.ANSWERED]} answered"]
    parts += [f"{now.endings[Ending.REFUSED]} refused"] if now.endings[Ending.REFUSED] else []
    parts += [f"{now.waiting} to try again"] if now.waiting else []
    parts += [f"{trouble} failed"] if trouble else []
    return ", ".join(parts)
