"""The gRPC server: its services, its start, its draining, its end."""

import asyncio
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from engine.model_host import ModelHost
from flowcontrol.admission.governor import Governor
from flowcontrol.admission.options import GovernorOptions
from flowcontrol.registry import StreamRegistry
from penstock.v1 import (
    feature_pb2,
    feature_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    limits_pb2,
    limits_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    status_pb2,
    status_pb2_grpc,
)
from service.admission import Admission
from service.features import FeatureServicer, features
from service.generation import GenerationServicer
from service.health import OVERALL, HealthFollower, HealthServicer
from service.limits import LimitsServicer
from service.message_pool import MessagePool
from service.models import ModelServicer
from service.observation import Observation, StreamSink
from service.options import (
    AdmissionOptions,
    PoolOptions,
    RolloutOptions,
    ServerOptions,
    StreamOptions,
    TelemetryOptions,
)
from service.rollout import Rollout
from service.status import StatusServicer
from service.telemetry.exporter import MetricsExporter
from service.telemetry.histograms import StreamHistograms
from service.telemetry.readings import Readings
from service.telemetry.totals import StreamTotals

if TYPE_CHECKING:
    from service.telemetry.tracing import Tracing

_log = structlog.get_logger("penstock.server")

GENERATION = generation_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name
MODELS = model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
STATUS = status_pb2.DESCRIPTOR.services_by_name["StatusService"].full_name
LIMITS = limits_pb2.DESCRIPTOR.services_by_name["LimitsService"].full_name
FEATURES = feature_pb2.DESCRIPTOR.services_by_name["FeatureService"].full_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

# Services that answer whatever the model does.
_WITHOUT_MODEL = (MODELS, STATUS, LIMITS, FEATURES)
# Streams that are cut after the grace time get this long to carry their last status to the caller.
_CUT_GRACE_S = 0.5
# How often what streams told is handed to whoever measures it.
_FLUSH_S = 1.0


class BindError(OSError):
    """The address cannot be listened on."""


