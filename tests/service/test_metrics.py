"""What a scrape shows, against what clients saw."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from engine.contract import NO_COUNTERS, EngineSnapshot, WorkerSnapshot, WorkerState
from engine.scripted import ScriptedEngine, counting_script
from flowcontrol.reasons import Reason
from service.options import PoolOptions
from tests.flowcontrol.admission.governors import governor_options
from tests.service.calls import Answer, GenerateCall, endless, generate
from tests.service.guards import WATCHED
from tests.service.metered import counting_engine, metered, scraped
from tests.service.scrapes import Scrape
from tests.service.servers import LocalServer

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
POOL = PoolOptions(size=10, max_uses=1000, cleanup_interval_s=60.0)
# So that no window is full before a test has looked, on a busy machine.
SLOWLY_S = 0.05
STREAM = {"model": "scripted", "class": "default", "arm": "control"}


async def until(local: LocalServer, true_of: Callable[[Scrape], bool]) -> Scrape:
    """The first scrape of which it is true. The test's own timeout ends it otherwise."""
    while True:
        seen = await scraped(local)
        if true_of(seen):
            return seen
        await asyncio.sleep(0.02)


@asynccontextmanager
async def reading(local: LocalServer) -> AsyncIterator[GenerateCall]:
    """A stream that has a token and is left alone."""
    async with GenerateCall(local.stubs.generation) as call:
        await call.start(endless(2000))
        await call.read_chunks(1)
        yield call


async def test_finished_streams_are_counted_as_clients_see_them() -> None:
    async with metered(pool=POOL) as local:
        answers: list[Answer] = await asyncio.gather(
            *(generate(local.stubs.generation, endless(tokens)) for tokens in (1, 2, 30, 30))
        )
        seen = await scraped(local)
    tokens = sum(len(answer.token_ids) for answer in answers)
    assert seen.sum("penstock_tokens_total", kind="completion") == tokens == 63
    assert seen.sum("penstock_tokens_total", kind="prompt") == 4 * 4
    assert seen.sum("penstock_streams_ended_total", outcome="finished", **STREAM) == 4
    assert seen.sum("penstock_stream_ttft_seconds_count", **STREAM) == 4
    # Nobody was without credit, so every token but the first has a gap.
    assert seen.sum("penstock_stream_inter_token_seconds_count", **STREAM) == tokens - 4
    timings = [answer.end.timing for answer in answers]
    ttft_s = sum(timing.first_token_ms for timing in timings) / 1e3
    assert seen.sum("penstock_stream_ttft_seconds_sum") == pytest.approx(ttft_s, rel=0.02)
    assert seen.sum("penstock_stream_stage_seconds_sum", stage="first_token") == pytest.approx(
        ttft_s, rel=0.02
    )
    queue_s = sum(timing.queue_ms for timing in timings) / 1e3
    assert seen.sum("penstock_stream_stage_seconds_sum", stage="queue") == pytest.approx(queue_s, rel=0.02)
    chunks = sum(len(answer.chunks) for answer in answers)
    assert seen.sum("penstock_coalesced_tokens_total") == tokens - chunks
    gen_ai = {"gen_ai_request_model": "scripted", "gen_ai_provider_name": "penstock"}
    assert seen.sum("gen_ai_server_time_to_first_token_seconds_count", **gen_ai) == 4
    assert seen.sum("gen_ai_server_time_per_output_token_seconds_count", **gen_ai) == 3
    assert seen.sum("gen_ai_server_request_duration_seconds_count", **gen_ai) == 4
    leases = seen.sum("penstock_message_pool_leases_total")
    assert (leases, seen.sum("penstock_message_pool_messages", state="in_use")) == (4, 0)
    assert seen.sum("penstock_stream_cancellations_total") == 0


