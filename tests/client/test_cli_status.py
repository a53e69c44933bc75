"""`penstock status`, run as a user runs it: as a process."""

import asyncio
import json
import signal

import pytest_asyncio

from penstock.v1.generation_pb2 import Priority
from penstock.v1.limits_pb2 import LimitReason, Limits
from penstock.v1.status_pb2 import (
    Admission,
    MessagePool,
    PrefixCache,
    StreamState,
    StreamStatus,
    WorkerState,
)
from tests.client.commands import Penstock
from tests.client.doubles import ScriptedServer
from tests.service.top_statuses import add_guard


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


async def test_status_of_several_workers(penstock: Penstock, grpc_servicer: ScriptedServer) -> None:
    del grpc_servicer.status.workers[:]
    for index, state in enumerate(
        (WorkerState.WORKER_STATE_READY, WorkerState.WORKER_STATE_CRASH_LOOP, WorkerState.WORKER_STATE_READY)
    ):
        grpc_servicer.status.workers.add(
            index=index,
            state=state,
            pid=4_000_000 + index if state == WorkerState.WORKER_STATE_READY else 0,
            restarts=100 * index,
            streams=40,
            running_rows=32,
            waiting_rows=5,
            paused_rows=3,
            generated_tokens=123_456_789,
            rss_bytes=1000 * 2**20,
            prefix_cache=PrefixCache(
                bytes=2**20, hits=3, misses=1, prompt_tokens=1000, cached_prompt_tokens=250
            ),
        )
    grpc_servicer.status.waiting_for_worker = 7
    grpc_servicer.status.failovers = 16
    result = await penstock("status")
    assert (result.code, result.err) == (0, "")
    assert max(len(line) for line in result.out.splitlines()) <= 80
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert "Workers 2 ready, 1 crash loop" in lines
    assert "Memory 2.9 GiB resident, 0 B KV cache, 0 B of it parked" in lines
    assert "Prefixes 9 of 12 prompts had one cached, 25 % of prompt tokens, 3.0 MiB" in lines
    assert "Waiting 7 streams for a worker" in lines
    assert "Failover 16 streams outlived a worker" in lines
    header = lines.index("Worker State Process Restarts Streams Run/wait/paused Tokens Memory")
    assert lines[header + 1] == "0 ready 4000000 0 40 32/5/3 123456789 1000.0 MiB"
    assert lines[header + 2] == "1 crash loop none 100 40 32/5/3 123456789 1000.0 MiB"


async def test_status_says_nothing_of_what_has_not_happened(penstock: Penstock) -> None:
    out = (await penstock("status")).out
    assert not any(name in out for name in ("Prefixes", "Waiting", "Failover", "Workers"))


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


async def test_status_queue_and_tenants(penstock: Penstock, grpc_servicer: ScriptedServer) -> None:
    admission = grpc_servicer.status.admission
    admission.limits.queued, admission.limits.drain_ms, admission.queued_tokens = 4, 2300, 3400
    admission.priorities.add(priority=Priority.PRIORITY_INTERACTIVE, queued=3, in_flight=1)
    admission.priorities.add(priority=Priority.PRIORITY_BULK, queued=1)
    admission.tenants.add(name="acme\x1b[2J", tokens=1_200_000, in_flight=2, queued=3)
    admission.tenants.add(tokens=10, queued=1)
    lines = [" ".join(line.split()) for line in (await penstock("status")).out.splitlines()]
    first = lines.index("Queue 4 waiting, the last one starts in about 2.3 s; 3.4 K tokens")
    assert lines[first + 1] == "3 interactive, 1 bulk"
    assert lines[first + 2] == "Tenants acme\N{REPLACEMENT CHARACTER}[2J 1.2 M tokens, 2 in flight, 3 waiting"
    assert lines[first + 3] == "(no name) 10 tokens, 0 in flight, 1 waiting"


async def test_status_of_objectives_actions_and_features(
    penstock: Penstock, grpc_servicer: ScriptedServer
) -> None:
    add_guard(grpc_servicer.status)
    grpc_servicer.status.remediation.dry_run = True
    result = await penstock("status")
    assert max(len(line) for line in result.out.splitlines()) <= 80
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    first = lines.index("Objectives TTFT p50 210 ms of 1.0 s, burn 0.1/0.2, met")
    assert lines[first + 1 : first + 8] == [
        "TTFT p95 6.2 s of 5.0 s, burn 14/3, breached 2 min",
        "Faults - of 0.5 %, burn -/-, too few: 7",
        "Remediation dry run, 1 in force",
        "in force: lower limit taken 65 s ago: ttft_p95 is breached",
        "throttle tenant acme undone 7 min ago: refusals",
        "Features prefix_cache canary 10 %: no difference",
        "pooling on",
    ]
