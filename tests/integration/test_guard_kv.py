"""Stalled readers whose caches fill the memory for KV: under a guard they give them up, and lose nothing."""

import asyncio
from pathlib import Path

from penstock.v1 import generation_pb2 as pb
from tests.integration.admission_calls import fixed_limit
from tests.integration.guarded import WITHIN_PERIODS, Watch, deeds, guarded, later, periods
from tests.integration.processes import running_server
from tests.integration.states import stalled
from tests.integration.tokens import CONTEXT_TOKENS
from tests.service.calls import GenerateCall, endless, generate
from tests.service.servers import stubs_of

READERS, PROMPT_TOKENS, TOKENS = 4, 320, 100
USUAL_TOKENS = 8
"""What admission expects a stream to have, after the first one."""
BYTES_PER_TOKEN = 2048
"""Of the embedded model: 4 layers with keys and values in 2 heads of 32 numbers of 4 bytes."""
MAX_KV_BYTES = READERS * (PROMPT_TOKENS + USUAL_TOKENS) * BYTES_PER_TOKEN
"""Just enough for all readers, as admission expects; 98 % of it are their prompts."""
OPTIONS = {
    "ENGINE__CPU_BLAS": "none",
    "ENGINE__MAX_CONTEXT_TOKENS": str(CONTEXT_TOKENS),
    "ENGINE__HEARTBEAT_INTERVAL_MS": "20",
    "ADMISSION__MAX_KV_BYTES": str(MAX_KV_BYTES),
}


def reader(number: int) -> pb.Start:
    """It stalls after its first token."""
    ids = [10 + (number + place) % 500 for place in range(PROMPT_TOKENS)]
    return endless(TOKENS, tokens={"ids": ids}, flow={"max_unacked_chunks": 1, "max_tokens_per_chunk": 1})


async def test_parked_caches_are_given_up_when_they_fill_the_memory(tmp_path: Path) -> None:
    options = guarded("act", **fixed_limit(2 * READERS), **OPTIONS)
    with running_server(tmp_path / "stderr", options) as server:
        async with stubs_of(server.address) as stubs:
            await generate(stubs.generation, endless(USUAL_TOKENS))
            calls = [GenerateCall(stubs.generation) for _ in range(READERS)]
            for number, call in enumerate(calls):
                assert deeds(await stubs.status()) == []
                await call.start(reader(number))
                full = await stalled(stubs, number + 1)
            watch = Watch(stubs, 0.0)
            taken = await watch.done("EVICT_CACHES", "TAKEN")
            assert periods(full.uptime_s, taken) <= WITHIN_PERIODS
            assert taken.cause.startswith("KV memory ")
            undone = await watch.done("EVICT_CACHES", "UNDONE")
            assert undone.at_s > taken.at_s
            after = await later(stubs, 2)
            assert [(deed.what, deed.outcome) for deed in deeds(after)] == [
                ("EVICT_CACHES", "TAKEN"),
                ("EVICT_CACHES", "UNDONE"),
            ]
            assert list(after.remediation.active) == []
            worker = after.workers[0]
            # The last one may have been parked after it.
            assert worker.evictions >= READERS - 1
            assert worker.parked_kv_bytes < MAX_KV_BYTES / 2
            assert worker.restarts == 0
            # They go on where they stood: what was given up is computed again.
            for call in calls:
                await call.half_close()
            answers = await asyncio.gather(*(call.rest() for call in calls))
            assert [len(answer.token_ids) for answer in answers] == [TOKENS] * READERS