async def test_cancellations_are_counted_by_cause() -> None:
    options = {"ack_timeout_s": 0.2, "default_timeout_s": 4.0}
    async with metered(counting_engine(SLOWLY_S), stream=options) as local:
        async with reading(local) as cancelled:
            await cancelled.send(cancel={})
            await cancelled.rest()
        async with reading(local):
            pass  # The connection is lost.
        async with GenerateCall(local.stubs.generation) as call:
            await call.start(endless(2000, flow={"max_unacked_chunks": 1}))
            assert (await call.refused()).reason == Reason.ACK_TIMEOUT
        async with GenerateCall(local.stubs.generation, timeout_s=0.3) as call:
            await call.start(endless(2000))
            await call.half_close()
            with pytest.raises(grpc.aio.AioRpcError):
                await call.rest()
        async with GenerateCall(local.stubs.generation) as call:
            await call.start(endless(2000))
            await call.half_close()
            assert (await call.refused()).reason == Reason.STREAM_TIMEOUT
        async with reading(local) as wrong:
            await wrong.ack(1_000_000)
            assert (await wrong.refused()).reason == Reason.ACK_BEYOND_SENT
        seen = await until(local, lambda seen: seen.sum("penstock_streams_active") == 0)
    causes = {
        cause: seen.sum("penstock_stream_cancellations_total", cause=cause)
        for cause in ("client", "deadline", "ack_timeout", "server")
    }
    assert causes == {"client": 3, "deadline": 2, "ack_timeout": 1, "server": 0}
    ended = {
        outcome: seen.sum("penstock_streams_ended_total", outcome=outcome)
        for outcome in ("cancelled", "failed")
    }
    assert ended == {"cancelled": 3, "failed": 3}


async def test_a_fault_of_the_server_counts_against_it() -> None:
    engine = counting_engine()
    async with metered(engine) as local, reading(local) as call:
        engine.fail(1, Reason.STEP_FAILED, "the model raised")
        assert (await call.refused()).reason == Reason.STEP_FAILED
        seen = await scraped(local)
    assert seen.sum("penstock_stream_cancellations_total", cause="server") == 1
    assert seen.sum("penstock_stream_cancellations_total") == 1


async def test_gauges_are_of_the_moment() -> None:
    async with metered(counting_engine(SLOWLY_S)) as local:
        before = await scraped(local)
        assert before.sum("penstock_streams_active") == 0
        async with reading(local) as call:
            during = await scraped(local)
            assert during.sum("penstock_streams_active", state="streaming") == 1
            assert during.sum("penstock_streams_in_flight") == 1
            assert during.sum("penstock_num_requests_running") == 1
            assert during.sum("penstock_unacked_chunks") > 0
            # Tokens are counted as they are sent, not when the stream has ended.
            assert during.sum("penstock_tokens_total", kind="completion") > 0
            call.cancel()
        await until(local, lambda seen: seen.sum("penstock_streams_active") == 0)


async def test_a_stalled_stream_and_its_parking_show() -> None:
    async with metered() as local, GenerateCall(local.stubs.generation) as call:
        await call.start(endless(2000, flow={"max_unacked_chunks": 2, "max_tokens_per_chunk": 4}))
        parked = await until(local, lambda seen: seen.sum("penstock_streams_parked") == 1)
        assert parked.sum("penstock_streams_stalled") == parked.sum("penstock_streams_active") == 1
        assert parked.sum("penstock_unacked_chunks") == 2
        assert parked.sum("penstock_num_requests_running") == 0
        later = await until(
            local, lambda seen: seen.sum("penstock_backpressure_seconds_total")
            > parked.sum("penstock_backpressure_seconds_total"),
        )  # fmt: skip
        events = {
            event: later.sum("penstock_backpressure_events_total", event=event)
            for event in ("stall", "park", "resume", "evict", "slow_consumer")
        }
        assert events == {"stall": 1, "park": 1, "resume": 0, "evict": 0, "slow_consumer": 0}
        gaps = later.sum("penstock_stream_inter_token_seconds_count")
        await call.read_chunks(2)
        await call.ack(2)
        resumed = await until(local, lambda seen: seen.sum(
            "penstock_backpressure_events_total", event="resume") >= 1)  # fmt: skip
        assert resumed.sum("penstock_coalesced_tokens_total") > 0
        assert resumed.sum("penstock_stream_inter_token_seconds_count") >= gaps


