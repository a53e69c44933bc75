"""What a server holds and does over time: from /proc, and from its own metrics."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from urllib.request import urlopen

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.chaos.watch import held_by
from benchmarks.processes import Child, rss_bytes

_INTERVAL_S = 2.0
_SCRAPE_S = 20.0
_REST_LOOKS = 10

Labels = Mapping[str, str]
Scrape = dict[str, list[tuple[Labels, float]]]
_ANY: Labels = {}


class Sample(msgspec.Struct, frozen=True):
    """One moment. at_s: seconds since the first. rss_bytes, files: of the server without its workers.

    blocks: of memory that Python holds in the server. tasks: of the server's event loop. active: streams.
    ended, server_faults: streams so far, and those that ended by a fault of the server. ttft: streams by the
    upper bound of their time to first token in seconds, cumulative. tokens: of output so far.
    """

    at_s: float
    rss_bytes: int
    workers_rss_bytes: int
    blocks: int
    files: int
    tasks: int
    active: int
    ended: int
    server_faults: int
    tokens: int
    ttft: dict[float, float]
    scrape_s: float


class Sampler:
    """Takes samples of a server."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._began_s = 0.0

    @asynccontextmanager
    async def watching(self, server: Child, metrics: str) -> AsyncIterator[None]:
        """From the first sample to the last; one every two seconds between. metrics: their address."""
        self._began_s = time.monotonic()
        await self._take(server, metrics)
        taking = asyncio.create_task(self._keep_taking(server, metrics))
        try:
            yield
        finally:
            if not taking.cancel():
                taking.result()
        await self._rest(server, metrics)

    async def _rest(self, server: Child, metrics: str) -> None:
        """The last sample: connections that were just closed are given a moment to be forgotten."""
        for _ in range(_REST_LOOKS):
            await self._take(server, metrics)
            first, last = self.samples[0], self.samples[-1]
            if last.tasks <= first.tasks and last.files <= first.files:
                return
            await asyncio.sleep(_INTERVAL_S)

    async def _keep_taking(self, server: Child, metrics: str) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_S)
            await self._take(server, metrics)

    async def _take(self, server: Child, metrics: str) -> None:
        asked_s = time.monotonic()
        scrape = parse(await asyncio.to_thread(_fetch, metrics))
        scrape_s = time.monotonic() - asked_s
        held = held_by(server.pid)
        faults = total(scrape, "penstock_stream_cancellations_total", {"cause": "server"})
        self.samples.append(
            Sample(
                at_s=asked_s - self._began_s,
                rss_bytes=held.rss_bytes,
                workers_rss_bytes=rss_bytes(server.pid) - held.rss_bytes,
                blocks=round(total(scrape, "penstock_allocated_blocks")),
                files=held.files,
                tasks=round(total(scrape, "penstock_asyncio_tasks")),
                active=round(total(scrape, "penstock_streams_active")),
                ended=round(total(scrape, "penstock_streams_ended_total")),
                server_faults=round(faults),
                tokens=round(total(scrape, "penstock_tokens_total", {"kind": "completion"})),
                ttft=buckets(scrape, "penstock_stream_ttft_seconds"),
                scrape_s=scrape_s,
            )
        )


def _fetch(url: str) -> str:
    with urlopen(url, timeout=_SCRAPE_S) as response:
        text: str = response.read().decode()
    return text


def parse(text: str) -> Scrape:
    """Every series by name, with its labels and its value."""
    found: Scrape = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def total(scrape: Scrape, name: str, labels: Labels = _ANY) -> float:
    """The sum of all series of a metric with these labels; 0 while there is none."""
    series = scrape.get(name, [])
    return sum(value for have, value in series if labels.items() <= have.items())


def buckets(scrape: Scrape, name: str) -> dict[float, float]:
    """A histogram over all its series: upper bound -> count at or below it."""
    summed: dict[float, float] = {}
    for labels, value in scrape.get(f"{name}_bucket", []):
        bound = float(labels["le"])
        summed[bound] = summed.get(bound, 0.0) + value
    return summed


def quantile(before: Mapping[float, float], after: Mapping[float, float], share: float) -> float | None:
    """Of what came between two looks at a histogram: the upper bound of its bucket; None without anything.

    Infinity for what is beyond the last bound.
    """
    bounds = sorted(after)
    counts = [after[bound] - before.get(bound, 0.0) for bound in bounds]
    if not counts or not counts[-1]:
        return None
    return next(bound for bound, count in zip(bounds, counts, strict=True) if count >= share * counts[-1])


def every(samples: Iterable[Sample], seconds: float) -> list[Sample]:
    """The first sample of each so many seconds."""
    chosen: list[Sample] = []
    for sample in samples:
        if not chosen or sample.at_s - chosen[-1].at_s >= seconds:
            chosen.append(sample)
    return chosen
