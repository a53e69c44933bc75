"""StatusService: what the server is doing."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc

from engine.contract import Engine, EngineSnapshot, EngineState
from flowcontrol.reasons import Reason
from flowcontrol.registry import RegistrySnapshot, StreamRegistry
from flowcontrol.stream_state import State
from penstock.v1 import status_pb2 as pb
from penstock.v1 import status_pb2_grpc
from service.calls import answering_errors, write
from service.errors import ServiceError, Violation, abort
from service.models import models

DEFAULT_INTERVAL_MS = 1000
MIN_INTERVAL_MS = 100
MAX_INTERVAL_MS = 60_000

_WORKER_STATES = {
    EngineState.STARTING: pb.WORKER_STATE_STARTING,
    EngineState.READY: pb.WORKER_STATE_READY,
    EngineState.SUSPECT: pb.WORKER_STATE_SUSPECT,
    EngineState.DEAD: pb.WORKER_STATE_DEAD,
    EngineState.STOPPING: pb.WORKER_STATE_STOPPING,
}
Context = grpc.aio.ServicerContext[Any, Any]


def stream_counts(snapshot: RegistrySnapshot) -> pb.StreamCounts:
    active, ended = snapshot.active_by_state, snapshot.ended_by_state
    return pb.StreamCounts(
        active=snapshot.active,
        max_active=snapshot.max_active,
        queued=active[State.QUEUED],
        prefill=active[State.PREFILL],
        streaming=active[State.STREAMING],
        stalled=active[State.STALLED],
        ended=pb.EndedCounts(
            finished=ended[State.FINISHED], cancelled=ended[State.CANCELLED], failed=ended[State.FAILED]
        ),
        refused=snapshot.refused,
    )


def worker(snapshot: EngineSnapshot) -> pb.Worker:
    counters = snapshot.counters
    return pb.Worker(
        state=_WORKER_STATES[snapshot.state],
        pid=snapshot.pid,
        restarts=snapshot.restarts,
        running_rows=counters.running_rows,
        waiting_rows=counters.waiting_rows,
        paused_rows=counters.paused_rows,
        kv_bytes=counters.kv_bytes,
        decode_steps=counters.decode_steps,
        generated_tokens=counters.generated_tokens,
        max_cancel_delay_steps=counters.max_cancel_delay_steps,
        cpu_blas=snapshot.cpu_blas,
        rss_bytes=counters.rss_bytes,
    )


class StatusServicer(status_pb2_grpc.StatusServiceServicer):
    """Reads snapshots; asks nobody and waits for nobody."""

    def __init__(
        self,
        engine: Engine,
        registry: StreamRegistry,
        *,
        version: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._version = version
        self._clock = clock
        self._started_s = clock()
        self.draining = False

    def status(self) -> pb.Status:
        engine = self._engine.snapshot()
        return pb.Status(
            version=self._version,
            uptime_s=self._clock() - self._started_s,
            draining=self.draining,
            streams=stream_counts(self._registry.snapshot()),
            worker=worker(engine),
            models=models(engine),
        )

    @answering_errors
    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        return pb.GetStatusResponse(status=self.status())

    async def WatchStatus(self, request: pb.WatchStatusRequest, context: Context) -> None:  # type: ignore[override]
        interval_ms = request.interval_ms or DEFAULT_INTERVAL_MS
        if not MIN_INTERVAL_MS <= interval_ms <= MAX_INTERVAL_MS:
            text = f"got {interval_ms}; allowed: 0, or {MIN_INTERVAL_MS} to {MAX_INTERVAL_MS}"
            violation = Violation("interval_ms", text)
            message = f"interval_ms: {text}"
            await abort(context, ServiceError(Reason.INVALID_REQUEST, message, violations=[violation]))
        while True:
            status = self.status()
            await write(context, pb.WatchStatusResponse(status=status))
            if status.draining:
                return
            await asyncio.sleep(interval_ms / 1e3)
