"""From snapshots on the event loop to OpenTelemetry's metrics in the threads of the exporters."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from service.telemetry.histograms import HistogramSnapshot, PointSnapshot
from service.telemetry.tables import AnyTable, Instrument, Kind

SCOPE = "penstock"


class NoReadingError(Exception):
    """The event loop did not answer in time, or is gone."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What one collection reports. taken: one snapshot for each table. at_ns: time of day."""

    taken: tuple[Any, ...]
    histograms: tuple[HistogramSnapshot, ...]
    at_ns: int


class Collection:
    """Takes the snapshots of all tables in one go on the loop, which no other thread touches.

    A thread that collects does so within `taking`; the callbacks of the instruments and `with_histograms`
    then tell what was taken for it.
    """

    def __init__(
        self,
        tables: Sequence[AnyTable],
        histograms: Callable[[], tuple[HistogramSnapshot, ...]],
        loop: asyncio.AbstractEventLoop,
        *,
        timeout_s: float,
    ) -> None:
        """timeout_s: how long the loop may take to answer."""
        self._tables = tuple(tables)
        self._histograms = histograms
        self._loop = loop
        self._timeout_s = timeout_s
        self._began_ns = time.time_ns()
        # Exporters collect at the same time, each in a thread of its own.
        self._current: ContextVar[Collected] = ContextVar("collected")

    def register(self, meter: Meter) -> None:
        """Make the instruments of all tables."""
        for number, table in enumerate(self._tables):
            for instrument in table.instruments:
                make = {
                    Kind.COUNTER: meter.create_observable_counter,
                    Kind.GAUGE: meter.create_observable_gauge,
                }[instrument.kind]
                callback = self._callback(number, instrument)
                make(instrument.name, [callback], instrument.unit, instrument.description)

    @contextmanager
    def taking(self) -> Iterator[None]:
        """Take the snapshots for what this thread collects within. Raises NoReadingError."""
        token = self._current.set(self._take())
        try:
            yield
        finally:
            self._current.reset(token)

    def with_histograms(self, data: MetricsData) -> MetricsData:
        """What the SDK has collected, and our histograms."""
        collected = self._current.get(None)
        if collected is None:
            return data
        metrics = [self._metric(each, collected.at_ns) for each in collected.histograms if each.points]
        scope = ScopeMetrics(InstrumentationScope(SCOPE), metrics, "")
        resource = data.resource_metrics[0] if data.resource_metrics else None
        if resource is None:
            return MetricsData([ResourceMetrics(Resource.get_empty(), [scope], "")])
        ours = replace(resource, scope_metrics=[*resource.scope_metrics, scope])
        return MetricsData([ours, *data.resource_metrics[1:]])

    def _take(self) -> Collected:
        future: Future[Collected] = Future()

        def take() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    # Histograms first: that hands on what was gathered.
                    histograms = self._histograms()
                    taken = tuple(table.take() for table in self._tables)
                    future.set_result(Collected(taken, histograms, time.time_ns()))
                except BaseException as error:
                    future.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(take)
            return future.result(self._timeout_s)
        except FutureTimeoutError:
            future.cancel()
            raise NoReadingError(f"the event loop did not answer for {self._timeout_s:g} s") from None
        except RuntimeError as error:  # The loop is closed.
            raise NoReadingError(str(error)) from error

    def _callback(
        self, number: int, instrument: Instrument[Any]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            collected = self._current.get(None)
            if collected is None:
                return []
            return [Observation(value, labels) for value, labels in instrument.read(collected.taken[number])]

        return observe

    def _metric(self, histogram: HistogramSnapshot, at_ns: int) -> Metric:
        points = [self._point(point, histogram, at_ns) for point in histogram.points]
        data = Histogram(points, AggregationTemporality.CUMULATIVE)
        return Metric(histogram.name, histogram.description, histogram.unit, data)

    def _point(self, point: PointSnapshot, histogram: HistogramSnapshot, at_ns: int) -> HistogramDataPoint:
        # Of all time since the start; nobody asks for the extremes of that. OTLP allows to leave them out.
        unknown: Any = None
        return HistogramDataPoint(
            attributes=point.attributes,
            start_time_unix_nano=self._began_ns,
            time_unix_nano=at_ns,
            count=sum(point.counts),
            sum=point.total,
            bucket_counts=point.counts,
            explicit_bounds=histogram.bounds,
            min=unknown,
            max=unknown,
        )
