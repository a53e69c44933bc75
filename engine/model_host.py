"""The models of a server: the default one, and those that come and go beside it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from engine.contract import AS_CONFIGURED, Engine, EngineError, EngineSnapshot, EngineStartError, EngineTuning
from engine.hosted_model import Hold, HostedModel, LoadProgress, ModelSnapshot, failed
from engine.machine_memory import available_bytes
from engine.model_memory import check_memory, needed_bytes, weights_bytes
from engine.model_names import ModelNames, invalid
from engine.model_source import NoSuchModelError, resolve
from engine.options import HostOptions
from flowcontrol.reasons import Reason

_log = structlog.get_logger("penstock.models")

# How often it is looked how far loading is.
_LOOK_S = 0.1
_LEAST_PAUSE_S = 0.01
_ONE_MODEL = HostOptions("", (), (), idle_unload_s=0.0, max_memory_bytes=0, workers=1, kv_bytes=0)


class ModelHost:
    """Loads, names and unloads models; each has an engine of its own. Owns the engines from `start` on.

    engine: of the default model, which stays as long as the host. make_engine: the engine for a source; None
    when there is to be no other model. available: bytes of memory that processes may take, None for unknown.
    All methods are called on one event loop.
    """

    def __init__(
        self,
        engine: Engine,
        options: HostOptions,
        make_engine: Callable[[str], Engine] | None,
        *,
        available: Callable[[], int | None] = available_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._make_engine = make_engine
        self._available = available
        self._clock = clock
        self._names = ModelNames(options.aliases)
        try:
            location, name = resolve(options.source) if options.source else ("", "")
        except NoSuchModelError:
            location = name = ""  # The engine itself says what is wrong with it.
        self._default = self._hosted(engine, options.source, location, name)
        self._models: list[HostedModel] = [self._default]
        # Configured models that could not be loaded: name -> (source, what is wrong).
        self._failed: dict[str, tuple[str, str]] = {}
        self._failovers_before = 0
        self._tuning = AS_CONFIGURED
        self._draining = False
        self._idling: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, engine: Engine) -> "ModelHost":
        """A host of one model and no other."""
        return cls(engine, _ONE_MODEL, None)

    async def start(self) -> None:
        """Return when the default model is loaded; the configured ones follow by themselves.

        Raises EngineStartError for the default model. Another one that fails is logged and shown as failed.
        """
        await self._default.engine.start()
        self._default.loaded = True
        for source in self._options.load:
            self._load_configured(source)
        if self._options.idle_unload_s:
            self._idling = asyncio.create_task(self._keep_unloading_idle(), name="idle models")

    def drain(self) -> None:
        """Load no more models; loading under way ends."""
        self._draining = True

    async def stop(self) -> None:
        """End every engine. Streams that are left get no more events. Idempotent."""
        self.drain()
        if self._idling is not None:
            self._idling.cancel()
        unloading = [model.unloading for model in self._models if model.unloading is not None]
        for task in unloading:
            task.cancel()
        loading = [model.loading for model in self._models if model.loading is not None]
        await asyncio.gather(*loading, *unloading, return_exceptions=True)
        await asyncio.gather(*(model.engine.stop() for model in self._models))

    def hold(self, name: str, field: str = "model") -> Hold:
        """The model of a name or alias, the default one for an empty name, in use until it is released.

        Raises EngineError about `field`: MODEL_NOT_FOUND, MODEL_LOAD_FAILED, MODEL_UNLOADED, MODEL_LOADING.
        """
        model = self._find(name, field)
        if model.unloading is not None:
            raise EngineError(Reason.MODEL_UNLOADED, f'the model "{model.name}" is being unloaded')
        info = model.engine.snapshot().model
        if info is None or (model.loading is not None and not model.loaded):
            raise EngineError(Reason.MODEL_LOADING, "the model is being loaded", retry_after_s=1.0)
        return model.hold(info)

    def model(self, name: str, field: str = "name") -> ModelSnapshot:
        """One model. Raises EngineError: MODEL_NOT_FOUND, or MODEL_LOADING while no name is known."""
        meant = self._names.meant(name)
        if meant in self._failed:
            return self._failure(meant)
        return self._snapshot(self._find(name, field))

    def models(self) -> tuple[ModelSnapshot, ...]:
        """Every model whose name is known, the default one first, failed ones last."""
        there = [self._snapshot(model) for model in self._models if model.name]
        return (*there, *(self._failure(name) for name in self._failed))

    def check_ready(self) -> None:
        """Raises EngineError when no model would take a stream now: what is true of the default one."""
        for model in self._models[1:]:
            try:
                model.engine.check_ready()
            except EngineError:
                continue
            return
        self._default.engine.check_ready()

    def snapshot(self) -> EngineSnapshot:
        """All engines as one, whose state and model are the default one's.

        Together are the workers, what waits, failovers, and of the counters decode_steps and running_rows.
        """
        default = self._default.engine.snapshot()
        if len(self._models) == 1 and not self._failovers_before:
            return default
        engines = [default, *(model.engine.snapshot() for model in self._models[1:])]
        return replace(
            default,
            counters=replace(
                default.counters,
                decode_steps=sum(each.counters.decode_steps for each in engines),
                running_rows=sum(each.counters.running_rows for each in engines),
            ),
            workers=tuple(worker for each in engines for worker in each.workers),
            waiting=sum(each.waiting for each in engines),
            failovers=self._failovers_before + sum(each.failovers for each in engines),
        )

    def tune(self, tuning: EngineTuning) -> None:
        """Tune the engines of all models, those that are loaded later included."""
        self._tuning = tuning
        for model in self._models:
            model.engine.tune(tuning)

    def restart_worker(self, name: str, index: int, why: str) -> None:
        """Restart a worker of a model. Raises EngineError as Engine.restart_worker does, and as `hold`."""
        self._find(name, "model").engine.restart_worker(index, why)

    async def load(
        self, source: str, aliases: Sequence[str] = ()
    ) -> AsyncIterator[LoadProgress | ModelSnapshot]:
        """How loading goes, and last the model. A model that is there already gets the aliases, and is told.

        Loading goes on when this is not read to the end. Raises EngineError: INVALID_REQUEST for a source
        that is no model or an alias that is no name, MODEL_NAME_TAKEN, MODEL_MEMORY, MODEL_LOAD_FAILED,
        MODEL_UNLOADED, DRAINING, NOT_IMPLEMENTED where there is one model for good.
        """
        model = self._take_up(source, aliases)
        told: LoadProgress | None = None
        while model.loading is not None and not model.loading.done():
            progress = self._snapshot(model).loading
            if progress is not None and progress != told:
                told = progress
                yield progress
            await asyncio.wait({model.loading}, timeout=_LOOK_S)
        if model.error is not None:
            raise model.error
        yield self._snapshot(model)

    async def unload(self, name: str, *, now: bool) -> int:
        """Take no more streams for a model, wait for those it has, and end it. Returns their number.

        now: cut them instead. Unloading goes on when this is cancelled. Raises EngineError: MODEL_NOT_FOUND,
        MODEL_IS_DEFAULT.
        """
        if self._failed.pop(self._names.meant(name), None) is not None:
            return 0
        model = self._find(name, "name")
        if model is self._default:
            text = f"{model.name} is the default model, which stays as long as the server"
            raise EngineError(Reason.MODEL_IS_DEFAULT, text)
        streams = model.streams
        unloading = self._begin_unloading(model)
        if now:
            model.cut()
        # Waited for, not awaited: who stops waiting does not stop the unloading.
        await asyncio.wait({unloading})
        return streams

    def unload_idle(self) -> float:
        """Unload what had no stream for long enough. Returns the seconds until it may be due again."""
        limit_s = next_s = self._options.idle_unload_s
        for model in self._models[1:]:
            if not model.loaded or model.streams or model.unloading is not None:
                continue
            left_s = model.unused_since_s + limit_s - self._clock()
            if left_s > 0:
                next_s = min(next_s, left_s)
            else:
                _log.info("model idle, unloading it", model=model.name)
                self._begin_unloading(model)
        return next_s

    async def _keep_unloading_idle(self) -> None:
        pause_s = self._options.idle_unload_s
        while True:
            await asyncio.sleep(pause_s)
            pause_s = max(self.unload_idle(), _LEAST_PAUSE_S)

    def _snapshot(self, model: HostedModel) -> ModelSnapshot:
        return model.snapshot(self._names.aliases(model.name), is_default=model is self._default)

    def _failure(self, name: str) -> ModelSnapshot:
        source, message = self._failed[name]
        return failed(name, source, self._names.aliases(name), message)

    def _hosted(self, engine: Engine, source: str, location: str, name: str) -> HostedModel:
        weights = weights_bytes(location) if location else None
        expected = needed_bytes(weights, self._options) if weights is not None else 0
        return HostedModel(
            engine,
            name=name,
            source=source,
            location=_place(location),
            expected_bytes=expected,
            measured=Path(location).is_dir(),
            clock=self._clock,
        )

    def _find(self, name: str, field: str) -> HostedModel:
        if not name:
            return self._default
        meant = self._names.meant(name)
        for model in self._models:
            if model.name == meant:
                return model
        if meant in self._failed:
            raise EngineError(Reason.MODEL_LOAD_FAILED, self._failed[meant][1])
        default = self._default.name
        if not default:
            raise EngineError(Reason.MODEL_LOADING, "the model is being loaded", retry_after_s=1.0)
        known = [model.name for model in self._models]
        known += [alias for each in known for alias in self._names.aliases(each)]
        allowed = ", ".join(f'"{each}"' for each in known)
        meaning = f'"{default}"' if len(known) > 1 else "it"
        text = f'{field}: there is no model "{name}"; allowed: {allowed}, or empty for {meaning}'
        raise EngineError(Reason.MODEL_NOT_FOUND, text, field=field)

    def _load_configured(self, source: str) -> None:
        """Load at the start; a failure is kept to be shown."""
        try:
            model = self._take_up(source, ())
        except EngineError as error:
            self._keep_failure(source, error)
            return
        if model.loading is not None:
            model.loading.add_done_callback(lambda _: self._keep_failure(source, model.error))

    def _keep_failure(self, source: str, error: EngineError | None) -> None:
        if error is None or error.reason in (Reason.MODEL_UNLOADED, Reason.DRAINING):
            return
        try:
            name = resolve(source)[1]
        except NoSuchModelError:
            name = source
        _log.error("model not loaded", source=source, error=error.message)
        self._failed.setdefault(name, (source, error.message))

    def _take_up(self, source: str, aliases: Sequence[str]) -> HostedModel:
        """The model that loading is about, under way or there already. Nothing is changed when it raises."""
        if self._make_engine is None:
            raise EngineError(Reason.NOT_IMPLEMENTED, "this server has one model for good")
        if self._draining:
            raise EngineError(Reason.DRAINING, "the server is shutting down")
        try:
            location, name = resolve(source)
        except NoSuchModelError as error:
            raise invalid("source", str(error)) from error
        there = next((each for each in self._models if each.location == _place(location)), None)
        if there is not None and there.unloading is not None:
            text = f"{there.name} is being unloaded; load it when it is gone"
            raise EngineError(Reason.MODEL_UNLOADED, text, retry_after_s=1.0)
        self._names.check(name, aliases, [each.name for each in self._models if each is not there])
        if there is None:
            weights = weights_bytes(location)
            if weights is not None:
                self._check_memory(source, weights)
            there = self._hosted(self._make_engine(source), source, location, name)
            there.engine.tune(self._tuning)
            there.loading = asyncio.create_task(self._bring_up(there), name=f"loading {name}")
            self._models.append(there)
            self._failed.pop(name, None)
        self._names.add(name, aliases)
        return there

    def _check_memory(self, source: str, weights: int, *, but: HostedModel | None = None) -> None:
        """Raises EngineError MODEL_MEMORY. but: the model itself, when it is there already."""
        others = [model for model in self._models if model is not but]
        check_memory(
            source,
            weights,
            self._options,
            taken=sum(model.taken_bytes for model in others),
            promised=sum(model.expected_bytes for model in others if not model.loaded),
            available=self._available(),
        )

    async def _bring_up(self, model: HostedModel) -> None:
        """Load a model. `model.error` says what went wrong, and then it is gone from the host."""
        began_s = self._clock()
        starting = asyncio.create_task(model.engine.start(), name="engine start")
        try:
            while not starting.done():
                await asyncio.wait({starting}, timeout=_LOOK_S)
                self._check_wanted(model)
                self._check_downloaded(model)
            starting.result()
            model.loaded = True
            model.unused_since_s = self._clock()
            _log.info("model loaded", model=model.name, took_s=round(self._clock() - began_s, 3))
        except EngineStartError as error:
            model.error = EngineError(Reason.MODEL_LOAD_FAILED, str(error))
        except EngineError as error:
            model.error = error
        except Exception as error:
            _log.exception("loading failed", source=model.source)
            model.error = EngineError(Reason.INTERNAL, f"{type(error).__name__}: {error}")
        finally:
            if not model.loaded:
                await model.engine.stop()
                await asyncio.gather(starting, return_exceptions=True)
                self._forget(model)

    def _check_wanted(self, model: HostedModel) -> None:
        if self._draining:
            raise EngineError(Reason.DRAINING, "the server is shutting down")
        if model.unloading is not None:
            raise EngineError(Reason.MODEL_UNLOADED, f"{model.name} was unloaded while it was being loaded")

    def _check_downloaded(self, model: HostedModel) -> None:
        """Once all weights are on the machine: whether there is memory for them."""
        loading = model.engine.snapshot().loading
        if model.measured or loading is None or loading[0] == "download":
            return
        model.measured = True
        weights = weights_bytes(model.location) or 0
        model.expected_bytes = needed_bytes(weights, self._options)
        self._check_memory(model.source, weights, but=model)

    def _begin_unloading(self, model: HostedModel) -> asyncio.Task[None]:
        if model.unloading is None:
            model.unloading = asyncio.create_task(self._take_down(model), name=f"unloading {model.name}")
        return model.unloading

    async def _take_down(self, model: HostedModel) -> None:
        if model.loading is not None:
            await asyncio.wait({model.loading})
        if model.loaded:
            await model.unused.wait()
            await model.engine.stop()
            self._forget(model)
        _log.info("model unloaded", model=model.name)

    def _forget(self, model: HostedModel) -> None:
        self._models.remove(model)
        self._failovers_before += model.engine.snapshot().failovers
        self._names.forget(model.name)


def _place(location: str) -> str:
    """The same for the same directory, however its path is written."""
    return str(Path(location).resolve()) if location and Path(location).is_dir() else location
