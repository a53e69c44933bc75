"""Metrics of the server, for Prometheus and by OTLP."""

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource

from service.options import TelemetryOptions
from service.telemetry.collection import SCOPE, Collection
from service.telemetry.endpoint import MetricsEndpoint
from service.telemetry.engine_instruments import SERVER
from service.telemetry.readers import OtlpReader, ScrapeReader
from service.telemetry.readings import Readings
from service.telemetry.tables import AnyTable, Table

_log = structlog.get_logger("penstock.telemetry")

# Longer than the loop is ever held up, shorter than Prometheus waits by default.
_LOOP_TIMEOUT_S = 5.0
# A call of ours lasts as long as a stream does.
_CALL_S = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class MetricsExporter:
    """Owns the meter provider, the port for scrapes and the threads, from `start` to `stop`.

    To add metrics, give `tables`: each has a snapshot of its own and the instruments that read it.
    """

    def __init__(
        self, options: TelemetryOptions, readings: Readings, *, version: str, tables: Sequence[AnyTable] = ()
    ) -> None:
        """tables: further ones, such as those of objectives."""
        self._options = options
        self._version = version
        self._tables = (Table(readings.take, SERVER), *tables)
        self._readings = readings
        self._provider: MeterProvider | None = None
        self._endpoint: MetricsEndpoint | None = None
        self._grpc_plugin: Any = None
        self.address = ""
        """HOST:PORT that answers scrapes, once started."""

    def start(self) -> None:
        """On the event loop, before the gRPC server is made. Raises OSError when the port cannot be had."""
        options = self._options
        collection = Collection(
            self._tables,
            self._readings.take_histograms,
            asyncio.get_running_loop(),
            timeout_s=_LOOP_TIMEOUT_S,
        )
        scrapes = ScrapeReader(collection)
        otlp = None
        if options.otlp_endpoint:
            otlp = OtlpReader(collection, options.otlp_endpoint, options.otlp_interval_s)
        durations = View(
            instrument_name="grpc.*.duration", aggregation=ExplicitBucketHistogramAggregation(_CALL_S)
        )
        self._provider = MeterProvider(
            [scrapes] if otlp is None else [scrapes, otlp],
            Resource.create({"service.name": "penstock", "service.version": self._version}),
            shutdown_on_exit=False,
            views=[durations],
        )
        collection.register(self._provider.get_meter(SCOPE, self._version))
        self._endpoint = MetricsEndpoint(collection, scrapes.registry)
        self.address = self._endpoint.open(options.prometheus_host, options.prometheus_port)
        if otlp is not None:
            otlp.start()
        if options.grpc_metrics:
            self._register_grpc_plugin(self._provider)

    async def stop(self) -> None:
        """Send what is left by OTLP and close the port. Idempotent."""
        provider, self._provider = self._provider, None
        if provider is None or self._endpoint is None:
            return
        if self._grpc_plugin is not None:
            self._grpc_plugin.deregister_global()
        # Both wait for threads that may wait for the loop.
        await asyncio.to_thread(self._endpoint.close)
        await asyncio.to_thread(provider.shutdown)

    def _register_grpc_plugin(self, provider: MeterProvider) -> None:
        """gRPC's own metrics (gRFC A66); there are no packages of it for some systems."""
        try:
            import grpc_observability
        except ImportError as error:
            _log.warning("telemetry.grpc_metrics: grpcio-observability cannot be imported", error=str(error))
            return
        self._grpc_plugin = grpc_observability.OpenTelemetryPlugin(meter_provider=provider)
        self._grpc_plugin.register_global()
