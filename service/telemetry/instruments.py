"""The instruments of streams, admission, pool and process. docs/metrics.md tells what each means."""

from collections.abc import Callable, Iterable

from flowcontrol.admission.ask import ServiceClass
from flowcontrol.limits.contract import LimitReason
from flowcontrol.stream_state import State
from service.telemetry import kv_capacity
from service.telemetry.readings import Reading
from service.telemetry.tables import Instrument, Kind, Measured, by_label, one


def _counter(
    name: str, unit: str, description: str, read: Callable[[Reading], Iterable[Measured]]
) -> Instrument[Reading]:
    return Instrument(Kind.COUNTER, f"penstock.{name}", unit, description, read)


def _gauge(
    name: str, unit: str, description: str, read: Callable[[Reading], Iterable[Measured]]
) -> Instrument[Reading]:
    return Instrument(Kind.GAUGE, f"penstock.{name}", unit, description, read)


def _ended(reading: Reading) -> Iterable[Measured]:
    for labels, ended in reading.totals.ended.items():
        service_class = labels.service_class.name.lower()
        shown = {"model": labels.model, "class": service_class, "arm": labels.arm}
        for outcome, number in ended.items():
            yield number, {**shown, "outcome": outcome}


def _tokens(reading: Reading) -> Iterable[Measured]:
    """Those of streams that have not ended are in it, so that a rate follows long streams too."""
    totals = reading.totals
    sent = totals.completion_tokens + sum(stream.sent_tokens for stream in reading.streams)
    return by_label(
        "kind", {"prompt": totals.prompt_tokens, "cached_prompt": totals.cached_tokens, "completion": sent}
    )


def _queued(reading: Reading) -> Iterable[Measured]:
    queued = reading.governor.queued
    return by_label("class", {each.name.lower(): queued.get(each, 0) for each in ServiceClass})


def _backpressure(reading: Reading) -> Iterable[Measured]:
    counts = reading.registry.backpressure
    return by_label(
        "event",
        {
            "stall": counts.stalls,
            "park": counts.parks,
            "resume": counts.resumes,
            "evict": reading.evictions,
            "slow_consumer": reading.registry.slow_consumers,
        },
    )


def _backpressure_s(reading: Reading) -> Iterable[Measured]:
    return one(reading.registry.backpressure.stalled_s + sum(each.stalled_s for each in reading.streams))


def _changes(reading: Reading) -> Iterable[Measured]:
    """All from 0 on: Prometheus sees no increase in a series that begins with 1."""
    changes = reading.governor.limit.changes
    return by_label("reason", {each.value.lower(): changes.get(each, 0) for each in LimitReason})


def _running(reading: Reading) -> Iterable[Measured]:
    """Those that the engine works on; parked ones are out of the batch."""
    return one(sum(stream.state is not State.QUEUED and not stream.parked for stream in reading.streams))


STREAMS: tuple[Instrument[Reading], ...] = (
    _gauge(
        "streams.active", "", "Streams that have not ended, by state.",
        lambda r: by_label("state", {s.value: n for s, n in r.registry.active_by_state.items()}),
    ),
    _gauge("streams.limit", "", "Most streams in flight that may be.", lambda r: one(r.governor.limit.limit)),
    _gauge(
        "streams.in_flight", "", "Streams with a permit.", lambda r: one(sum(r.governor.in_flight.values()))
    ),
    _gauge("streams.queued", "", "Requests that wait for a permit, by class.", _queued),
    _counter("streams.ended", "", "Streams that ended, by how: finished, cancelled, failed.", _ended),
    _counter(
        "stream.cancellations", "", "Streams that did not finish, by who ended them.",
        lambda r: by_label("cause", {cause.value: n for cause, n in r.totals.cancelled.items()}),
    ),
    _counter(
        "refusals", "", "Requests that got no stream, by reason; those that waited first included.",
        lambda r: by_label("reason", {reason.value.lower(): n for reason, n in r.totals.refused.items()}),
    ),
    _counter("tokens", "", "Tokens, by kind; prompts at the end of their stream.", _tokens),
    _counter(
        "slow_consumers", "", "Streams whose reader acks too slowly.",
        lambda r: one(r.registry.slow_consumers),
    ),
)  # fmt: skip

