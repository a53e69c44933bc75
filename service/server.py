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
from service.alert import AlertServer
from service.features import FeatureServicer, features
from service.generation import GenerationServicer
from service.health import OVERALL, HealthFollower, HealthServicer
from service.limits import LimitsServicer
from service.message_pool import MessagePool
from service.models import ModelServicer
from service.options import ServiceOptions
from service.rollout import Rollout
from service.status import StatusServicer
from service.watch import Watch

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


class BindError(OSError):
    """The address cannot be listened on."""


class Server:
    """Serves models over gRPC. Owns their host from `start_engine` to the end of `stop`.

    tracing: records its calls; it stays the caller's. None for no traces.
    """

    def __init__(
        self,
        models: ModelHost,
        options: ServiceOptions,
        *,
        version: str,
        tracing: "Tracing | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tracing = tracing
        self._models = models
        self._options = options.server
        self._version = version
        self._registry = StreamRegistry()
        self._governor = Governor(options.governor, now_s=clock(), chance=random.random)
        self.admission = Admission(self._governor, models, options.admission, clock)
        self._pool = MessagePool(options.pool) if options.pool is not None else None
        self.rollout = Rollout(options.rollout, self._governor, self.admission.decide, clock)
        self._watch = Watch(options, models, self._governor, self.rollout, self.admission.decide, clock)
        self._generation = GenerationServicer(
            models,
            self._registry,
            self.admission,
            options.stream,
            self._pool,
            self._watch.observation,
            features=self.rollout.table,
            spans=tracing.children if tracing is not None else None,
            clock=clock,
        )
        self._watch.news.note = self._generation.note_remediation
        self._metrics = self._watch.exporter(self._registry, self._pool, self._generation.snapshots, version)
        self._status = StatusServicer(
            models,
            self._registry,
            self._generation.snapshots,
            self._pool,
            governor=self._governor,
            version=version,
            features=lambda: features(self.rollout),
            guard=self._watch.guard.snapshot,
            clock=clock,
        )
        self._limits = LimitsServicer(
            self._governor,
            self.admission.decide,
            remote_control=options.admission.remote_control,
            clock=clock,
        )
        self._features = FeatureServicer(self.rollout, remote_control=options.rollout.remote_control)
        self._health = HealthServicer((OVERALL, GENERATION, *_WITHOUT_MODEL))
        self._follower = HealthFollower(
            self._health, models, services=(OVERALL, GENERATION), interval_s=options.server.health_interval_s
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
        self._tasks.append(asyncio.create_task(self._watch.keep_flushing(), name="observation"))
        self._tasks.append(asyncio.create_task(self._watch.keep_watching(), name="guard"))
        self._watch.start(AlertServer(f"{host}:{port}", self._version))
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
        await self._watch.stop()
        if self._metrics is not None:
            await self._metrics.stop()
        await self._models.stop()

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
