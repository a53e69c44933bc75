"""The instruments of models and their worker processes.

Counters of a worker begin at 0 with each life of its process, as Prometheus expects of a process, so they are
labelled with it.
"""

from collections import Counter
from collections.abc import Callable, Iterable

from engine.contract import EngineCounters, WorkerState
from service.telemetry import instruments
from service.telemetry.readings import Reading
from service.telemetry.tables import Instrument, Kind, Measured, one


def _workers(reading: Reading) -> Iterable[Measured]:
    for model in reading.models:
        states = Counter(worker.state for worker in model.workers)
        for state in WorkerState:
            yield states.get(state, 0), {"model": model.name, "state": state.value}


def _restarts(reading: Reading) -> Iterable[Measured]:
    return [
        (worker.restarts, {"model": model.name, "worker": str(worker.index)})
        for model, worker in reading.workers()
    ]


def _lookups(reading: Reading) -> Iterable[Measured]:
    for model, worker in reading.workers():
        labels = {"model": model.name, "worker": str(worker.index)}
        yield worker.counters.prefix_hits, {**labels, "result": "hit"}
        yield worker.counters.prefix_misses, {**labels, "result": "miss"}


def _of_workers(
    kind: Kind, name: str, unit: str, description: str, read: Callable[[EngineCounters], float]
) -> Instrument[Reading]:
    def values(reading: Reading) -> Iterable[Measured]:
        return [
            (read(worker.counters), {"model": model.name, "worker": str(worker.index)})
            for model, worker in reading.workers()
        ]

    return Instrument(kind, f"penstock.{name}", unit, description, values)


ENGINE: tuple[Instrument[Reading], ...] = (
    Instrument(Kind.GAUGE, "penstock.workers", "", "Worker processes, by state.", _workers),
    Instrument(
        Kind.COUNTER, "penstock.worker_restarts", "", "Worker processes that were started again.", _restarts
    ),
    Instrument(
        Kind.COUNTER, "penstock.failovers", "", "Streams that went on after the loss of their worker.",
        lambda r: one(r.failovers),
    ),
    Instrument(
        Kind.COUNTER, "penstock.prefix_cache_lookups", "", "Streams that found a cached prefix, or none.",
        _lookups,
    ),
    _of_workers(
        Kind.GAUGE, "prefix_cache", "By", "KV cache kept of earlier streams.", lambda c: c.prefix_cache_bytes
    ),
    _of_workers(Kind.COUNTER, "decode_steps", "", "Decode steps.", lambda c: c.decode_steps),
    _of_workers(Kind.GAUGE, "worker.rss", "By", "Resident memory of a worker.", lambda c: c.rss_bytes),
    _of_workers(Kind.COUNTER, "worker_step", "s", "Time in decode steps and prefill.", lambda c: c.step_s),
    _of_workers(
        Kind.COUNTER, "worker_outside_model", "s", "Of that time, what was not spent in the model.",
        lambda c: c.outside_model_s,
    ),
    _of_workers(Kind.GAUGE, "kv", "By", "KV cache of all rows, parked ones included.", lambda c: c.kv_bytes),
    _of_workers(
        Kind.COUNTER, "parked_evictions", "", "Parked rows that lost their KV cache to the budget.",
        lambda c: c.evictions,
    ),
    _of_workers(
        Kind.COUNTER, "first_tokens_guessed", "", "First tokens that were sent before they were computed.",
        lambda c: c.first_tokens_guessed,
    ),
    _of_workers(
        Kind.COUNTER, "first_tokens_wrong", "", "Of those, the wrong ones.", lambda c: c.first_tokens_wrong
    ),
)  # fmt: skip

SERVER: tuple[Instrument[Reading], ...] = (
    *instruments.STREAMS,
    *instruments.CREDITS,
    *instruments.POOL,
    *ENGINE,
    *instruments.ADMISSION,
    *instruments.GATEWAY,
    *instruments.PROCESS,
)
"""Everything that is read from a Reading."""
