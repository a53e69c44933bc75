"""What admission costs under the limit: the server with it and without; and the governor alone."""

import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc

from benchmarks.jobs import Job
from benchmarks.measure import Sample, Side, percentile
from benchmarks.plots import Panel, draw
from benchmarks.processes import Child
from benchmarks.result import Ratios, Result, Row, make_result, number, ratios_of
from benchmarks.serving import prompts
from benchmarks.systems import wait_until_serving
from config import load
from flowcontrol.admission.ask import Ask, Outcome, Refusal, ServiceClass
from flowcontrol.admission.governor import Governor
from flowcontrol.admission.options import GovernorOptions
from flowcontrol.admission.ticket import Ticket, TicketState
from flowcontrol.limits.contract import StrategyName
from penstock.v1 import status_pb2, status_pb2_grpc
from service.assembly import LISTENING
from service.assembly_options import governor_options

GOAL = 0.99
MAX_TOKENS = 32
# More than any case has, for both: nobody waits, and without a queue a stream that follows an ended one
# is never refused.
_MAX_STREAMS = 48
# Prompts that each stream has answered, one after the other, in a run.
_ROUNDS = {1: 2, 8: 1, 32: 1}
_CASE_S = 75.0
_QUICK_CASE_S = 5.0
_GOVERNOR_REQUESTS = 4_000
_GOVERNOR_RUNS = 5
_LIMIT = 32

Status = Callable[[], status_pb2.Status]