CREDITS: tuple[Instrument[Reading], ...] = (
    _gauge(
        "unacked_chunks", "", "Chunks sent and not acked, all streams together.",
        lambda r: one(sum(stream.credits.unacked for stream in r.streams if stream.credits.enforced)),
    ),
    _gauge(
        "streams.stalled", "", "Streams whose tokens wait for credit.",
        lambda r: one(r.registry.active_by_state[State.STALLED]),
    ),
    _gauge(
        "streams.parked", "", "Streams whose row is out of the batch, because their reader is behind.",
        lambda r: one(sum(stream.parked for stream in r.streams)),
    ),
    _gauge(
        "parked_kv", "By", "KV cache that parked rows keep.",
        lambda r: one(r.sum(lambda c: c.parked_kv_bytes)),
    ),
    _counter(
        "coalesced_tokens", "", "Tokens that shared a chunk with an earlier one.",
        lambda r: one(r.registry.backpressure.coalesced_tokens),
    ),
    _counter("backpressure_events", "", "What readers that fell behind led to, by event.", _backpressure),
    _counter("backpressure", "s", "Time that streams waited for credit.", _backpressure_s),
)  # fmt: skip

POOL: tuple[Instrument[Reading], ...] = (
    _gauge(
        "message_pool.messages", "", "Messages of the pool, by state.",
        lambda r: by_label("state", {"in_use": r.pool.in_use, "idle": r.pool.idle}) if r.pool else (),
    ),
    _counter(
        "message_pool.leases", "", "Messages lent: idle ones (hit) or new ones (miss).",
        lambda r: by_label("result", {"hit": r.pool.hits, "miss": r.pool.misses}) if r.pool else (),
    ),
    _counter(
        "message_pool.retired", "", "Messages given up for their uses.",
        lambda r: one(r.pool.retired) if r.pool else (),
    ),
    _counter(
        "message_pool.trimmed", "", "Messages given up because they stayed idle.",
        lambda r: one(r.pool.trimmed) if r.pool else (),
    ),
)  # fmt: skip

ADMISSION: tuple[Instrument[Reading], ...] = (
    _counter("limit_changes", "", "Moves of the limit, by reason.", _changes),
    _gauge(
        "queued_tokens", "", "Tokens that wait: prompts and expected output.",
        lambda r: one(r.governor.queued_tokens),
    ),
    _gauge(
        "prefill_tokens_per_second", "", "Estimated rate at which a backlog of prompts is computed.",
        lambda r: one(r.governor.estimates.prefill_tokens_per_s or 0.0),
    ),
)  # fmt: skip

GATEWAY: tuple[Instrument[Reading], ...] = (
    _gauge(
        "num_requests_waiting", "", "Requests that wait for a permit, or for a place in a batch.",
        lambda r: one(r.registry.active_by_state[State.QUEUED]),
    ),
    _gauge("num_requests_running", "", "Requests whose prompt or output is being computed.", _running),
    _gauge("kv_cache_usage_perc", "", "KV cache in use, 0..1.", lambda r: one(kv_capacity.usage(r))),
    _gauge(
        "cache_config_info", "", "The KV cache in blocks of tokens; always 1.",
        lambda r: one(
            1, block_size=str(kv_capacity.BLOCK_TOKENS), num_gpu_blocks=str(kv_capacity.blocks(r))
        ),
    ),
)  # fmt: skip

PROCESS: tuple[Instrument[Reading], ...] = (
    _gauge("build_info", "", "The version that runs; always 1.", lambda r: one(1, version=r.version)),
    _gauge("uptime", "s", "Since the server started.", lambda r: one(r.uptime_s)),
    _gauge("asyncio_tasks", "", "Tasks of the server's event loop.", lambda r: one(r.tasks)),
    _gauge("allocated_blocks", "", "Blocks of memory that Python holds.", lambda r: one(r.blocks)),
)
