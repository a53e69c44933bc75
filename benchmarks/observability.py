"""What observing the streams costs, and how long a scrape takes while many run."""

import http.client
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from benchmarks.jobs import Job
from benchmarks.measure import Sample, Side, percentile
from benchmarks.plots import Panel, draw
from benchmarks.processes import Child
from benchmarks.result import Result, Row, make_result, number, ratios_of
from benchmarks.scripted_server import ScriptedOptions
from benchmarks.serving import prompts
from benchmarks.systems import System, penstock
from engine.model_source import EMBEDDED
from flowcontrol.admission.ask import ServiceClass
from service.assembly import METRICS
from service.observation import Observation, StreamLabels
from service.telemetry.histograms import StreamHistograms

GOAL_RATIO = 0.97
GOAL_SCRAPE_MS = 50
SCRAPED_STREAMS = 75
# Tokens that each of so many streams gets in a run. Short: what else the machine does changes little from one
# run to the next, and there are many pairs to take the median of.
_TOKENS = {1: 4_000, 10: 600, 100: 100}
_CALLS = 100_000
_BETWEEN_SCRAPES_S = 0.1
_ATTRIBUTES = {"model": "scripted", "class": "default", "arm": "control"}


def run(*, quick: bool) -> Result:
    """Pairs of servers that differ in telemetry.enabled, one token in a message; then scrapes under load."""
    pairs, limit_s = (8, 10.0) if quick else (80, 80.0)
    rows: list[Row] = list(_served(pairs, limit_s))
    scraped = _scraped(scrapes=20 if quick else 100)
    recorded = _recorded()
    ratios: Row = {
        f"messages/s on / off, {row['streams']} streams (goal {GOAL_RATIO})": row["ratio"] for row in rows
    }
    for row in rows:
        ratios[f"CPU per message on / off, {row['streams']} streams"] = row["CPU ratio"]
    name = f"scrape p95 at {SCRAPED_STREAMS} streams, ms (goal below {GOAL_SCRAPE_MS})"
    ratios[name] = scraped["scrape p95 ms"]
    ratios |= {f"{what}, CPU us": us for what, us in recorded.items() if what != "case"}
    return make_result("observability", [*rows, scraped, recorded], ratios)


def _served(pairs: int, limit_s: float) -> Iterator[Row]:
    with (
        Child("benchmarks.scripted_server", ScriptedOptions(telemetry=False).encoded()) as off_server,
        Child("benchmarks.scripted_server", ScriptedOptions(telemetry=True).encoded()) as on_server,
        Child("benchmarks.load_client") as client,
    ):
        client.read_line()
        off = Side(client, off_server, off_server.read_line())
        on = Side(client, on_server, on_server.read_line())
        for streams, tokens in _TOKENS.items():
            job = Job(streams, ["Count."] * streams, tokens, max_tokens_per_chunk=1)
            for side in (off, on):
                side.run(job)
            row = _case(off, on, job, pairs, limit_s)
            print(f"  {row}", file=sys.stderr, flush=True)
            yield row


def _case(off: Side, on: Side, job: Job, pairs: int, limit_s: float) -> Row:
    """Every second pair is run the other way round, so that what the first run finds costs both alike."""
    without: list[Sample] = []
    within: list[Sample] = []
    began_s = time.monotonic()
    while len(without) < pairs and (not without or time.monotonic() - began_s < limit_s):
        turned = len(without) % 2 == 1
        for side, samples in ((on, within), (off, without)) if turned else ((off, without), (on, within)):
            samples.append(side.run(job))
    rates = ratios_of([each.tokens_per_s for each in without], [each.tokens_per_s for each in within])
    cpu = ratios_of([_cpu_us(each) for each in without], [_cpu_us(each) for each in within])
    others = [each.elsewhere_cores for each in without + within if each.elsewhere_cores is not None]
    return {
        "case": f"{job.streams} streams",
        "streams": job.streams,
        "off, messages/s": statistics.median(each.tokens_per_s for each in without),
        "on, messages/s": statistics.median(each.tokens_per_s for each in within),
        "ratio": rates.median,
        "low": rates.low,
        "high": rates.high,
        "off, CPU us/message": statistics.median(_cpu_us(each) for each in without),
        "on, CPU us/message": statistics.median(_cpu_us(each) for each in within),
        "CPU ratio": cpu.median,
        "CPU low": cpu.low,
        "CPU high": cpu.high,
        "pairs": len(without),
        "others, cores": statistics.median(others) if others else None,
    }


