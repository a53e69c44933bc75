"""`penstock status`, run as a user runs it: as a process."""

import asyncio
import json
import signal

import pytest_asyncio

from penstock.v1.generation_pb2 import Priority
from penstock.v1.limits_pb2 import LimitReason, Limits
from penstock.v1.status_pb2 import Admission, MessagePool, StreamState, StreamStatus
from tests.client.commands import Penstock
from tests.client.doubles import ScriptedServer


@pytest_asyncio.fixture
async def penstock(grpc_addr: str) -> Penstock:
    return Penstock(grpc_addr)


async def test_status_table(penstock: Penstock) -> None:
    result = await penstock("status")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert max(len(line) for line in lines) <= 80
    shown = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line.strip()}
    assert shown["Uptime"] == "1 h 2 min"
    assert shown["Worker"] == "ready, process 42, restarts 0"
    assert shown["Streams"] == "3 of 64 active"
    assert shown["BLAS"] == "openblas"
    assert shown["Messages"] == "not pooled"
    assert shown["tiny"].startswith("(default) ready 1.2 M")


async def test_status_streams(penstock: Penstock, grpc_servicer: ScriptedServer) -> None:
    grpc_servicer.status.streams.slow_consumers = 7
    grpc_servicer.status.message_pool.CopyFrom(MessagePool(size=1000, in_use=3, hits=12))
    streams = [
        StreamStatus(
            request_id="0123456789abcdef",
            state=StreamState.STREAM_STATE_STALLED,
            sent=1200,
            acked=1100,
            window=100,
            credits_enforced=True,
            stalled_ms=2345,
            waiting_tokens=64,
            parked=True,
            slow=True,
            priority=Priority.PRIORITY_INTERACTIVE,
        ),
        StreamStatus(
            request_id="plain",
            state=StreamState.STREAM_STATE_STREAMING,
            sent=5,
            credit=3,
            priority=Priority.PRIORITY_BULK,
        ),
        StreamStatus(
            request_id="waits",
            state=StreamState.STREAM_STATE_QUEUED,
            queue_position=12,
            priority=Priority.PRIORITY_SYSTEM,
        ),
    ]
    grpc_servicer.status.active_streams.extend(streams)
    result = await penstock("status", "--streams")
    assert (result.code, result.err) == (0, "")
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert max(len(line) for line in result.out.splitlines()) <= 80
    assert "Stream State Class Sent Credit Unsent Notes" in lines
    assert "0123456789abcdef stalled 2.3 s interactive 1200 0/100 64 parked slow" in lines
    assert "plain streaming bulk 5 - 0 -" in lines
    assert "waits queued #12 system 0 - 0 -" in lines
    assert "Slow 7 slow consumers" in lines
    assert "Messages 3 of 1000 in use, 0 idle, 12 hits, 0 misses, 0 retired, 0 trimmed" in lines
    shown = json.loads((await penstock("status", "--streams", "--json")).out)
    assert [stream["sent"] for stream in shown["active_streams"]] == ["1200", "5", "0"]
    assert [request.include_streams for request in grpc_servicer.status_requests] == [True, True]


async def test_status_streams_of_tenants(penstock: Penstock, grpc_servicer: ScriptedServer) -> None:
    """Also with long names of everything, no line is longer than a terminal."""
    stream = StreamStatus(
        request_id="123e4567-e89b-12d3-a456-426614174000",
        state=StreamState.STREAM_STATE_STALLED,
        stalled_ms=123_400,
        tenant="a-tenant-of-a-long-name",
        priority=Priority.PRIORITY_INTERACTIVE,
        sent=12_345,
        credits_enforced=True,
        window=100,
        parked=True,
        slow=True,
    )
    other = StreamStatus(request_id="other", state=StreamState.STREAM_STATE_PREFILL)
    grpc_servicer.status.active_streams.extend([stream, other])
    result = await penstock("status", "--streams")
    assert max(len(line) for line in result.out.splitlines()) <= 80
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert "Stream State Class Tenant Sent Credit Unsent Notes" in lines
    [row] = [line for line in lines if "stalled 123.4 s" in line]
    assert row.endswith("interactive a-tenant-of… 12345 0/100 0 parked")
    first, end = lines.index(row), lines.index("other prefill unspecified - 0 - 0 -")
    id_pieces = [line.split()[0] for line in lines[first:end]]
    assert "".join(id_pieces) == stream.request_id
    assert lines[first + 1].endswith(" slow")


async def test_status_admission(penstock: Penstock, grpc_servicer: ScriptedServer) -> None:
    grpc_servicer.status.admission.CopyFrom(
        Admission(
            limits=Limits(
                limit=32,
                min_streams=5,
                max_streams=64,
                in_flight=32,
                queued=3,
                reason=LimitReason.LIMIT_REASON_LOWERED_TTFT,
                changed_ago_ms=74_000,
                last_change=-2,
            ),
            refused={"QUEUE_FULL": 1, "WOULD_MISS_DEADLINE": 12},
        )
    )
    result = await penstock("status")
    assert max(len(line) for line in result.out.splitlines()) <= 80
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    first = lines.index("Admission limit 32 of 5..64, 32 in flight, 3 waiting")
    assert lines[first + 1] == "last change -2, 1 min 14 s ago"
    assert lines[first + 2] == "lowered: time to first token was over target"
    assert lines[first + 3] == "Refused 12 WOULD_MISS_DEADLINE, 1 QUEUE_FULL"
    assert "Streams 3 active" in lines


async def test_status_json(penstock: Penstock) -> None:
    result = await penstock("status", "--json")
    status = json.loads(result.out)
    assert status["streams"]["max_active"] == 64
    assert status["streams"]["stalled"] == 0
    assert status["workers"][0]["state"] == "WORKER_STATE_READY"


async def test_status_watch_until_ctrl_c(penstock: Penstock, grpc_servicer: ScriptedServer) -> None:
    process = await penstock.start("status", "--watch", "--json", "--streams")
    assert process.stdout is not None
    for _ in range(3):
        assert json.loads(await process.stdout.readline())["version"] == "0.1.0"
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert (process.returncode, err) == (130, b"")
    await asyncio.wait_for(grpc_servicer.watchers_gone.wait(), 10)
    assert [request.include_streams for request in grpc_servicer.status_requests] == [True]
