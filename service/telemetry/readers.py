"""OpenTelemetry's metric readers, with our histograms beside what the SDK collects."""

import math
import threading
from typing import Any

import structlog
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics.export import MetricsData, PeriodicExportingMetricReader
from prometheus_client import CollectorRegistry

from service.telemetry.collection import Collection, NoReadingError

# How long the end of the server waits for a collector that may not answer.
_LAST_EXPORT_S = 3.0

_log = structlog.get_logger("penstock.telemetry")


class ScrapeReader(PrometheusMetricReader):
    """Collects when its registry is read, which must be within Collection.taking, one thread at a time."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self.registry = CollectorRegistry()
        super().__init__(scope_info_enabled=False, registry=self.registry)

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **options: Any
    ) -> None:
        data = self._collection.with_histograms(metrics_data)
        super()._receive_metrics(data, timeout_millis, **options)


class OtlpReader(PeriodicExportingMetricReader):
    """Collects at an interval and sends it to an OpenTelemetry collector. Owns its thread until shutdown."""

    def __init__(self, collection: Collection, endpoint: str, interval_s: float) -> None:
        """endpoint: such as http://127.0.0.1:4317."""
        self._collection = collection
        self._stopping = threading.Event()
        self._given_up = False
        self._interval_s = interval_s
        # Its own thread would collect without a snapshot; it has none when the interval is infinite.
        super().__init__(OTLPMetricExporter(endpoint=endpoint), export_interval_millis=math.inf)
        self._exporting = threading.Thread(target=self._keep_exporting, name="otlp metrics", daemon=True)

    def start(self) -> None:
        """Begin; once it belongs to a meter provider."""
        self._exporting.start()

    def shutdown(self, timeout_millis: float = 30_000, **options: Any) -> None:
        """Send a last time, and end."""
        self._stopping.set()
        if self._exporting.is_alive():
            self._exporting.join(min(timeout_millis / 1e3, _LAST_EXPORT_S))
            self._given_up = self._exporting.is_alive()
        super().shutdown(timeout_millis, **options)

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **options: Any
    ) -> None:
        data = self._collection.with_histograms(metrics_data)
        super()._receive_metrics(data, timeout_millis, **options)

    def _keep_exporting(self) -> None:
        while not self._stopping.wait(self._interval_s):
            self._export()
        if not self._given_up:
            self._export()

    def _export(self) -> None:
        try:
            with self._collection.taking():
                self.collect()
        except NoReadingError as error:
            _log.warning("metrics not sent", error=str(error))
        except Exception:
            _log.exception("metrics not sent")
