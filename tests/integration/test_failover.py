"""Workers of a real server that are killed while callers read: nobody gets an error, every text is exact."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from penstock import Client
from penstock.v1 import status_pb2
from tests.integration.processes import ServerProcess, running_server
from tests.integration.states import WHOLE_AGAIN_S, whole
from tests.integration.tokens import used
from tests.service.calls import Answer, endless, generate
from tests.service.eventually import eventually
from tests.service.servers import Stubs, stubs_of

STREAMS = 16
TOKENS = 150
OPTIONS = {
    "ENGINE__CPU_BLAS": "none",
    "ENGINE__WORKERS": "2",
    "ENGINE__HEARTBEAT_INTERVAL_MS": "50",
    "ENGINE__STUCK_AFTER_MS": "30000",
    "ENGINE__KILL_AFTER_MS": "60000",
    "STREAM_REGISTRY__BACKPRESSURE__ACK_TIMEOUT_MS": "60000",
}
READY = status_pb2.WORKER_STATE_READY


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("failover") / "stderr", OPTIONS) as server:
        yield server


@pytest_asyncio.fixture
async def stubs(server: ServerProcess) -> AsyncIterator[Stubs]:
    async with stubs_of(server.address) as stubs:
        await whole(stubs)
        yield stubs


def asked(n: int) -> Any:
    sampling = {"temperature": 0.0} if n % 2 else {"temperature": 0.9, "seed": n + 1}
    return endless(TOKENS - n, prompt="Once upon a time " * (1 + n % 4), sampling=sampling)


async def answers(stubs: Stubs) -> list[Answer]:
    return list(await asyncio.gather(*(generate(stubs.generation, asked(n)) for n in range(STREAMS))))


async def test_sixteen_streams_outlive_three_kills(stubs: Stubs) -> None:
    expected = await answers(stubs)
    before = await stubs.status()
    dice = random.Random(2)
    running = asyncio.create_task(answers(stubs))
    for _ in range(3):
        steps = sum(worker.generated_tokens for worker in (await stubs.status()).workers)
        more = steps + dice.randrange(50, 400)
        status = await eventually(
            stubs.status,
            lambda s, more=more: (  # type: ignore[misc]
                running.done()
                or (
                    any(worker.state == READY and worker.streams for worker in s.workers)
                    and sum(worker.generated_tokens for worker in s.workers) >= more
                )
            ),
            within_s=WHOLE_AGAIN_S,
        )
        busy = [worker.pid for worker in status.workers if worker.state == READY and worker.streams]
        if busy:
            os.kill(dice.choice(busy), signal.SIGKILL)
    got = await running
    for n, (answer, unbroken) in enumerate(zip(got, expected, strict=True)):
        assert (answer.token_ids, answer.text) == (unbroken.token_ids, unbroken.text), f"stream {n}"
        assert used(answer.end) == used(unbroken.end)
        assert answer.end.reason == unbroken.end.reason
    after = await whole(stubs)
    assert after.failovers > before.failovers
    assert after.streams.ended.failed == before.streams.ended.failed
    assert after.waiting_for_worker == 0
    assert [worker.streams for worker in after.workers] == [0, 0]


async def test_a_python_client_sees_no_more_than_a_pause(server: ServerProcess, stubs: Stubs) -> None:
    """Without retries of its own, and with a window that keeps its stream paused now and then."""

    async def text(kill: bool) -> str:
        async with Client(server.address) as client:
            stream = client.generate("Once upon a time", temperature=0.0, max_tokens=120, ignore_eos=True)
            pieces, tokens = [], 0
            async for chunk in stream:
                pieces.append(chunk.text)
                tokens += len(chunk.token_ids)
                if kill and tokens >= 40:
                    kill = False
                    [pid] = [worker.pid for worker in (await stubs.status()).workers if worker.streams]
                    os.kill(pid, signal.SIGKILL)
            assert stream.resumes == 0
            assert stream.finished.usage.completion_tokens == 120
            return "".join(pieces)

    assert await text(kill=True) == await text(kill=False)
    await whole(stubs)
