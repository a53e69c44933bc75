"""The engines that the conformance suite is run against."""

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from engine.coalescing import CoalescingEngine
from engine.contract import Engine, ModelInfo
from engine.options import PoolOptions, SupervisorOptions, WorkerOptions
from engine.pool_engine import PoolEngine
from engine.requests import GenerationRequest
from engine.scripted import EOS_TOKEN_ID, ScriptedEngine
from tests.engine.requests import Sink
from tests.engine.waiting import eventually

MAX_BATCH_ROWS = 4
# Shorter than a long prompt, so that its prefill takes several steps.
PREFILL_STEP_TOKENS = 64
DEFAULT_MAX_TOKENS = 32
_VOCAB_SIZE = 1024
# A character that is two tokens of the embedded model, with their ids, and the same of the script.
SPLIT_CHARACTER = "ü"
SPLIT_CHARACTER_IDS = (132, 125)
_SCRIPTED_TEXTS = {EOS_TOKEN_ID: "", 132: "", 125: "ü"}

SUPERVISOR = SupervisorOptions(
    start_timeout_s=100.0,
    # Far beyond what a busy machine delays: only the supervision tests want suspicion.
    stuck_after_s=30.0,
    kill_after_s=60.0,
    restart_backoff_initial_s=0.1,
    restart_backoff_max_s=1.0,
    stop_timeout_s=5.0,
)
WORKER = WorkerOptions(
    model="embedded",
    max_batch_rows=MAX_BATCH_ROWS,
    prefill_batch_rows=MAX_BATCH_ROWS,
    prefill_step_tokens=PREFILL_STEP_TOKENS,
    max_context_tokens=320,
    default_max_tokens=DEFAULT_MAX_TOKENS,
    # MLX's own product gives a row the same bits alone and in a batch; with an OpenBLAS it does not.
    cpu_blas="none",
    heartbeat_interval_s=0.02,
    max_parked_kv_bytes=2**30,
    max_parked_s=0.0,
    idle_sleep_s=0.0,
    max_decode_gap_s=0.0,
    max_prefix_cache_bytes=0,
    max_kv_bytes=0,
    speculate_first_token=False,
    max_mismatch_rate=0.01,
    draft_model="",
    draft_tokens=3,
    kv_bits=0,
    kv_group_size=64,
    quantized_kv_start=0,
    max_kv_tokens=0,
)
POOL = PoolOptions(
    workers=1, min_batch_rows=1, steal_threshold_rows=8, max_crashes=8, warm_prompts=16, warm_ttl_s=60.0
)


def seeded_words(request: GenerationRequest) -> Iterator[tuple[int, str]]:
    """Random words that depend on the input and the seed only; of those that a bias asks for, if any."""
    rng = random.Random(repr((request.input, request.sampling.seed)))
    wanted = [token_id for token_id, bias in request.sampling.logit_bias.items() if bias > 0]
    while True:
        token_id = rng.choice(wanted) if wanted else rng.randrange(1, _VOCAB_SIZE)
        yield token_id, _SCRIPTED_TEXTS.get(token_id, f" w{token_id}")


@dataclass(frozen=True)
class Subject:
    """A started engine and what a test must know of its model."""

    engine: Engine
    eos_token_id: int

    @property
    def model(self) -> ModelInfo:
        model = self.engine.snapshot().model
        assert model is not None
        return model

    async def settled(self, *, paused: int = 0, unless: Sink | None = None) -> None:
        """Wait until the engine holds only so many paused rows, or the stream of `unless` has ended.

        By counters that are newer than this call: those of a worker are as old as its last heartbeat.
        """
        old = self.engine.snapshot().workers

        def reached() -> bool:
            if unless is not None and unless.ended.is_set():
                return True
            new = self.engine.snapshot()
            if any(now.counters is then.counters for now, then in zip(new.workers, old, strict=True)):
                return False
            rows = (new.counters.running_rows, new.counters.waiting_rows, new.counters.paused_rows)
            return rows == (0, 0, paused)

        await eventually(reached)


def scripted() -> tuple[Engine, int]:
    engine = ScriptedEngine(
        seeded_words,
        step_s=0.0,
        max_batch_rows=MAX_BATCH_ROWS,
        context_tokens=256,
        default_max_tokens=DEFAULT_MAX_TOKENS,
        vocab_size=_VOCAB_SIZE,
    )
    return engine, EOS_TOKEN_ID


def worker() -> tuple[Engine, int]:
    return PoolEngine(WORKER, SUPERVISOR, POOL), 1


def two_workers() -> tuple[Engine, int]:
    return PoolEngine(WORKER, SUPERVISOR, replace(POOL, workers=2)), 1


def coalescing() -> tuple[Engine, int]:
    engine, eos_token_id = scripted()
    return CoalescingEngine(engine), eos_token_id


MAKERS: dict[str, Callable[[], tuple[Engine, int]]] = {
    "scripted": scripted,
    "coalescing": coalescing,
    "worker": worker,
    "two workers": two_workers,
}


@asynccontextmanager
async def started(kind: str) -> AsyncIterator[Subject]:
    engine, eos_token_id = MAKERS[kind]()
    await engine.start()
    try:
        yield Subject(engine, eos_token_id)
    finally:
        await engine.stop()
