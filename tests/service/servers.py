"""The whole gRPC server on the test's own loop, with a scripted engine in the model's place."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
from grpc_health.v1.health_pb2_grpc import HealthStub

from engine.contract import Engine
from engine.model_host import ModelHost
from flowcontrol.admission.options import GovernorOptions
from penstock.v1.generation_pb2_grpc import GenerationServiceStub
from penstock.v1.model_pb2_grpc import ModelServiceStub
from penstock.v1.status_pb2 import GetStatusRequest, Status
from penstock.v1.status_pb2_grpc import StatusServiceStub
from service.options import (
    AdmissionOptions,
    AlertOptions,
    GuardOptions,
    PoolOptions,
    RolloutOptions,
    ServerOptions,
    ServiceOptions,
    TelemetryOptions,
)
from service.server import Server
from tests.flowcontrol.admission.governors import governor_options
from tests.service.drivers import ADMISSION, OPTIONS
from tests.service.feature_subjects import ROLLOUT

# Without it channels to one address share a connection, and a test sees what another one did to it.
CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)
GOVERNOR = governor_options(initial_streams=4)
UNGUARDED = GuardOptions(
    slo=None,
    remediation=None,
    alerts=AlertOptions("", "", timeout_s=1.0, max_attempts=1, queue_size=10, sustained_s=0.0),
    interval_s=3600.0,
    prefill_step_tokens=512,
)


@dataclass(frozen=True)
class Stubs:
    """All services of one server. Untyped: asynchronous stubs exist for type checkers only."""

    channel: grpc.aio.Channel
    generation: Any
    models: Any
    statuses: Any
    health: Any

    async def status(self) -> Status:
        response = await self.statuses.GetStatus(GetStatusRequest())
        assert isinstance(response.status, Status)
        return response.status


@asynccontextmanager
async def stubs_of(address: str) -> AsyncIterator[Stubs]:
    """Stubs on a channel of their own."""
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        # The stubs are written for both kinds of channel; their types name only the other one.
        any_channel: Any = channel
        yield Stubs(
            channel,
            GenerationServiceStub(any_channel),
            ModelServiceStub(any_channel),
            StatusServiceStub(any_channel),
            HealthStub(any_channel),
        )


@dataclass(frozen=True)
class LocalServer:
    """A server in this process."""

    server: Server
    stubs: Stubs
    address: str


def server_options(**changes: Any) -> ServerOptions:
    options = ServerOptions(
        host="127.0.0.1",
        port=0,
        max_receive_message_bytes=4 * 2**20,
        max_send_message_bytes=4 * 2**20,
        keepalive_time_ms=30_000,
        keepalive_timeout_ms=10_000,
        drain_grace_s=30.0,
        health_interval_s=0.02,
        models_remote_control=False,
    )
    return replace(options, **changes)


@asynccontextmanager
async def serving(
    engine: Engine | ModelHost,
    *,
    start: bool = True,
    stream: dict[str, Any] | None = None,
    pool: PoolOptions | None = None,
    admission: AdmissionOptions = ADMISSION,
    governor: GovernorOptions = GOVERNOR,
    rollout: RolloutOptions = ROLLOUT,
    telemetry: TelemetryOptions | None = None,
    guard: GuardOptions = UNGUARDED,
    **options: Any,
) -> AsyncIterator[LocalServer]:
    """Serve an engine, or several. stream, options: fields of StreamOptions and ServerOptions to change."""
    told = ServiceOptions(
        server=server_options(**options),
        stream=replace(OPTIONS, **(stream or {})),
        admission=admission,
        governor=governor,
        pool=pool,
        rollout=rollout,
        guard=guard,
        telemetry=telemetry,
    )
    models = engine if isinstance(engine, ModelHost) else ModelHost.of(engine)
    server = Server(models, told, version="test")
    address = await server.listen()
    try:
        if start:
            await server.start_engine()
        async with stubs_of(address) as stubs:
            yield LocalServer(server, stubs, address)
    finally:
        await server.stop()
