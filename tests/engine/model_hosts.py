"""Hosts of scripted engines, whose loading the test carries on."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.contract import EngineCounters, EngineSnapshot, EngineStartError, EngineState
from engine.hosted_model import LoadProgress, ModelSnapshot
from engine.model_host import ModelHost
from engine.model_source import resolve
from engine.options import HostOptions
from engine.scripted import ScriptedEngine, counting_script

OPTIONS = HostOptions(
    source="embedded", load=(), aliases=(), idle_unload_s=0.0, max_memory_bytes=0, workers=1, kv_bytes=0
)
START_S = 100.0


class LoadedEngine(ScriptedEngine):
    """A scripted engine that is loaded when the test says so, and fails when it says that."""

    def __init__(self, source: str, *, gated: bool) -> None:
        super().__init__(counting_script, step_s=0.0)
        self.loading: tuple[str, int, int] | None = None
        self.stopped = False
        self.changes: dict[str, Any] = {}
        """Of its counters."""
        self._source = source
        self._loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not gated:
            self.load()

    def load(self) -> None:
        self._loaded.set_result(None)

    def fail_to_load(self, message: str) -> None:
        self._loaded.set_exception(EngineStartError(message))

    async def start(self) -> None:
        await self._loaded
        self.loading = None
        await super().start()

    async def stop(self) -> None:
        self.stopped = True
        if not self._loaded.done():
            self._loaded.set_exception(EngineStartError("stopped before the model was loaded"))
        await super().stop()

    def snapshot(self) -> EngineSnapshot:
        snapshot = super().snapshot()
        assert snapshot.model is not None
        model = replace(snapshot.model, name=resolve(self._source)[1], source=self._source)
        counters: EngineCounters = replace(snapshot.counters, **self.changes)
        workers = tuple(replace(worker, counters=counters) for worker in snapshot.workers)
        loaded = snapshot.state is not EngineState.STARTING
        return replace(
            snapshot,
            model=model if loaded else None,
            counters=counters,
            workers=workers,
            loading=None if loaded else self.loading,
        )


@dataclass
class Engines:
    """Makes the engines of a host and keeps them by source. gated: whether each waits to be loaded."""

    gated: bool = False
    made: dict[str, LoadedEngine] = field(default_factory=dict)

    def __call__(self, source: str) -> LoadedEngine:
        self.made[source] = LoadedEngine(source, gated=self.gated)
        return self.made[source]


@dataclass
class Hosted:
    """now_s: on the host's clock. available: bytes that the machine has to give."""

    engines: Engines
    now_s: float = START_S
    available: int | None = 2**50
    host: ModelHost = field(init=False)

    def clock(self) -> float:
        return self.now_s

    @property
    def states(self) -> dict[str, str]:
        return {model.name: model.state.value for model in self.host.models()}


def a_model(directory: Path, weights: int = 64) -> str:
    """A directory that passes for a model. Returns its path, the source."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(bytes(weights))
    return str(directory)


@asynccontextmanager
async def hosting(*, gated: bool = False, **options: Any) -> AsyncIterator[Hosted]:
    """A host whose default model is penstock-tiny. gated: of engines made later. options: to change."""
    engines = Engines()
    default = engines("embedded")
    engines.gated = gated
    hosted = Hosted(engines)
    hosted.host = ModelHost(
        default, replace(OPTIONS, **options), engines, available=lambda: hosted.available, clock=hosted.clock
    )
    await hosted.host.start()
    try:
        yield hosted
    finally:
        await hosted.host.stop()
        assert all(engine.stopped for engine in engines.made.values())


async def load(host: ModelHost, source: str, aliases: Sequence[str] = ()) -> ModelSnapshot:
    """The loaded model."""
    told = [each async for each in host.load(source, aliases)]
    model = told.pop()
    assert all(isinstance(each, LoadProgress) for each in told)
    assert isinstance(model, ModelSnapshot)
    return model
