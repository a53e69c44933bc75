"""The workers in `penstock status`: one in a few lines, several in a table."""

from collections import Counter
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from penstock.v1.status_pb2 import Status, Worker, WorkerState
from service.terminal import size

Line = tuple[str, str]


def worker_lines(now: Status) -> list[Line]:
    """What is said of the workers in lines of a name and a value."""
    workers = now.workers
    return [
        *(_one(workers[0]) if len(workers) == 1 else _several(workers)),
        *_cache(workers),
        *([("Waiting", f"{now.waiting_for_worker} streams for a worker")] if now.waiting_for_worker else []),
        *([("Failover", f"{now.failovers} streams outlived a worker")] if now.failovers else []),
    ]


def worker_table(workers: Sequence[Worker]) -> Table:
    """A line for each worker, in 80 columns."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("Worker", no_wrap=True)
    table.add_column("State", no_wrap=True)
    for name in ("Process", "Restarts", "Streams", "Run/wait/paused", "Tokens", "Memory"):
        table.add_column(name, justify="right", no_wrap=True)
    for worker in workers:
        cells = (
            str(worker.index),
            _state(worker),
            str(worker.pid or "none"),
            str(worker.restarts),
            str(worker.streams),
            f"{worker.running_rows}/{worker.waiting_rows}/{worker.paused_rows}",
            str(worker.generated_tokens),
            size(worker.rss_bytes),
        )
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _one(worker: Worker) -> list[Line]:
    return [
        ("Worker", f"{_state(worker)}, process {worker.pid or 'none'}, restarts {worker.restarts}"),
        _memory([worker]),
        ("BLAS", worker.cpu_blas or "MLX's own"),
        ("Tokens", f"{worker.generated_tokens} in {worker.decode_steps} steps"),
        (
            "Batch",
            f"{worker.running_rows} running, {worker.waiting_rows} waiting, {worker.paused_rows} paused, "
            f"{worker.evictions} evictions",
        ),
    ]


def _several(workers: Sequence[Worker]) -> list[Line]:
    if not workers:
        return []
    states = Counter(_state(worker) for worker in workers)
    return [
        ("Workers", ", ".join(f"{number} {state}" for state, number in states.items())),
        _memory(workers),
        ("BLAS", workers[0].cpu_blas or "MLX's own"),
    ]


def _memory(workers: Sequence[Worker]) -> Line:
    resident, cache, parked = (
        size(sum(getattr(worker, name) for worker in workers))
        for name in ("rss_bytes", "kv_bytes", "parked_kv_bytes")
    )
    return "Memory", f"{resident} resident, {cache} KV cache, {parked} of it parked"


def _cache(workers: Sequence[Worker]) -> list[Line]:
    """The prefix cache, once it has been used."""
    caches = [worker.prefix_cache for worker in workers]
    hits, misses = sum(cache.hits for cache in caches), sum(cache.misses for cache in caches)
    prompts = sum(cache.prompt_tokens for cache in caches)
    if not hits + misses:
        return []
    cached = sum(cache.cached_prompt_tokens for cache in caches)
    share = f", {100 * cached / prompts:.0f} % of prompt tokens" if prompts else ""
    held = size(sum(cache.bytes for cache in caches))
    return [("Prefixes", f"{hits} of {hits + misses} prompts had one cached{share}, {held}")]


def _state(worker: Worker) -> str:
    return WorkerState.Name(worker.state).removeprefix("WORKER_STATE_").lower().replace("_", " ")
