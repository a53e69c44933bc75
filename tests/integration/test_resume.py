"""A broken connection, a killed worker or a restarted server loses no token and repeats none."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

from penstock import Client, Stream
from tests.integration.cable import Cable
from tests.integration.conftest import StartServer
from tests.integration.states import idle
from tests.service.servers import Stubs

PROMPT = "Once upon a time"
TOKENS = 80
EVERY = 7
GREEDY: dict[str, Any] = {"temperature": 0.0}
SEEDED: dict[str, Any] = {"temperature": 0.9, "seed": 11}
ALWAYS: dict[str, Any] = {"max_tokens": TOKENS, "ignore_eos": True, "max_tokens_per_chunk": 1}
# Exactness needs arithmetic that does not depend on the batch.
OPTIONS = {"ENGINE__CPU_BLAS": "none"}


async def collect(stream: Stream, after: Callable[[int], Any]) -> tuple[list[int], str]:
    """All token ids and text; after(n) is called, and awaited if it can be, after the n-th token."""
    ids: list[int] = []
    text = ""
    async for chunk in stream:
        assert chunk.token_offset == len(ids)
        for token_id in chunk.token_ids:
            ids.append(token_id)
        text += chunk.text
        waiting = after(len(ids))
        if waiting is not None:
            await waiting
    return ids, text


def nothing(tokens: int) -> None:
    """Let the stream go on."""


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
async def test_a_connection_cut_at_every_seventh_token(
    grpc_addr: str, stubs: Stubs, sampling: dict[str, Any]
) -> None:
    async with Client(grpc_addr) as direct:
        whole = await collect(direct.generate(PROMPT, **sampling, **ALWAYS), nothing)
    async with Cable(grpc_addr) as cable, Client(cable.address) as client:
        stream = client.generate(PROMPT, retries=3, **sampling, **ALWAYS)
        joined = await collect(stream, lambda tokens: cable.cut() if tokens % EVERY == 0 else None)
        assert joined == whole
        assert cable.cuts == stream.resumes == TOKENS // EVERY
        assert stream.finished.usage.completion_tokens == TOKENS
        assert stream.text == whole[1]
    await idle(stubs)


async def test_a_seed_that_the_server_drew_holds_after_a_cut(grpc_addr: str) -> None:
    async with Cable(grpc_addr) as cable, Client(cable.address) as client:
        stream = client.generate(PROMPT, retries=3, temperature=1.0, **ALWAYS)
        joined = await collect(stream, lambda tokens: cable.cut() if tokens == 30 else None)
        seed = stream.accepted.seed
    async with Client(grpc_addr) as direct:
        again = await collect(direct.generate(PROMPT, temperature=1.0, seed=seed, **ALWAYS), nothing)
    assert joined == again


async def test_a_stop_string_that_began_before_the_cut(grpc_addr: str) -> None:
    """Cut between every two tokens, so also between those of the stop string."""
    async with Client(grpc_addr) as direct:
        plain = await collect(direct.generate(PROMPT, **GREEDY, **ALWAYS), nothing)
        stop = plain[1][60:80]
        options = {**GREEDY, **ALWAYS, "stop": stop}
        whole = await collect(direct.generate(PROMPT, **options), nothing)
        assert whole[1] == plain[1][: plain[1].index(stop)]
    async with Cable(grpc_addr) as cable, Client(cable.address) as client:
        stream = client.generate(PROMPT, retries=3, **options)
        assert await collect(stream, lambda tokens: cable.cut()) == whole
        assert stream.finished.stop_string == stop


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
async def test_a_server_that_is_killed_and_started_again(
    server_process: StartServer, grpc_addr: str, sampling: dict[str, Any]
) -> None:
    async with Client(grpc_addr) as direct:
        whole = await collect(direct.generate(PROMPT, **sampling, **ALWAYS), nothing)
    args = ("--port", str(free_port()))
    first = server_process(OPTIONS, args=args)
    await asyncio.to_thread(first.wait_serving)

    async def restart() -> None:
        first.signal(signal.SIGKILL)
        await asyncio.to_thread(first.wait)
        await asyncio.to_thread(server_process, OPTIONS, args=args)

    async with Client(first.address) as client:
        stream = client.generate(PROMPT, retries=20, **sampling, **ALWAYS)
        joined = await collect(stream, lambda tokens: restart() if tokens == 33 else None)
    assert joined == whole
    assert stream.resumes >= 1


async def test_a_worker_that_is_killed(server_process: StartServer, grpc_addr: str) -> None:
    async with Client(grpc_addr) as direct:
        whole = await collect(direct.generate(PROMPT, **SEEDED, **ALWAYS), nothing)
    server = server_process(OPTIONS)
    await asyncio.to_thread(server.wait_serving)
    async with Client(server.address) as client:
        pid = (await client.status()).workers[0].pid

        def kill(tokens: int) -> None:
            if tokens == 40:
                os.kill(pid, signal.SIGKILL)

        stream = client.generate(PROMPT, retries=20, **SEEDED, **ALWAYS)
        assert await collect(stream, kill) == whole
        # The server goes on by itself.
        assert stream.resumes == 0
