"""Streams that hold their place, calls of tenants, and looks at admission's numbers."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from penstock.tenant import Metadata, tenant_metadata
from penstock.v1 import generation_pb2 as pb
from penstock.v1 import limits_pb2
from penstock.v1.limits_pb2_grpc import LimitsServiceStub
from penstock.v1.status_pb2 import GetStatusRequest, Status
from tests.integration.processes import SCRIPTED, ServerProcess, running_server
from tests.service.calls import Answer, GenerateCall, endless
from tests.service.eventually import eventually
from tests.service.servers import Stubs

# A stream that holds its permit has more tokens than one that sends no acks gets, and few enough for it to be
# over soon once it may go on, and for predictions to stay short.
HELD_TOKENS = 12


def fixed_limit(limit: int, **changes: str) -> dict[str, str]:
    """Options of a server with a limit that stays, and with no targets that would refuse anybody."""
    return {
        "STREAM_REGISTRY__MAX_ACTIVE_STREAMS": str(limit),
        "STREAM_REGISTRY__ADAPTIVE_LIMITS__STRATEGY": "fixed",
        "STREAM_REGISTRY__ADAPTIVE_LIMITS__MIN_STREAMS": str(limit),
        "STREAM_REGISTRY__ADAPTIVE_LIMITS__MAX_STREAMS": str(limit),
        "STREAM_REGISTRY__BACKPRESSURE__ACK_TIMEOUT_MS": "60000",
        "STREAM_REGISTRY__BACKPRESSURE__MAX_TOKENS_PER_CHUNK": "4",
        "STREAM_REGISTRY__BACKPRESSURE__MAX_BACKLOG_TOKENS": "4",
        "ADMISSION__CLASSES__INTERACTIVE__TARGET_FACTOR": "0",
        "ADMISSION__CLASSES__DEFAULT__TARGET_FACTOR": "0",
        "ADMISSION__CLASSES__BULK__TARGET_FACTOR": "0",
        **changes,
    }


@contextmanager
def scripted(folder: Path, options: Mapping[str, str]) -> Iterator[ServerProcess]:
    with running_server(folder / "stderr", options, **SCRIPTED) as server:
        yield server


class TenantCall(GenerateCall):
    """A call of a tenant."""

    def __init__(self, stub: Any, tenant: str | None = None, *, metadata: Metadata = (), **how: Any) -> None:
        super().__init__(stub, metadata=(*metadata, *tenant_metadata(tenant)), **how)

    async def hold(self) -> "TenantCall":
        """Start a stream that keeps its permit, or its place in the queue, until `let_go`."""
        await self.start(held())
        return self

    async def let_go(self) -> Answer:
        """The whole answer of a stream that held its permit."""
        await self.half_close()
        answer = await self.rest()
        assert len(answer.token_ids) == HELD_TOKENS
        return answer


def held(**fields: Any) -> pb.Start:
    """A start whose stream stands still until it is acked or half-closed."""
    return endless(HELD_TOKENS, flow={"max_unacked_chunks": 1, "max_tokens_per_chunk": 1}, **fields)


async def holding(stubs: Stubs, tenant: str | None = None) -> TenantCall:
    """A stream that has its permit, and keeps it until `let_go`."""
    call = await TenantCall(stubs.generation, tenant).hold()
    await call.read_chunks(1)
    return call


async def waiting(stubs: Stubs, message: pb.Start, tenant: str | None = None, **how: Any) -> TenantCall:
    """A call that was accepted, waits, and sends nothing more. More such calls come after this one."""
    before = (await stubs.status()).admission.limits.queued
    call = TenantCall(stubs.generation, tenant, **how)
    await call.start(message)
    await call.half_close()
    await queued(stubs, before + 1)
    return call


async def queued(stubs: Stubs, number: int) -> Status:
    """The status once so many requests wait."""
    return await eventually(stubs.status, lambda status: status.admission.limits.queued == number)


async def at_rest(stubs: Stubs) -> Status:
    """The status once nothing is in flight or waits, in admission's own count and in the server's."""
    return await eventually(
        stubs.status,
        lambda s: not (s.admission.limits.in_flight or s.admission.limits.queued or s.streams.active),
    )


async def streams_of(stubs: Stubs) -> dict[str, Any]:
    """Every stream of the server by its request id."""
    response = await stubs.statuses.GetStatus(GetStatusRequest(include_streams=True))
    return {stream.request_id: stream for stream in response.status.active_streams}


async def set_limit(stubs: Stubs, limit: int) -> limits_pb2.Limits:
    """Change a fixed limit; the limits after it."""
    update = limits_pb2.UpdateLimitsRequest(min_streams=limit, max_streams=limit)
    channel: Any = stubs.channel
    response = await LimitsServiceStub(channel).UpdateLimits(update)
    assert isinstance(response.after, limits_pb2.Limits)
    return response.after


@dataclass(frozen=True)
class Declined:
    """An error status with what admission says in it; quotas: descriptions by subject."""

    code: grpc.StatusCode
    reason: str
    domain: str
    retry_after_s: float | None
    quotas: dict[str, str]


def declined(error: grpc.aio.AioRpcError) -> Declined:
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status.ParseFromString(value if isinstance(value, bytes) else value.encode())
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    quota = error_details_pb2.QuotaFailure()
    retry_after_s = None
    for detail in status.details:
        if detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
        else:
            assert detail.Unpack(info) or detail.Unpack(quota), detail.type_url
    quotas = {violation.subject: violation.description for violation in quota.violations}
    return Declined(error.code(), info.reason, info.domain, retry_after_s, quotas)


async def refusal_of(call: GenerateCall) -> Declined:
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.rest()
    return declined(caught.value)


async def outcome_of(call: GenerateCall) -> Answer | Declined:
    """How a call ends: with an answer, or with an error."""
    try:
        return await call.rest()
    except grpc.aio.AioRpcError as error:
        return declined(error)


async def turned_away(stubs: Stubs, message: pb.Start, tenant: str | None = None, **how: Any) -> Declined:
    """The error that a start is answered with."""
    async with TenantCall(stubs.generation, tenant, **how) as call:
        await call.send(start=message)
        await call.half_close()
        return await refusal_of(call)


async def order_of_first_tokens(calls: Mapping[str, GenerateCall]) -> list[str]:
    """The names of streams that wait, in the order in which they got their first token; reads them all."""
    order: list[str] = []

    async def read(name: str, call: GenerateCall) -> None:
        await call.read_chunks(1)
        order.append(name)
        await call.rest()

    await asyncio.gather(*(read(name, call) for name, call in calls.items()))
    return order
