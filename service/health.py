"""grpc.health.v1.Health, following the engine.

grpcio-health-checking's own asyncio servicer drops the notifier of a service when any one of its
watchers leaves, and the other watchers hear nothing more; so Check, List and Watch are ours.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from engine.contract import EngineState
from engine.model_host import ModelHost
from service.calls import write

Context = grpc.aio.ServicerContext[Any, Any]
_Response: TypeAlias = health_pb2.HealthCheckResponse
Status: TypeAlias = int
"""SERVING, NOT_SERVING or SERVICE_UNKNOWN."""
OVERALL = ""


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Health of the named services. Every service begins as NOT_SERVING."""

    def __init__(self, services: Iterable[str]) -> None:
        self._statuses: dict[str, Status] = dict.fromkeys(services, _Response.NOT_SERVING)
        self._watchers: set[asyncio.Event] = set()

    def set(self, service: str, status: Status) -> None:
        """Change one service. KeyError for a service that was not named at the start."""
        if self._statuses[service] != status:
            self._statuses[service] = status
            for watcher in self._watchers:
                watcher.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> _Response:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return _Response(status=status)

    async def List(self, request: Any, context: Context) -> Any:
        # The typing package does not know List yet.
        return health_pb2.HealthListResponse(  # type: ignore[attr-defined]
            statuses={name: _Response(status=status) for name, status in self._statuses.items()}
        )

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """Sends the status at once and at each change; SERVICE_UNKNOWN for a service that is not there."""
        changed = asyncio.Event()
        self._watchers.add(changed)
        told: Status | None = None
        try:
            while True:
                changed.clear()
                status = self._statuses.get(request.service, _Response.SERVICE_UNKNOWN)
                if status != told:
                    await write(context, _Response(status=status))
                    told = status
                await changed.wait()
        finally:
            self._watchers.discard(changed)


class HealthFollower:
    """Keeps the health of the model's services at what the default model is.

    Reads snapshots on an interval: whether a worker is stuck is a matter of time, not of events.
    """

    def __init__(
        self, health: HealthServicer, models: ModelHost, *, services: Iterable[str], interval_s: float
    ) -> None:
        self._health = health
        self._models = models
        self._services = tuple(services)
        self._interval_s = interval_s
        self.draining = False

    def update(self) -> None:
        """Set the health to what the default model is now."""
        ready = self._models.snapshot().state is EngineState.READY and not self.draining
        for service in self._services:
            self._health.set(service, _Response.SERVING if ready else _Response.NOT_SERVING)

    async def follow(self) -> None:
        """Update until cancelled."""
        while True:
            self.update()
            await asyncio.sleep(self._interval_s)
