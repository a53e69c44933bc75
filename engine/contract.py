"""The Engine contract: what the service needs from whatever runs a model."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from engine.events import Event
from engine.requests import GenerationRequest, ModelInput
from flowcontrol.reasons import Reason

EventSink = Callable[[Event], None]
"""Called on the event loop, once per event of a stream, in order. Must not block and must not raise."""


class EngineState(StrEnum):
    """Whether an engine can take a stream."""

    STARTING = "starting"
    READY = "ready"
    SUSPECT = "suspect"
    """No step and no sign of life for longer than allowed."""
    DEAD = "dead"
    """Its process ended; a restart is due after a back-off."""
    FAILED = "failed"
    """Its processes keep ending and are not started again."""
    STOPPING = "stopping"


class EngineError(Exception):
    """A call was refused; nothing was changed."""

    def __init__(
        self, reason: Reason, message: str, *, field: str = "", retry_after_s: float | None = None
    ) -> None:
        """field: path of the field at fault. retry_after_s: when a new try may succeed."""
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s


class EngineStartError(Exception):
    """The engine cannot start with these options (no such model, for example). A new try will not help."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The loaded model.

    context_tokens: most tokens of prompt and output together. fingerprint: equal for equal model and
    tokenizer files, on any machine and under any name. kv_bytes_per_token: what one token of one stream
    keeps in the KV cache; 0 when that is not known.
    """

    name: str
    source: str
    architecture: str
    parameters: int
    vocab_size: int
    context_tokens: int
    has_chat_template: bool
    fingerprint: str
    kv_bytes_per_token: float


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """What the engine did since it (re)started, and what it holds now."""

    running_rows: int
    waiting_rows: int
    paused_rows: int
    kv_bytes: int
    """Of all rows, those parked included."""
    decode_steps: int
    generated_tokens: int
    max_cancel_delay_steps: int
    """Most decode steps between the arrival of a cancel and its row leaving the batch."""
    rss_bytes: int
    parked_kv_bytes: int
    evictions: int
    """Times a parked row lost its KV cache to the budget; it is computed again when the row goes on."""
    prompt_tokens: int
    """Prompt tokens of the streams that were taken up, cached ones included."""
    cached_prompt_tokens: int
    """Of those, tokens whose KV came from the prefix cache."""
    prefix_hits: int
    """Streams that began with a cached prefix."""
    prefix_misses: int
    prefix_cache_bytes: int
    step_s: float
    """Seconds spent in decode steps and prefill, of which outside_model_s not in MLX."""
    outside_model_s: float
    prefill_s: float
    """Of step_s, seconds spent on prompts."""
    max_decode_gap_s: float
    """Longest time between two decode steps while rows were decoded."""
    first_tokens_guessed: int
    first_tokens_wrong: int


NO_COUNTERS = EngineCounters(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0, 0)


class WorkerState(StrEnum):
    """Where a worker process is in its life."""

    STARTING = "starting"
    """Loading and warming up the model."""
    READY = "ready"
    SUSPECT = "suspect"
    """No step and no sign of life for longer than allowed."""
    DEAD = "dead"
    """Its process ended; a restart is due after a back-off."""
    DRAINING = "draining"
    """Ends when its streams have."""
    CRASH_LOOP = "crash_loop"
    """It ended too often without having done anything; it is not started again."""


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """One worker at one moment. pid is 0 without a process. streams: assigned to it.

    silent_s: since its last step or sign of life; 0 while it is not loaded.
    """

    index: int
    state: WorkerState
    pid: int
    restarts: int
    streams: int
    counters: EngineCounters
    silent_s: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineTuning:
    """What may be changed while an engine runs; None: as configured. Raises ValueError for other values.

    prefill_step_tokens: most prompt tokens computed between two decode steps, at least 1.
    max_prefix_cache_bytes: KV cache that each worker keeps of ended streams; 0 for none.
    max_parked_kv_bytes: KV cache that the paused rows of each worker may keep, together; 0 for none.
    """

    prefill_step_tokens: int | None
    max_prefix_cache_bytes: int | None
    max_parked_kv_bytes: int | None

    def __post_init__(self) -> None:
        for name, least in (
            ("prefill_step_tokens", 1),
            ("max_prefix_cache_bytes", 0),
            ("max_parked_kv_bytes", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, or None for as configured; got {value}")


AS_CONFIGURED = EngineTuning(None, None, None)


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """The engine at one moment. model is None until it was loaded once.

    counters: of all workers together. waiting: streams that no worker has room for. failovers: streams that
    went on after the loss of their worker.
    """

    state: EngineState
    model: ModelInfo | None
    counters: EngineCounters
    workers: tuple[WorkerSnapshot, ...]
    waiting: int
    failovers: int
    cpu_blas: str
    """Path of the BLAS library loaded before MLX; empty when MLX's own product is in use."""
    full_batch_step_s: float
    """One decode step with the batch full, as warm-up measured it; 0 when it is not known."""
    loading: tuple[str, int, int] | None = None
    """How far loading is: a stage of wire.LOADING_STAGES, then done and total in bytes; None when loaded."""
    tuning: EngineTuning = AS_CONFIGURED
    """As `tune` was last told."""


