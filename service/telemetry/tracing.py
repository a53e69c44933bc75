"""Spans on their way out: a tracer, and the export of what it records to a collector."""

import logging
import threading
import time
import uuid
from collections.abc import Callable

import structlog
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from service.options import TelemetryOptions
from service.telemetry.ended_spans import EndedSpans
from service.telemetry.interceptor import AioServerInterceptor

_log = structlog.get_logger("penstock.telemetry")

_EXPORT_INTERVAL_S = 1.0
# How long the end of the server may take longer for the last spans, and for the export that is broken off.
_FLUSH_S = 2.0
_BREAK_OFF_S = 1.0
# The same line of the libraries is logged at most once in this time: a collector may be away for days.
_SAME_LINE_S = 60.0


class Tracing:
    """Owns the tracer provider and the thread that exports. `stop` must be called once.

    Spans wait in a bounded queue; while the collector cannot be reached the oldest are dropped, and nothing
    else happens. Nothing is set globally. options.otlp_endpoint must not be empty.
    """

    def __init__(self, options: TelemetryOptions, *, version: str) -> None:
        LibraryLog.install()
        self._exporter = OTLPSpanExporter(endpoint=options.otlp_endpoint)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(options.trace_sample_ratio)),
            resource=Resource.create(
                {
                    "service.name": "penstock",
                    "service.version": version,
                    "service.instance.id": str(uuid.uuid4()),
                }
            ),
            shutdown_on_exit=False,
        )
        processor = BatchSpanProcessor(self._exporter, schedule_delay_millis=_EXPORT_INTERVAL_S * 1e3)
        self._provider.add_span_processor(processor)
        self.children = EndedSpans(processor, self._provider.resource, "penstock")

    def interceptor(self) -> AioServerInterceptor:
        return AioServerInterceptor(self._provider.get_tracer("penstock"))

    def stop(self) -> None:
        """Export what is left. Blocks, for _FLUSH_S + _BREAK_OFF_S at most."""
        flushing = threading.Thread(target=self._provider.shutdown, name="trace flush", daemon=True)
        flushing.start()
        flushing.join(_FLUSH_S)
        if flushing.is_alive():
            _log.warning("traces lost", reason=f"the collector took no spans for {_FLUSH_S:g} s")
            self._exporter.shutdown()
            flushing.join(_BREAK_OFF_S)


class LibraryLog(logging.Handler):
    """Puts what OpenTelemetry logs into our log, each of its messages at most once in _SAME_LINE_S."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._clock = clock
        self._logged_s: dict[tuple[str, int], float] = {}

    @classmethod
    def install(cls) -> None:
        """Once per process; later calls change nothing."""
        logger = logging.getLogger("opentelemetry")
        if not any(isinstance(handler, cls) for handler in logger.handlers):
            logger.addHandler(cls())
            logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        now_s = self._clock()
        # By the place in the library: the text differs each time.
        place = (record.pathname, record.lineno)
        logged_s = self._logged_s.get(place)
        if logged_s is not None and now_s - logged_s < _SAME_LINE_S:
            return
        self._logged_s[place] = now_s
        _log.warning("telemetry", library=record.name, message=record.getMessage())
