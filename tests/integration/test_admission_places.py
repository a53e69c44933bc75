"""A limit above what the engine can run: permits follow the places in its batch."""

import asyncio
from pathlib import Path

from tests.integration.admission_calls import at_rest, fixed_limit
from tests.integration.processes import running_server
from tests.service.calls import GenerateCall, endless
from tests.service.eventually import eventually
from tests.service.servers import stubs_of

PLACES, LIMIT, TOKENS = 2, 12, 120
OPTIONS = fixed_limit(LIMIT, ENGINE__MAX_BATCH_ROWS=str(PLACES), ENGINE__PREFILL_BATCH_ROWS=str(PLACES))


async def test_who_waits_waits_in_the_queue_and_not_in_the_engine(tmp_path: Path) -> None:
    with running_server(tmp_path / "stderr", OPTIONS) as server:
        async with stubs_of(server.address) as stubs:

            async def answer() -> int:
                async with GenerateCall(stubs.generation) as call:
                    await call.start(endless(TOKENS))
                    await call.half_close()
                    return len((await call.rest()).token_ids)

            # So many that one of them waits in the engine: it might have had places for any number before.
            first = [asyncio.create_task(answer()) for _ in range(PLACES + 1)]
            await eventually(stubs.status, lambda status: status.admission.limits.in_flight == PLACES + 1)
            rest = [asyncio.create_task(answer()) for _ in range(LIMIT)]
            in_flight = []
            while not all(task.done() for task in (*first, *rest)):
                in_flight.append((await stubs.status()).admission.limits.in_flight)
            assert set(await asyncio.gather(*first, *rest)) == {TOKENS}
            # An eighth of its places, at least one, waits in front of the batch, whatever ends when.
            assert max(in_flight) == PLACES + 1
            assert (await at_rest(stubs)).admission.limits.limit == LIMIT
