"""What the step loop tells of itself with each heartbeat."""

from collections.abc import Collection
from dataclasses import replace

from engine.contract import NO_COUNTERS, EngineCounters
from engine.mlx_worker.batch import Batch
from engine.mlx_worker.first_tokens import FirstTokens
from engine.mlx_worker.loop_times import LoopTimes
from engine.mlx_worker.memory import resident_bytes
from engine.mlx_worker.row import Row
from engine.mlx_worker.row_prefixes import RowPrefixes
from flowcontrol.parking import ParkingSnapshot


def loop_counters(
    rows: Collection[Row],
    batch: Batch,
    parking: ParkingSnapshot,
    prefixes: RowPrefixes,
    times: LoopTimes,
    first_tokens: FirstTokens,
) -> EngineCounters:
    """The counters of the loop's parts in one. rows: all that have not ended."""
    return replace(
        NO_COUNTERS,
        running_rows=len(batch),
        waiting_rows=sum(row.uid is None and not row.paused for row in rows),
        paused_rows=sum(row.paused for row in rows),
        kv_bytes=batch.kv_bytes + parking.bytes,
        decode_steps=times.steps,
        generated_tokens=times.generated_tokens,
        max_cancel_delay_steps=times.max_cancel_delay_steps,
        rss_bytes=resident_bytes(),
        parked_kv_bytes=parking.bytes,
        evictions=parking.evictions,
        prompt_tokens=prefixes.prompt_tokens,
        cached_prompt_tokens=prefixes.cached_prompt_tokens,
        prefix_hits=prefixes.hits,
        prefix_misses=prefixes.misses,
        prefix_cache_bytes=prefixes.nbytes,
        step_s=times.step_s,
        outside_model_s=times.outside_model_s,
        prefill_s=times.prefill_s,
        max_decode_gap_s=times.max_decode_gap_s,
        first_tokens_guessed=first_tokens.guessed,
        first_tokens_wrong=first_tokens.wrong,
    )
