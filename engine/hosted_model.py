"""One model of a server: its engine, who uses it, and what is known of it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

from engine.contract import Engine, EngineError, EngineSnapshot, EngineState, ModelInfo, WorkerSnapshot


class ModelState(StrEnum):
    """Whether a model can take a stream."""

    LOADING = "loading"
    """Being loaded, at first or since its workers ended."""
    READY = "ready"
    STUCK = "stuck"
    """Loaded, but no worker makes steps."""
    UNLOADING = "unloading"
    """Takes no more streams; ends when those it has have ended."""
    FAILED = "failed"
    """Could not be loaded, or its workers do not stay alive."""


_STATES = {
    EngineState.STARTING: ModelState.LOADING,
    EngineState.READY: ModelState.READY,
    EngineState.SUSPECT: ModelState.STUCK,
    EngineState.DEAD: ModelState.LOADING,
    EngineState.FAILED: ModelState.FAILED,
    EngineState.STOPPING: ModelState.READY,
}
_CRASHES = "its workers do not stay alive and are not started again"


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """stage: of wire.LOADING_STAGES, "" before the first; done, total: in bytes, total 0 when unknown."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """One model at one moment.

    info: None before it was loaded once. memory_bytes: resident memory of its workers; what is expected of
    them while that is not known. loading: while it is loaded for the first time. message: what is wrong.
    engine: None for a model that could not be loaded.
    """

    name: str
    aliases: tuple[str, ...]
    source: str
    state: ModelState
    is_default: bool
    info: ModelInfo | None
    streams: int
    memory_bytes: int
    loading: LoadProgress | None
    message: str
    engine: EngineSnapshot | None

    @property
    def workers(self) -> tuple[WorkerSnapshot, ...]:
        """None of a model without an engine."""
        return self.engine.workers if self.engine is not None else ()


class Hold:
    """A model in use: it is not unloaded before `release`, which leaving the block calls."""

    def __init__(self, model: "HostedModel", info: ModelInfo) -> None:
        self.engine: Engine = model.engine
        self.info = info
        self.cut: Callable[[], None] = lambda: None
        """Called when the user is to end at once; it still has to release."""
        self._model = model

    def release(self) -> None:
        """Idempotent."""
        self._model.released(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class HostedModel:
    """Owned by the ModelHost, which decides about it. location: where the source is, "" when unknown.

    expected_bytes: what its workers will take. measured: whether that is known for good; it is not before all
    weights are on this machine.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        name: str,
        source: str,
        location: str,
        expected_bytes: int,
        measured: bool,
        clock: Callable[[], float],
    ) -> None:
        self.engine = engine
        self.source = source
        self.location = location
        self.expected_bytes = expected_bytes
        self.measured = measured
        self.loaded = False
        """Whether its engine has started."""
        self.error: EngineError | None = None
        """Why it could not be loaded."""
        self.loading: asyncio.Task[None] | None = None
        self.unloading: asyncio.Task[None] | None = None
        self.unused = asyncio.Event()
        self.unused.set()
        self.unused_since_s = clock()
        """On the host's clock; meaningless while it is in use."""
        self._name = name
        self._clock = clock
        self._holds: dict[Hold, None] = {}

    @property
    def name(self) -> str:
        """Empty while only the engine could know it."""
        info = self.engine.snapshot().model
        return info.name if info is not None else self._name

    @property
    def streams(self) -> int:
        return len(self._holds)

    @property
    def taken_bytes(self) -> int:
        """What it takes, or will when more than that is expected."""
        return max(self.expected_bytes, _resident_bytes(self.engine.snapshot()))

    def hold(self, info: ModelInfo) -> Hold:
        hold = Hold(self, info)
        self._holds[hold] = None
        self.unused.clear()
        return hold

    def released(self, hold: Hold) -> None:
        if self._holds.pop(hold, self) is None and not self._holds:
            self.unused_since_s = self._clock()
            self.unused.set()

    def cut(self) -> None:
        """Tell every user to end."""
        for hold in tuple(self._holds):
            hold.cut()

    def snapshot(self, aliases: tuple[str, ...], *, is_default: bool) -> ModelSnapshot:
        engine = self.engine.snapshot()
        loading = LoadProgress(*engine.loading) if engine.loading else LoadProgress("", 0, 0)
        return ModelSnapshot(
            name=engine.model.name if engine.model is not None else self._name,
            aliases=aliases,
            source=engine.model.source if engine.model is not None else self.source,
            state=self._state(engine),
            is_default=is_default,
            info=engine.model,
            streams=len(self._holds),
            memory_bytes=_resident_bytes(engine) or self.expected_bytes,
            loading=None if self.loaded else loading,
            message=_CRASHES if engine.state is EngineState.FAILED else "",
            engine=engine,
        )

    def _state(self, engine: EngineSnapshot) -> ModelState:
        if self.unloading is not None:
            return ModelState.UNLOADING
        return _STATES[engine.state]


def failed(name: str, source: str, aliases: tuple[str, ...], message: str) -> ModelSnapshot:
    """A model that could not be loaded."""
    return ModelSnapshot(
        name=name,
        aliases=aliases,
        source=source,
        state=ModelState.FAILED,
        is_default=False,
        info=None,
        streams=0,
        memory_bytes=0,
        loading=None,
        message=message,
        engine=None,
    )


def _resident_bytes(engine: EngineSnapshot) -> int:
    return sum(worker.counters.rss_bytes for worker in engine.workers)
