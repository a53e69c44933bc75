"""Puts the step loop together from the options."""

import time
from collections.abc import Callable

from engine.mlx_worker.batch import Batch, MakeGenerator
from engine.mlx_worker.first_tokens import FirstTokens
from engine.mlx_worker.prefix_cache import PrefixCache
from engine.mlx_worker.row_prefixes import RowPrefixes
from engine.mlx_worker.step_loop import Send, StepLoop
from engine.options import WorkerOptions
from flowcontrol.parking import ParkingLot
from flowcontrol.prefill_slice import PrefillSlice


def make_step_loop(
    options: WorkerOptions,
    make_generator: MakeGenerator,
    send: Send,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> StepLoop:
    """Call it in the model thread, where the loop is to run."""
    return StepLoop(
        Batch(make_generator),
        send,
        parking=ParkingLot(max_bytes=options.max_parked_kv_bytes, max_s=options.max_parked_s),
        prefixes=RowPrefixes(
            PrefixCache(options.max_prefix_cache_bytes), max_kv_bytes=options.max_kv_bytes, clock=clock
        ),
        slices=PrefillSlice(most=options.prefill_step_tokens, max_gap_s=options.max_decode_gap_s),
        first_tokens=FirstTokens(
            enabled=options.speculate_first_token, max_mismatch_rate=options.max_mismatch_rate
        ),
        max_batch_rows=options.max_batch_rows,
        heartbeat_interval_s=options.heartbeat_interval_s,
        idle_sleep_s=options.idle_sleep_s,
        clock=clock,
    )