def _cpu_us(sample: Sample) -> float:
    if sample.measured_cpu_s is None:
        return float("nan")
    return sample.measured_cpu_s / sample.outcome.tokens * 1e6


def _scraped(*, scrapes: int) -> Row:
    """Scrapes of the real server, a connection for each, while streams run on the embedded model."""
    options = {
        "STREAM_REGISTRY__MAX_ACTIVE_STREAMS": str(SCRAPED_STREAMS),
        "STREAM_REGISTRY__ADAPTIVE_LIMITS__ENABLED": "false",
        "ENGINE__MAX_BATCH_ROWS": str(SCRAPED_STREAMS),
    }
    with penstock(EMBEDDED, options) as system:
        url = system.server.read_line().removeprefix(METRICS)
        took_ms: list[float] = []
        running: list[int] = []
        with _load(system):
            while len(took_ms) < scrapes:
                active = _running(system)
                if active < SCRAPED_STREAMS:  # Between two rounds of the load.
                    time.sleep(_BETWEEN_SCRAPES_S)
                    continue
                began_s = time.perf_counter()
                size = len(_get(url))
                took_ms.append((time.perf_counter() - began_s) * 1e3)
                running.append(active)
                time.sleep(_BETWEEN_SCRAPES_S)
    took_ms.sort()
    row: Row = {
        "case": "scrapes",
        "streams": min(running),
        "scrapes": scrapes,
        "bytes": size,
        "scrape p50 ms": percentile(took_ms, 0.5),
        "scrape p95 ms": percentile(took_ms, 0.95),
        "scrape max ms": took_ms[-1],
    }
    print(f"  {row}", file=sys.stderr, flush=True)
    return row


def _running(system: System) -> int:
    if system.status is None:
        raise TypeError(f"{system.name} has no status")
    streams = system.status().streams
    return streams.prefill + streams.streaming + streams.stalled


@contextmanager
def _load(system: System) -> Iterator[None]:
    """So many streams at a time in another process, again and again until the block is left."""
    stopping = threading.Event()
    with Child("benchmarks.load_client") as client:
        client.read_line()
        side = Side(client, system.server, system.target)

        def keep_running() -> None:
            while not stopping.is_set():
                side.run(Job(SCRAPED_STREAMS, prompts(SCRAPED_STREAMS), 400))

        thread = threading.Thread(target=keep_running)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()


def _get(url: str) -> bytes:
    parts = urlsplit(url)
    if parts.hostname is None:
        raise ValueError(f"no host in {url}")
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise RuntimeError(f"the scrape was answered {answer.status}: {body[:200]!r}")
    return body


def _recorded() -> Row:
    """One value through the SDK's histogram, and through ours from the token to its bucket."""
    provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    theirs = provider.get_meter("benchmark").create_histogram("gap")
    ours = StreamHistograms()
    observation = Observation([ours])
    stream = observation.stream(StreamLabels("scripted", ServiceClass.DEFAULT, "control"))

    def tokens() -> None:
        for number_of_token in range(_CALLS):
            stream.token(number_of_token * 0.02)

    row: Row = {
        "case": "one value",
        "SDK's record": _us_each(lambda: [theirs.record(0.02, _ATTRIBUTES) for _ in range(_CALLS)]),
        "our token": _us_each(tokens),
        "our bucket": _us_each(observation.flush),
    }
    provider.shutdown()
    print(f"  {row}", file=sys.stderr, flush=True)
    return row


def _us_each(work: Callable[[], object]) -> float:
    began_s = time.thread_time()
    work()
    return (time.thread_time() - began_s) / _CALLS * 1e6


def plot(result: Result, path: Path) -> None:
    served = [row for row in result.rows if "CPU ratio" in row]
    labels = [str(row["case"]) for row in served]

    def column(name: str) -> list[float | None]:
        return [number(row, name) for row in served]

    [scraped] = [row for row in result.rows if row["case"] == "scrapes"]
    draw(
        path,
        "Observed and not observed, scripted engine",
        [
            Panel(
                "Throughput", "messages/s", labels,
                {"off": column("off, messages/s"), "on": column("on, messages/s")},
            ),
            Panel("On by off", "messages/s ratio", labels, {"": column("ratio")}, goal=GOAL_RATIO),
            Panel(
                f"A scrape at {SCRAPED_STREAMS} streams", "ms", ["p50", "p95"],
                {"": [number(scraped, "scrape p50 ms"), number(scraped, "scrape p95 ms")]},
                goal=GOAL_SCRAPE_MS,
            ),
        ],
    )  # fmt: skip