class Server:
    """Serves models over gRPC. Owns their host from `start_engine` to the end of `stop`.

    pool_options: None to make every message anew. telemetry_options: None to measure nothing. tracing:
    records the calls, None for no traces; it stays the caller's.
    """

    def __init__(
        self,
        models: ModelHost,
        server_options: ServerOptions,
        stream_options: StreamOptions,
        admission_options: AdmissionOptions,
        governor_options: GovernorOptions,
        pool_options: PoolOptions | None,
        telemetry_options: TelemetryOptions | None = None,
        *,
        rollout_options: RolloutOptions,
        version: str,
        tracing: "Tracing | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tracing = tracing
        self._models = models
        self._options = server_options
        self._registry = StreamRegistry()
        self._governor = Governor(governor_options, now_s=clock(), chance=random.random)
        self.admission = Admission(self._governor, models, admission_options, clock)
        self._pool = MessagePool(pool_options) if pool_options is not None else None
        self.rollout = Rollout(rollout_options, self._governor, self.admission.decide, clock)
        histograms, totals = StreamHistograms(), StreamTotals()
        sinks: list[StreamSink] = [] if telemetry_options is None else [histograms, totals]
        self._observation = Observation(sinks)
        self._generation = GenerationServicer(
            models,
            self._registry,
            self.admission,
            stream_options,
            self._pool,
            self._observation,
            features=self.rollout.table,
            spans=tracing.children if tracing is not None else None,
            clock=clock,
        )
        self._metrics: MetricsExporter | None = None
        if telemetry_options is not None:
            readings = Readings(
                models,
                self._registry,
                self._governor,
                self._pool,
                self._observation,
                histograms,
                totals,
                streams=self._generation.snapshots,
                max_batch_rows=telemetry_options.max_batch_rows,
                version=version,
                clock=clock,
            )
            self._metrics = MetricsExporter(telemetry_options, readings, version=version)
        self._status = StatusServicer(
            models,
            self._registry,
            self._generation.snapshots,
            self._pool,
            governor=self._governor,
            version=version,
            features=lambda: features(self.rollout),
            clock=clock,
        )
        self._limits = LimitsServicer(
            self._governor,
            self.admission.decide,
            remote_control=admission_options.remote_control,
            clock=clock,
        )
        self._features = FeatureServicer(self.rollout, remote_control=rollout_options.remote_control)
        self._health = HealthServicer((OVERALL, GENERATION, *_WITHOUT_MODEL))
        self._follower = HealthFollower(
            self._health, models, services=(OVERALL, GENERATION), interval_s=server_options.health_interval_s
        )
        self._grpc: grpc.aio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def listen(self) -> str:
        """Open the port and answer: health says NOT_SERVING until the default model is ready.

        Returns the address as HOST:PORT. Raises BindError.
        """
        if self._metrics is not None:
            try:
                self._metrics.start()
            except OSError as error:
                raise BindError(f"telemetry.prometheus_port: {error}") from error
        self._grpc = self._build()
        host = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
        asked = f"{host}:{self._options.port}"
        try:
            port = self._grpc.add_insecure_port(asked)
        except RuntimeError as error:
            raise BindError(f"cannot listen on {asked}: is the port in use?") from error
        await self._grpc.start()
        self._tasks.append(asyncio.create_task(self._follower.follow(), name="health"))
        self._tasks.append(asyncio.create_task(self.admission.keep_deciding(), name="admission"))
        self._tasks.append(asyncio.create_task(self._keep_flushing(), name="observation"))
        if self._pool is not None:
            self._tasks.append(asyncio.create_task(self._pool.keep_trimmed(), name="pool trimming"))
        for service in _WITHOUT_MODEL:
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return f"{host}:{port}"

    @property
    def metrics_address(self) -> str:
        """HOST:PORT that Prometheus may scrape; empty without metrics, and before `listen`."""
        return "" if self._metrics is None else self._metrics.address

    async def start_engine(self) -> None:
        """Load the default model; others follow. Raises EngineStartError."""
        await self._models.start()
        self._follower.update()

    async def drain(self) -> None:
        """Refuse new streams, tell health, and wait for those in flight, for the grace time at most."""
        self._governor.drain()
        self._models.drain()
        self._status.draining = self._follower.draining = True
        self._follower.update()
        for service in _WITHOUT_MODEL:
            self._health.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)
        try:
            await asyncio.wait_for(self._generation.idle(), self._options.drain_grace_s)
        except TimeoutError:
            _log.warning("streams cut", streams=self._registry.active, grace_s=self._options.drain_grace_s)
            self._generation.cut()

    async def stop(self) -> None:
        """Close the port, the streams that are left, and the engine. Idempotent."""
        if self._grpc is not None:
            self._generation.cut()
            await self._grpc.stop(_CUT_GRACE_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._metrics is not None:
            await self._metrics.stop()
        await self._models.stop()

    async def _keep_flushing(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_S)
            self._observation.flush()

    def _build(self) -> grpc.aio.Server:
        options = self._options
        server = grpc.aio.server(
            interceptors=[self._tracing.interceptor()] if self._tracing is not None else [],
            options=[
                ("grpc.max_receive_message_length", options.max_receive_message_bytes),
                ("grpc.max_send_message_length", options.max_send_message_bytes),
                ("grpc.keepalive_time_ms", options.keepalive_time_ms),
                ("grpc.keepalive_timeout_ms", options.keepalive_timeout_ms),
                ("grpc.http2.min_ping_interval_without_data_ms", options.keepalive_time_ms // 2),
                ("grpc.keepalive_permit_without_calls", 1),
                # gRPC's own bandwidth probe suspends keepalive until it is answered, by default for 60 s.
                ("grpc.http2.ping_timeout_ms", options.keepalive_timeout_ms),
                # A second server on the same port is an error, not a silent sharing of its calls.
                ("grpc.so_reuseport", 0),
            ],
        )
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(self._generation, server)
        models = ModelServicer(self._models, remote_control=options.models_remote_control)
        model_pb2_grpc.add_ModelServiceServicer_to_server(models, server)
        status_pb2_grpc.add_StatusServiceServicer_to_server(self._status, server)
        limits_pb2_grpc.add_LimitsServiceServicer_to_server(self._limits, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        feature_pb2_grpc.add_FeatureServiceServicer_to_server(self._features, server)
        names = (GENERATION, *_WITHOUT_MODEL, HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        return server
