"""Load on a real server with a scripted engine, from the first call to the numbers."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

from penstock import UnavailableError
from penstock.v1.generation_pb2 import Priority
from penstock.v1.generation_pb2_grpc import add_GenerationServiceServicer_to_server
from service.load.connections import Connections
from service.load.options import ArrivalKind, LoadOptions
from service.load.session import run_session
from tests.client.doubles import Exchange, ScriptedServer, never_ending
from tests.service.drivers import scripted_engine
from tests.service.load_runs import load_options
from tests.service.servers import serving

MAX_TOKENS = 6


@pytest_asyncio.fixture
async def address() -> AsyncIterator[str]:
    """Of a server whose engine makes a step in each turn of the loop."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with serving(scripted_engine(step_s=0), port=port):
        yield f"127.0.0.1:{port}"


@pytest.fixture
def servicer() -> ScriptedServer:
    return ScriptedServer()


@pytest_asyncio.fixture
async def scripted_address(servicer: ScriptedServer) -> AsyncIterator[str]:
    """Of a server that plays scripts."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_GenerationServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


def options(target: str, **changes: Any) -> LoadOptions:
    """Three dozen requests in a third of a second."""
    short = {"rate_per_s": 120.0, "duration_s": 0.3, "max_tokens": MAX_TOKENS, "grace_s": 60.0}
    return load_options(target=target, **(short | changes))


async def numbers_of(given: LoadOptions, file: Path) -> dict[str, Any]:
    await run_session(given, str(file))
    numbers = json.loads(await asyncio.to_thread(file.read_text, encoding="utf-8"))
    assert isinstance(numbers, dict)
    return numbers


def endings(numbers: dict[str, Any]) -> dict[str, int]:
    return {name: count for name, count in numbers["requests"].items() if count}


async def test_every_request_is_answered(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = await numbers_of(options(address), tmp_path / "out.json")
    assert endings(numbers) == {"asked": 36, "answered": 36}
    assert numbers["output_tokens"] == 36 * MAX_TOKENS
    assert numbers["ttft_ms"]["samples"] == numbers["queue_ms"]["samples"] == 36
    assert numbers["ttft_ms"]["p50"] > 0
    assert numbers["ttft_ms"]["p99"] is None
    assert numbers["lag_ms"]["samples"] == 36
    assert sum(second["tokens"] for second in numbers["seconds"]) == 36 * MAX_TOKENS
    assert numbers["parameters"]["seed"] == 7
    assert numbers["parameters"]["arrivals"] == "constant"
    out, err = capsys.readouterr()
    assert "36 asked, 36 answered, 0 refused" in out
    assert max(map(len, out.splitlines())) <= 80
    # No terminal, no bar; a warning when this machine was too busy to send in time.
    assert "asked" not in err
    assert ("sent late" in err) == numbers["lag_ms"]["late"]


async def test_tenants_and_a_closed_loop(address: str, tmp_path: Path) -> None:
    given = options(
        address,
        arrivals=ArrivalKind.CLOSED,
        duration_s=60.0,
        callers=3,
        max_requests=30,
        tenants={"a": 1.0, "b": 2.0},
    )
    numbers = await numbers_of(given, tmp_path / "out.json")
    assert endings(numbers) == {"asked": 30, "answered": 30}
    assert [tenant["name"] for tenant in numbers["tenants"]] == ["a", "b"]
    tokens = [tenant["tokens"] for tenant in numbers["tenants"]]
    assert sum(tokens) == 30 * MAX_TOKENS
    jain = sum(tokens) ** 2 / (2 * sum(number**2 for number in tokens))
    assert numbers["jain"] == pytest.approx(jain)


async def test_json_in_place_of_tables(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    await run_session(options(address), "-")
    assert json.loads(capsys.readouterr().out)["requests"]["answered"] == 36


def refusing_first(calls: int) -> Callable[[Exchange], Any]:
    """Refuses so many calls, and answers those after them."""
    left = calls

    async def script(exchange: Exchange) -> None:
        nonlocal left
        if left:
            left -= 1
            retry = RetryInfo(retry_delay=Duration(nanos=50_000_000))
            info = ErrorInfo(reason="QUEUE_FULL")
            await exchange.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "The queue is full.", info, retry)
        await exchange.accept()
        await exchange.chunk()
        await exchange.finish()

    return script


async def test_refused_callers_come_back(
    scripted_address: str, servicer: ScriptedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    servicer.script = refusing_first(8)
    # Long enough that the last one's time to come back is before the end.
    given = options(scripted_address, rate_per_s=8.0, duration_s=1.0, max_tries=20)
    numbers = await numbers_of(given, tmp_path / "out.json")
    assert endings(numbers) == {"asked": 8, "answered": 8}
    refusals = numbers["refusals"]
    assert refusals["by_reason"] == {"QUEUE_FULL": 8}
    assert refusals["first_tries"] + refusals["retries"] == numbers["retries_sent"] == 8
    assert refusals["retries"] > 0
    assert sum(second["refused_retries"] for second in numbers["seconds"]) == refusals["retries"]
    assert numbers["refusal_ms"]["samples"] == 8
    assert "8 QUEUE_FULL: The queue is full." in capsys.readouterr().out


async def test_without_retries_a_refusal_is_the_end(
    scripted_address: str, servicer: ScriptedServer, tmp_path: Path
) -> None:
    servicer.script = refusing_first(5)
    numbers = await numbers_of(options(scripted_address), tmp_path / "out.json")
    assert endings(numbers) == {"asked": 36, "answered": 31, "refused": 5}


async def test_what_is_sent(scripted_address: str, servicer: ScriptedServer, tmp_path: Path) -> None:
    given = options(scripted_address, priority="bulk", tenants={"a": 1.0}, prompt_tokens=7, model="tiny")
    await numbers_of(given, tmp_path / "out.json")
    starts, tenants = [], []
    while not servicer.exchanges.empty():
        exchange = servicer.exchanges.get_nowait()
        starts.append(exchange.received[0].start)
        metadata = exchange.context.invocation_metadata() or ()
        tenants += [value for key, value in metadata if key == "x-tenant-id"]
    assert len(starts) == len({start.prompt for start in starts}) == 36
    assert {start.priority for start in starts} == {Priority.PRIORITY_BULK}
    assert {start.model for start in starts} == {"tiny"}
    assert {start.stopping.ignore_eos for start in starts} == {True}
    assert {start.stopping.max_tokens for start in starts} == {MAX_TOKENS}
    assert tenants == ["a"] * 36


async def test_a_lost_answer_is_lost(scripted_address: str, servicer: ScriptedServer, tmp_path: Path) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.accept()
        await exchange.chunk()
        await exchange.fail(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    servicer.script = script
    numbers = await numbers_of(options(scripted_address), tmp_path / "out.json")
    assert endings(numbers) == {"asked": 36, "lost": 36}
    assert numbers["losses"] == {"UNAVAILABLE": 36}


async def test_interrupted(
    scripted_address: str, servicer: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    servicer.script = never_ending
    task = asyncio.create_task(run_session(options(scripted_address, duration_s=60.0), "-"))
    for _ in range(3):
        await servicer.exchanges.get()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["interrupted"]
    assert numbers["requests"]["unfinished"] == numbers["requests"]["asked"] >= 3


async def test_no_server(free_address: str, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        await run_session(options(free_address), str(tmp_path / "out.json"))


@pytest.fixture
def free_address() -> str:
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


async def test_connections_are_made_when_the_others_are_full(free_address: str) -> None:
    async with Connections(free_address, streams_each=2) as connections:
        with connections.borrow("a") as first, connections.borrow("a") as second:
            assert first is second
            assert len(connections) == 1
            with connections.borrow("b") as third:
                assert third is not first
                assert len(connections) == 2
        with connections.borrow("a") as again, connections.borrow("b") as other:
            assert again is first
            assert other is not first
            assert len(connections) == 2
