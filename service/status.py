"""StatusService: what the server is doing."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

import grpc

from engine.contract import EngineSnapshot, WorkerSnapshot, WorkerState
from engine.model_host import ModelHost
from flowcontrol.admission.governor import Governor
from flowcontrol.admission.snapshot import GovernorSnapshot
from flowcontrol.pool import PoolSnapshot
from flowcontrol.reasons import Reason
from flowcontrol.registry import RegistrySnapshot, StreamRegistry
from flowcontrol.stream_state import State
from penstock.v1 import status_pb2 as pb
from penstock.v1 import status_pb2_grpc
from penstock.v1.feature_pb2 import Feature
from service.admission_messages import PRIORITIES, admission
from service.calls import answering_errors, write
from service.errors import ServiceError, Violation, abort
from service.guard import GuardSnapshot
from service.guard_messages import remediation, service_levels
from service.message_pool import MessagePool
from service.models import model
from service.stream_snapshot import StreamSnapshot

DEFAULT_INTERVAL_MS = 1000
MIN_INTERVAL_MS = 100
MAX_INTERVAL_MS = 60_000

_WORKER_STATES = {
    WorkerState.STARTING: pb.WORKER_STATE_STARTING,
    WorkerState.READY: pb.WORKER_STATE_READY,
    WorkerState.SUSPECT: pb.WORKER_STATE_SUSPECT,
    WorkerState.DEAD: pb.WORKER_STATE_DEAD,
    WorkerState.DRAINING: pb.WORKER_STATE_DRAINING,
    WorkerState.CRASH_LOOP: pb.WORKER_STATE_CRASH_LOOP,
}
_STREAM_STATES = {
    State.QUEUED: pb.STREAM_STATE_QUEUED,
    State.PREFILL: pb.STREAM_STATE_PREFILL,
    State.STREAMING: pb.STREAM_STATE_STREAMING,
    State.STALLED: pb.STREAM_STATE_STALLED,
}
Context = grpc.aio.ServicerContext[Any, Any]


def stream_counts(snapshot: RegistrySnapshot, governed: GovernorSnapshot) -> pb.StreamCounts:
    active, ended = snapshot.active_by_state, snapshot.ended_by_state
    return pb.StreamCounts(
        active=snapshot.active,
        max_active=governed.limit.limit,
        queued=active[State.QUEUED],
        prefill=active[State.PREFILL],
        streaming=active[State.STREAMING],
        stalled=active[State.STALLED],
        ended=pb.EndedCounts(
            finished=ended[State.FINISHED], cancelled=ended[State.CANCELLED], failed=ended[State.FAILED]
        ),
        refused=sum(governed.refused.values()),
        slow_consumers=snapshot.slow_consumers,
    )


def stream_status(snapshot: StreamSnapshot) -> pb.StreamStatus:
    credits = snapshot.credits
    return pb.StreamStatus(
        request_id=snapshot.request_id,
        state=_STREAM_STATES[snapshot.state],
        window=credits.window,
        sent=credits.sent,
        acked=credits.acked,
        credit=credits.credit,
        credits_enforced=credits.enforced,
        stalled_ms=snapshot.stalled_s * 1e3,
        waiting_tokens=snapshot.waiting_tokens,
        parked=snapshot.parked,
        mean_ack_ms=(snapshot.mean_ack_s or 0.0) * 1e3,
        slow=snapshot.slow,
        age_ms=snapshot.age_s * 1e3,
        tenant=snapshot.tenant,
        priority=PRIORITIES[snapshot.service_class],
        queue_position=snapshot.queue_position,
    )


def message_pool(snapshot: PoolSnapshot) -> pb.MessagePool:
    return pb.MessagePool(
        size=snapshot.size,
        in_use=snapshot.in_use,
        idle=snapshot.idle,
        hits=snapshot.hits,
        misses=snapshot.misses,
        retired=snapshot.retired,
        trimmed=snapshot.trimmed,
    )


def worker(snapshot: WorkerSnapshot, engine: EngineSnapshot, name: str) -> pb.Worker:
    counters = snapshot.counters
    return pb.Worker(
        index=snapshot.index,
        model=name,
        state=_WORKER_STATES[snapshot.state],
        pid=snapshot.pid,
        restarts=snapshot.restarts,
        streams=snapshot.streams,
        running_rows=counters.running_rows,
        waiting_rows=counters.waiting_rows,
        paused_rows=counters.paused_rows,
        kv_bytes=counters.kv_bytes,
        decode_steps=counters.decode_steps,
        generated_tokens=counters.generated_tokens,
        max_cancel_delay_steps=counters.max_cancel_delay_steps,
        cpu_blas=engine.cpu_blas,
        rss_bytes=counters.rss_bytes,
        parked_kv_bytes=counters.parked_kv_bytes,
        evictions=counters.evictions,
        prefix_cache=pb.PrefixCache(
            bytes=counters.prefix_cache_bytes,
            hits=counters.prefix_hits,
            misses=counters.prefix_misses,
            prompt_tokens=counters.prompt_tokens,
            cached_prompt_tokens=counters.cached_prompt_tokens,
        ),
        step_s=counters.step_s,
        outside_model_s=counters.outside_model_s,
        max_decode_gap_ms=counters.max_decode_gap_s * 1e3,
        first_tokens_guessed=counters.first_tokens_guessed,
        first_tokens_wrong=counters.first_tokens_wrong,
        prefill_s=counters.prefill_s,
        silent_ms=snapshot.silent_s * 1e3,
    )


class StatusServicer(status_pb2_grpc.StatusServiceServicer):
    """Reads snapshots; asks nobody and waits for nobody."""

    def __init__(
        self,
        models: ModelHost,
        registry: StreamRegistry,
        streams: Callable[[], Iterable[StreamSnapshot]],
        pool: MessagePool | None,
        *,
        governor: Governor,
        version: str,
        features: Callable[[], Iterable[Feature]] = tuple,
        guard: Callable[[], GuardSnapshot] = lambda: GuardSnapshot(None, None),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = models
        self._registry = registry
        self._streams = streams
        self._pool = pool
        self._governor = governor
        self._version = version
        self._features = features
        self._guard = guard
        self._clock = clock
        self._started_s = clock()
        self.draining = False

    def status(self, *, include_streams: bool) -> pb.Status:
        now_s = self._clock()
        engines = self._models.snapshot()
        models = self._models.models()
        governed = self._governor.snapshot(now_s)
        streams = self._streams() if include_streams else ()
        guarded = self._guard()
        return pb.Status(
            version=self._version,
            uptime_s=now_s - self._started_s,
            draining=self.draining,
            streams=stream_counts(self._registry.snapshot(), governed),
            workers=[
                worker(each, hosted.engine, hosted.name)
                for hosted in models
                if hosted.engine is not None
                for each in hosted.engine.workers
            ],
            waiting_for_worker=engines.waiting,
            failovers=engines.failovers,
            models=[model(hosted) for hosted in models],
            active_streams=[stream_status(stream) for stream in streams if not stream.state.ended],
            message_pool=message_pool(self._pool.snapshot()) if self._pool is not None else None,
            admission=admission(governed, now_s),
            features=self._features(),
            service_levels=service_levels(guarded.slo, now_s) if guarded.slo is not None else None,
            remediation=remediation(guarded.remediation, now_s) if guarded.remediation is not None else None,
        )

    @answering_errors
    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        return pb.GetStatusResponse(status=self.status(include_streams=request.include_streams))

    async def WatchStatus(self, request: pb.WatchStatusRequest, context: Context) -> None:  # type: ignore[override]
        interval_ms = request.interval_ms or DEFAULT_INTERVAL_MS
        if not MIN_INTERVAL_MS <= interval_ms <= MAX_INTERVAL_MS:
            text = f"got {interval_ms}; allowed: 0, or {MIN_INTERVAL_MS} to {MAX_INTERVAL_MS}"
            violation = Violation("interval_ms", text)
            message = f"interval_ms: {text}"
            await abort(context, ServiceError(Reason.INVALID_REQUEST, message, violations=[violation]))
        while True:
            status = self.status(include_streams=request.include_streams)
            await write(context, pb.WatchStatusResponse(status=status))
            if status.draining:
                return
            await asyncio.sleep(interval_ms / 1e3)
