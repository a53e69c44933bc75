"""Options of the engine, without defaults: config/runtime.yaml is their only home."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker process needs to know. Sent to it in its first frame.

    model: "embedded", a directory or a hub name. max_context_tokens: 0 for the model's own.
    cpu_blas: "auto", "none" or the path of a library. prefill_step_tokens: prompt tokens computed
    between two decode steps. max_parked_kv_bytes: KV cache that paused rows may keep, together.
    max_parked_s: how long one may keep it; 0 for no limit. idle_sleep_s: how long an idle worker waits for
    more rows before it begins with the first. max_decode_gap_s: what prefill may add between two tokens of a
    stream; slices are cut to it; 0 for slices of prefill_step_tokens whatever they take.
    max_prefix_cache_bytes: KV cache kept of ended streams; 0 for none. max_kv_bytes: of all rows and cached
    prefixes together; 0 for no bound; prefixes give way. speculate_first_token: send the first token that
    the same greedy prompt gave before, and check it. max_mismatch_rate: share of wrong ones above which
    that ends. draft_model: "" for none; draft_tokens: how many it proposes at a time. kv_bits: 0 for a KV
    cache as the model makes it; kv_group_size, quantized_kv_start: as in mlx-lm. max_kv_tokens: length of
    a rotating KV cache; 0 for one that keeps all.
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
    idle_sleep_s: float
    max_decode_gap_s: float
    max_prefix_cache_bytes: int
    max_kv_bytes: int
    speculate_first_token: bool
    max_mismatch_rate: float
    draft_model: str
    draft_tokens: int
    kv_bits: int
    kv_group_size: int
    quantized_kv_start: int
    max_kv_tokens: int


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


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How the workers of a model share its streams.

    min_batch_rows: streams that a worker gets before the next one is used. steal_threshold_rows: by how many
    streams a worker that has the prefix cached may be fuller than another and still get the stream.
    max_crashes: lives of a worker in a row that brought nothing, after which it is not started again.
    warm_prompts: prompts that may be tokenised while they wait for admission; warm_ttl_s: for how long each
    is kept.
    """

    workers: int
    min_batch_rows: int
    steal_threshold_rows: int
    max_crashes: int
    warm_prompts: int
    warm_ttl_s: float


@dataclass(frozen=True, slots=True)
class HostOptions:
    """The models of a server.

    source: of the default model; empty when its engine alone knows. load: sources of further ones, loaded
    when the default one is there. aliases: (alias, name) pairs, whether such a model is loaded or not.
    idle_unload_s: a model without a stream for this long is unloaded, never the default one; 0 for never.
    max_memory_bytes: of all models together; 0 for what the machine has. workers: processes of each model.
    kv_bytes: what each of them may keep in KV caches.
    """

    source: str
    load: tuple[str, ...]
    aliases: tuple[tuple[str, str], ...]
    idle_unload_s: float
    max_memory_bytes: int
    workers: int
    kv_bytes: int