def run(*, quick: bool) -> Result:
    """Pairs of runs with admission on and off for each number of streams, then the governor alone."""
    rows: list[Row] = []
    ratios: Row = {}
    with _both() as (off, on, status):
        for streams in (1, 32) if quick else _ROUNDS:
            row = _case(off, on, status, streams, _QUICK_CASE_S if quick else _CASE_S)
            print(f"  {row}", file=sys.stderr, flush=True)
            rows.append(row)
            ratios[f"tokens/s, {streams} streams, on / off (goal {GOAL})"] = row["tokens/s ratio"]
            ratios[f"TTFT p50, {streams} streams, on / off"] = row["TTFT p50 ratio"]
    for what, us in _governor_us(_GOVERNOR_REQUESTS // (4 if quick else 1)).items():
        ratios[f"governor alone, CPU us per request, {what}"] = us
    return make_result("admission", rows, ratios)


@contextmanager
def _both() -> Iterator[tuple[Side, Side, Status]]:
    """The server without and with admission, each with a client, used once; and the status of the latter."""
    with ExitStack() as stack:
        client = stack.enter_context(Child("benchmarks.load_client"))
        client.read_line()
        sides: list[Side] = []
        target = ""
        for enabled in ("false", "true"):
            environ = {
                "PENSTOCK_SERVER__PORT": "0",
                "PENSTOCK_TELEMETRY__PROMETHEUS_PORT": "0",
                "PENSTOCK_ADMISSION__ENABLED": enabled,
                "PENSTOCK_STREAM_REGISTRY__MAX_ACTIVE_STREAMS": str(_MAX_STREAMS),
                "PENSTOCK_LOGGING__LEVEL": "error",
            }
            server = stack.enter_context(Child("service", "serve", environ=environ))
            target = server.read_line().removeprefix(LISTENING)
            wait_until_serving(target)
            sides.append(Side(client, server, target))
        channel = stack.enter_context(grpc.insecure_channel(target))
        stub: Any = status_pb2_grpc.StatusServiceStub(channel)
        for side in sides:
            side.run(Job(8, prompts(8), MAX_TOKENS))
        off, on = sides
        yield off, on, lambda: stub.GetStatus(status_pb2.GetStatusRequest()).status


def _case(off: Side, on: Side, status: Status, streams: int, limit_s: float) -> Row:
    """Pairs until the time is up; every second one is run the other way round."""
    job = Job(streams, prompts(streams * _ROUNDS[streams]), MAX_TOKENS)
    without: list[Sample] = []
    within: list[Sample] = []
    limits: list[int] = []
    began_s = time.monotonic()
    while not without or time.monotonic() - began_s < limit_s:
        turned = len(without) % 2 == 1
        for side, samples in ((on, within), (off, without)) if turned else ((off, without), (on, within)):
            samples.append(side.run(job))
        limits.append(status().admission.limits.limit)
    refused = sum(status().admission.refused.values())
    if refused:
        raise RuntimeError(f"{refused} requests were refused: the limit was reached")
    return {
        "streams": streams,
        "tokens/s off": statistics.median(sample.tokens_per_s for sample in without),
        "tokens/s on": statistics.median(sample.tokens_per_s for sample in within),
        **_ratio("tokens/s", without, within, lambda sample: sample.tokens_per_s),
        "TTFT p50 ms off": _ttft_ms(without, 0.5),
        "TTFT p50 ms on": _ttft_ms(within, 0.5),
        **_ratio("TTFT p50", without, within, lambda sample: _ttft_ms([sample], 0.5)),
        "TTFT p95 ms off": _ttft_ms(without, 0.95),
        "TTFT p95 ms on": _ttft_ms(within, 0.95),
        **_ratio("CPU/token", without, within, _cpu_per_token),
        "pairs": len(without),
        "least limit": min(limits),
        "others, cores": _others(without + within),
    }


def _ratio(name: str, off: list[Sample], on: list[Sample], value: Callable[[Sample], float | None]) -> Row:
    """On by off in neighbouring runs; empty where the system does not tell."""
    pairs = [(a, b) for a, b in zip(map(value, off), map(value, on), strict=True) if a and b]
    of: Ratios | None = ratios_of([a for a, _ in pairs], [b for _, b in pairs]) if pairs else None
    return {
        f"{name} ratio": of.median if of else None,
        f"{name} low": of.low if of else None,
        f"{name} high": of.high if of else None,
    }


def _ttft_ms(samples: list[Sample], fraction: float) -> float:
    return percentile(sorted(s for sample in samples for s in sample.outcome.first_token_s), fraction) * 1e3


def _cpu_per_token(sample: Sample) -> float | None:
    return None if sample.measured_cpu_s is None else sample.measured_cpu_s / sample.outcome.tokens


def _others(samples: list[Sample]) -> float | None:
    known = [sample.elsewhere_cores for sample in samples if sample.elsewhere_cores is not None]
    return statistics.median(known) if known else None


def _governor_us(requests: int) -> Row:
    """CPU microseconds of all that the governor does for one request, with a limit that stays at 32."""
    options = governor_options(load(None, None, {}, {}).settings)
    limits = replace(options.limits, strategy=StrategyName.FIXED, min_streams=_LIMIT, max_streams=_LIMIT)
    options = replace(options, initial_streams=_LIMIT, limits=limits)
    return {
        "1 in flight": _admitted_us(options, 1, requests),
        f"{_LIMIT - 1} in flight": _admitted_us(options, _LIMIT - 1, requests),
        f"{_LIMIT} in flight, 200 of ten tenants waiting": _admitted_us(options, _LIMIT + 200, requests),
        "refused, as many waiting as may": _refused_us(options, requests),
    }


def _admitted_us(options: GovernorOptions, streams: int, requests: int) -> float:
    """With so many streams, the oldest in flight ends and a new one comes: ask, prompt_known, first_token,
    end and decide."""
    took_us: list[float] = []
    for _ in range(_GOVERNOR_RUNS):
        streams_there = _Streams(options)
        for _ in range(streams):
            streams_there.must_come()
        streams_there.tell_step()
        began_ns = time.process_time_ns()
        for _ in range(requests):
            streams_there.end_oldest()
            streams_there.must_come()
        took_us.append((time.process_time_ns() - began_ns) / requests / 1e3)
    return statistics.median(took_us)


def _refused_us(options: GovernorOptions, requests: int) -> float:
    took_us: list[float] = []
    for _ in range(_GOVERNOR_RUNS):
        streams = _Streams(options)
        for _ in range(_LIMIT):
            streams.must_come()
        streams.tell_step()
        while streams.come():
            pass
        began_ns = time.process_time_ns()
        refused = sum(not streams.come() for _ in range(requests))
        took_us.append((time.process_time_ns() - began_ns) / refused / 1e3)
    return statistics.median(took_us)


class _Streams:
    """Streams of ten tenants at a governor of their own, whose time goes by 10 ms with each that ends."""

    def __init__(self, options: GovernorOptions) -> None:
        self._now_s = 0.0
        self._governor = Governor(options, now_s=0.0, chance=lambda: 0.5)
        self._in_flight: deque[Ticket] = deque()
        self._number = 0

    def come(self) -> bool:
        """Whether the next one was not refused."""
        self._number += 1
        ask = Ask(f"tenant-{self._number % 10}", ServiceClass.DEFAULT, 32, 32, None)
        ticket = self._governor.ask(ask, self._now_s)
        if isinstance(ticket, Refusal):
            return False
        if ticket.state is TicketState.ADMITTED:
            self._begin(ticket)
        return True

    def must_come(self) -> None:
        if not self.come():
            raise RuntimeError("the governor refused a stream for which there is room")

    def end_oldest(self) -> None:
        self._now_s += 0.01
        self._in_flight.popleft().end(Outcome.SUCCESS, 32, self._now_s)
        for ticket in self._governor.decide(self._now_s):
            self._begin(ticket)

    def tell_step(self) -> None:
        """The engine makes a step in 10 ms."""
        self._governor.observe(0, len(self._in_flight), self._now_s)
        self._now_s += 0.25
        self._governor.observe(25, len(self._in_flight), self._now_s)

    def _begin(self, ticket: Ticket) -> None:
        ticket.prompt_known(32)
        ticket.first_token(self._now_s)
        self._in_flight.append(ticket)


def plot(result: Result, path: Path) -> None:
    labels = [f"{row['streams']}" for row in result.rows]

    def column(name: str) -> list[float]:
        return [number(row, name) for row in result.rows]

    draw(
        path,
        "admission on and off, by streams",
        [
            Panel("Throughput", "tokens/s", labels, {
                "off": column("tokens/s off"), "on": column("tokens/s on"),
            }),
            Panel("on / off", "ratio", labels, {
                "tokens/s": column("tokens/s ratio"), "TTFT p50": column("TTFT p50 ratio"),
            }, goal=1.0),
        ],
    )  # fmt: skip
