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
    """The loaded model. context_tokens: most tokens of prompt and output together."""

    name: str
    source: str
    architecture: str
    parameters: int
    vocab_size: int
    context_tokens: int
    has_chat_template: bool


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """What the engine did since it (re)started, and what it holds now."""

    running_rows: int
    waiting_rows: int
    paused_rows: int
    kv_bytes: int
    decode_steps: int
    generated_tokens: int
    max_cancel_delay_steps: int
    """Most decode steps between the arrival of a cancel and its row leaving the batch."""
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """The engine at one moment. model is None until it was loaded once; pid is 0 without a process."""

    state: EngineState
    model: ModelInfo | None
    counters: EngineCounters
    pid: int
    restarts: int
    cpu_blas: str
    """Path of the BLAS library loaded before MLX; empty when MLX's own product is in use."""


class Engine(Protocol):
    """Runs streams on one model. All methods are called on one event loop.

    A stream is known by the number that submit returned, from submit until its Finished or Failed
    event or cancel. cancel, pause and resume of an unknown number do nothing: the stream may have
    ended while the call was on its way.
    """

    async def start(self) -> None:
        """Return when the model is loaded and warm. Raises EngineStartError; then nothing is running."""

    async def stop(self) -> None:
        """End everything. Streams that are left get no more events. Idempotent."""

    def submit(self, request: GenerationRequest, sink: EventSink) -> int:
        """Start a stream; its events go to sink, never before this call has returned.

        Raises EngineError (MODEL_LOADING, WORKER_STUCK, DRAINING) when the engine cannot take it now.
        What only the model can tell (a prompt too long, say) comes as a Failed event.
        """

    def cancel(self, stream: int) -> None:
        """End a stream at once, without an event; its row is free within one decode step."""

    def pause(self, stream: int) -> None:
        """Take the row out of the decode batch and keep its KV cache. A step under way still delivers."""

    def resume(self, stream: int) -> None:
        """Put a paused row back; it goes on exactly where it stopped."""

    async def count_tokens(self, model_input: ModelInput) -> int:
        """Tokens of an input as submit would tokenise it. Raises EngineError."""

    def snapshot(self) -> EngineSnapshot: ...
