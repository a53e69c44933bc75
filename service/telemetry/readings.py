"""Everything that metrics are read from, taken in one go on the event loop."""

import asyncio
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from engine.contract import EngineCounters, WorkerSnapshot
from engine.hosted_model import ModelSnapshot
from engine.model_host import ModelHost
from flowcontrol.admission.governor import Governor
from flowcontrol.admission.snapshot import GovernorSnapshot
from flowcontrol.pool import PoolSnapshot
from flowcontrol.registry import RegistrySnapshot, StreamRegistry
from service.growth import Growth
from service.message_pool import MessagePool
from service.observation import Observation
from service.stream_snapshot import StreamSnapshot
from service.telemetry.histograms import HistogramSnapshot, StreamHistograms
from service.telemetry.totals import StreamTotals, TotalsSnapshot


@dataclass(frozen=True, slots=True)
class Reading:
    """The server at one moment. streams: those that have not ended.

    failovers, waiting_for_worker: of all models. evictions: parked KV caches that were lost to their budget,
    in all lives of all workers. max_batch_rows: of one worker. tasks: of the event loop. blocks: of
    memory that Python holds.
    """

    version: str
    uptime_s: float
    registry: RegistrySnapshot
    governor: GovernorSnapshot
    models: tuple[ModelSnapshot, ...]
    failovers: int
    waiting_for_worker: int
    pool: PoolSnapshot | None
    streams: tuple[StreamSnapshot, ...]
    totals: TotalsSnapshot
    evictions: int
    max_batch_rows: int
    tasks: int
    blocks: int

    def workers(self) -> Iterable[tuple[ModelSnapshot, WorkerSnapshot]]:
        for model in self.models:
            for worker in model.workers:
                yield model, worker

    def sum(self, read: Callable[[EngineCounters], float]) -> float:
        """Of all workers together."""
        return sum(read(worker.counters) for _, worker in self.workers())


class Readings:
    """Takes readings of a server. All on the event loop."""

    def __init__(
        self,
        models: ModelHost,
        registry: StreamRegistry,
        governor: Governor,
        pool: MessagePool | None,
        observation: Observation,
        histograms: StreamHistograms,
        totals: StreamTotals,
        *,
        streams: Callable[[], Iterable[StreamSnapshot]],
        max_batch_rows: int,
        version: str,
        clock: Callable[[], float],
    ) -> None:
        """histograms, totals: sinks of the observation. streams: of the generation service.

        max_batch_rows: of one worker.
        """
        self._observation = observation
        self._histograms = histograms
        self._totals = totals
        self._models = models
        self._registry = registry
        self._governor = governor
        self._pool = pool
        self._streams = streams
        self._max_batch_rows = max_batch_rows
        self._version = version
        self._clock = clock
        self._started_s = clock()
        self._evictions = 0
        self._evicted: Growth[tuple[str, int]] = Growth()

    def take(self) -> Reading:
        now_s = self._clock()
        models = self._models.models()
        engines = self._models.snapshot()
        evicted = self._evicted.take(
            {
                (model.name, worker.index): worker.counters.evictions
                for model in models
                for worker in model.workers
            }
        )
        self._evictions += round(sum(evicted.values()))
        return Reading(
            version=self._version,
            uptime_s=now_s - self._started_s,
            registry=self._registry.snapshot(),
            governor=self._governor.snapshot(now_s),
            models=models,
            failovers=engines.failovers,
            waiting_for_worker=engines.waiting,
            pool=self._pool.snapshot() if self._pool is not None else None,
            streams=tuple(stream for stream in self._streams() if not stream.state.ended),
            totals=self._totals.snapshot(),
            evictions=self._evictions,
            max_batch_rows=self._max_batch_rows,
            tasks=len(asyncio.all_tasks()),
            blocks=sys.getallocatedblocks(),
        )

    def take_histograms(self) -> tuple[HistogramSnapshot, ...]:
        """Up to now: with what streams have told and the sinks have not been handed yet."""
        self._observation.flush()
        return self._histograms.snapshot()