class Engine(Protocol):
    """Runs streams on one model. All methods are called on one event loop.

    A stream is known by the number that submit returned, from submit until its Finished or Failed
    event or cancel. The other calls do nothing with an unknown number: the stream may have ended
    while the call was on its way.
    """

    async def start(self) -> None:
        """Return when the model is loaded and warm. Raises EngineStartError; then nothing is running."""

    async def stop(self) -> None:
        """End everything. Streams that are left get no more events. Idempotent."""

    def check_ready(self) -> None:
        """Raises EngineError when submit would refuse any stream now."""

    def prepare(self, request: GenerationRequest) -> int:
        """Tokenise the input of a request that will be submitted later. Returns its number, 0 for none.

        A hint: it may be refused or forgotten at any time, and then submit does the work.
        """

    def forget(self, prepared: int) -> None:
        """A prepared request will not be submitted."""

    def submit(self, request: GenerationRequest, sink: EventSink, *, prepared: int = 0) -> int:
        """Start a stream; its events go to sink, never before this call has returned.

        prepared: what prepare returned for the same request.

        Raises EngineError (MODEL_LOADING, WORKER_STUCK, CRASH_LOOP, DRAINING) when the engine cannot take it
        now. What only the model can tell (a prompt too long, say) comes as a Failed event.
        """

    def add_prompt_part(self, stream: int, text: str, *, last: bool) -> None:
        """The next piece of a prompt that was submitted as PartsInput.

        The output is that of the same text in one piece. An unknown stream is passed over, as below.
        """

    def cancel(self, stream: int) -> None:
        """End a stream at once, without an event; its row is free within one decode step."""

    def pause(self, stream: int) -> None:
        """Take the row out of the decode batch. A step under way still delivers.

        Its KV cache is kept as long as the budget for parked caches allows.
        """

    def resume(self, stream: int) -> None:
        """Put a paused row back; it goes on exactly where it stopped."""

    async def count_tokens(self, model_input: ModelInput) -> int:
        """Tokens of an input as submit would tokenise it. Raises EngineError."""

    def tune(self, tuning: EngineTuning) -> None:
        """Run with these values from the next step on, in place of those of the last call.

        They hold for workers that start later, too. Caches beyond a lower budget are given up at once.
        """

    def restart_worker(self, index: int, why: str) -> None:
        """End the process of a worker, whatever it is doing, and start another one at once.

        Its streams go on as after any loss of a worker, but none of them is held to be the cause, unless it
        was suspect, and the restart is no step towards a crash loop. why: for the log. Raises EngineError:
        INVALID_REQUEST when there is no such worker; MODEL_LOADING, CRASH_LOOP or DRAINING when its model is
        not loaded, as it is not after an earlier call.
        """

    def snapshot(self) -> EngineSnapshot: ...
