"""Options of the engine, without defaults: config/runtime.yaml is their only home."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker process needs to know. Sent to it in its first frame.

    model: "embedded", a directory or a hub name. max_context_tokens: 0 for the model's own.
    cpu_blas: "auto", "none" or the path of a library. prefill_step_tokens: prompt tokens computed
    between two decode steps. max_parked_kv_bytes: KV cache that paused rows may keep, together.
    max_parked_s: how long one may keep it; 0 for no limit.
    """

    model: str
    max_batch_rows: int
    prefill_batch_rows: int
    prefill_step_tokens: int
    max_context_tokens: int
    default_max_tokens: int
    cpu_blas: str
    heartbeat_interval_s: float
    max_parked_kv_bytes: int
    max_parked_s: float


@dataclass(frozen=True, slots=True)
class SupervisorOptions:
    """How a worker process is watched.

    stuck_after_s: without a step or a heartbeat for this long the worker is suspect; kill_after_s:
    for this long, it is killed and restarted. stop_timeout_s: how long it may take to end when told.
    """

    start_timeout_s: float
    stuck_after_s: float
    kill_after_s: float
    restart_backoff_initial_s: float
    restart_backoff_max_s: float
    stop_timeout_s: float
