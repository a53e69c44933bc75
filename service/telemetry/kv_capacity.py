"""How much KV cache there is, and how much of it is in use: what inference gateways route by."""

from service.telemetry.readings import Reading

BLOCK_TOKENS = 64
"""Tokens of one block, as gateways understand it: the shortest beginning of a prompt that the prefix cache
keeps. KV caches themselves are not paged: each row has one array."""


def capacity_bytes(reading: Reading) -> float:
    """What the rows may use together: admission.max_kv_bytes; without it what every place of every worker
    would take with a context that is full. 0 when no model tells what its tokens take.
    """
    bound = reading.governor.estimates.max_kv_bytes
    if bound:
        return bound
    return sum(
        model.info.kv_bytes_per_token * model.info.context_tokens * reading.max_batch_rows
        for model, _ in reading.workers()
        if model.info is not None
    )


def usage(reading: Reading) -> float:
    """The share of it in use, parked rows included, 0..1; 0 when the capacity is not known."""
    capacity = capacity_bytes(reading)
    return min(1.0, reading.sum(lambda counters: counters.kv_bytes) / capacity) if capacity else 0.0


def blocks(reading: Reading) -> int:
    """The capacity in blocks of the default model; 0 when it is not known."""
    info = reading.models[0].info if reading.models else None
    if info is None or not info.kv_bytes_per_token:
        return 0
    return int(capacity_bytes(reading) / (info.kv_bytes_per_token * BLOCK_TOKENS))