class EvictingEngine(ScriptedEngine):
    """Says of its workers what a test sets: evicted parked caches by the worker's number."""

    evicted: dict[int, int] | None = None

    def snapshot(self) -> EngineSnapshot:
        workers = [
            WorkerSnapshot(
                index, WorkerState.READY, 100, restarts=0, streams=0, silent_s=0.0,
                counters=replace(NO_COUNTERS, evictions=number),
            )
            for index, number in (self.evicted or {}).items()
        ]  # fmt: skip
        return replace(super().snapshot(), workers=tuple(workers))


async def test_evictions_are_those_of_all_lives_of_all_workers() -> None:
    engine = EvictingEngine(counting_script, step_s=0.002)
    async with metered(engine) as local:
        # Worker 1 begins anew, then is gone; then both begin anew.
        for evicted, total in (({0: 3, 1: 1}, 4), ({0: 5, 1: 0}, 6), ({0: 5}, 6), ({0: 2, 1: 2}, 10)):
            engine.evicted = evicted
            seen = await scraped(local)
            assert seen.sum("penstock_backpressure_events_total", event="evict") == total


async def test_requests_that_wait_and_that_are_refused_show() -> None:
    one_place = governor_options(initial_streams=1, queue={"max_requests": 1, "ttl_s": 3.0})
    async with metered(governor=one_place) as local, reading(local):
        seen = await scraped(local)
        # A rate sees the first one only where there was a zero before it.
        assert seen.sum("penstock_refusals_total", reason="queue_full") == 0
        assert seen.sum("penstock_limit_changes_total", reason="lowered_ttft") == 0
        async with GenerateCall(local.stubs.generation) as waiting:
            await waiting.start(endless(5))
            seen = await scraped(local)
            assert seen.sum("penstock_streams_queued", **{"class": "default"}) == 1
            assert seen.sum("penstock_num_requests_waiting") == 1
            assert seen.sum("penstock_queued_tokens") > 0
            assert seen.sum("penstock_streams_limit") == 1
            async with GenerateCall(local.stubs.generation) as refused:
                await refused.send(start=endless(5))
                assert (await refused.refused()).reason == Reason.QUEUE_FULL
            assert (await waiting.refused()).reason == Reason.QUEUE_TIMEOUT
        seen = await scraped(local)
        assert seen.sum("penstock_refusals_total", reason="queue_full") == 1
        assert seen.sum("penstock_refusals_total", reason="queue_timeout") == 1
        # A request that got no stream is in no count of streams that ended.
        assert seen.sum("penstock_stream_cancellations_total") == 0


async def test_a_scrape_is_answered_while_many_streams_run() -> None:
    engine = counting_engine()
    governor = governor_options(initial_streams=75)
    async with metered(engine, governor=governor, stream={"ack_timeout_s": 60.0}) as local:
        calls = [GenerateCall(local.stubs.generation) for _ in range(75)]
        await asyncio.gather(*(call.start(endless(2000)) for call in calls))
        seen = await scraped(local)
        assert seen.sum("penstock_streams_active") == 75
        assert seen.sum("penstock_streams_in_flight") == 75
        for call in calls:
            call.cancel()
        await until(local, lambda seen: seen.sum("penstock_streams_active") == 0)


NOT_SHOWN = {
    # Nothing is evaluated here.
    "penstock_slo_burn_rate",
}


async def test_the_docs_name_every_metric_and_no_other() -> None:
    documented = set(re.findall(r"`((?:penstock|gen_ai|target)_\w+)` \|", DOCS.read_text()))
    small = governor_options(initial_streams=1, queue={"max_requests": 0})
    async with metered(pool=POOL, governor=small, guard=WATCHED) as local:
        await generate(local.stubs.generation, endless(5))
        async with reading(local):
            async with GenerateCall(local.stubs.generation) as refused:
                await refused.send(start=endless(5))
                await refused.refused()
            seen = await scraped(local)
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in seen.names}
    assert shown | NOT_SHOWN == documented
