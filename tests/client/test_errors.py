"""Statuses become exceptions, with what their details say."""

import pickle

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    RetryInfo,
)

from penstock import (
    AbortedError,
    CancelledStreamError,
    DeadlineError,
    InternalServerError,
    InvalidRequestError,
    NotFoundError,
    NotImplementedOnServerError,
    OverloadedError,
    PenstockError,
    SyncClient,
    UnavailableError,
)
from tests.client.conftest import AnyClient
from tests.client.doubles import Exchange, ScriptedServer, never_ending

CODES = [
    (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequestError),
    (grpc.StatusCode.NOT_FOUND, NotFoundError),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, OverloadedError),
    (grpc.StatusCode.UNAVAILABLE, UnavailableError),
    (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineError),
    (grpc.StatusCode.CANCELLED, CancelledStreamError),
    (grpc.StatusCode.ABORTED, AbortedError),
    (grpc.StatusCode.UNIMPLEMENTED, NotImplementedOnServerError),
    (grpc.StatusCode.INTERNAL, InternalServerError),
    (grpc.StatusCode.UNAUTHENTICATED, PenstockError),
]


async def failure(
    client: AnyClient, server: ScriptedServer, code: grpc.StatusCode, message: str, *details: Message
) -> PenstockError:
    """The exception for a stream that ends with this status."""

    async def script(exchange: Exchange) -> None:
        await exchange.accept()
        await exchange.fail(code, message, *details)

    server.script = script
    with pytest.raises(PenstockError) as caught:
        await client.complete("Hello", request_id="r-7")
    return caught.value


@pytest.mark.parametrize(("code", "kind"), CODES)
async def test_kind_of_each_code(
    client: AnyClient, grpc_servicer: ScriptedServer, code: grpc.StatusCode, kind: type[PenstockError]
) -> None:
    info = ErrorInfo(reason="WHY", domain="penstock")
    error = await failure(client, grpc_servicer, code, "It went wrong.", info)
    assert type(error) is kind
    assert (error.code, error.reason, error.message) == (code, "WHY", "It went wrong.")
    assert (error.retry_after_s, error.violations, error.request_id) == (None, (), "r-7")
    assert str(error) == "It went wrong. (WHY)"


async def test_retry_info(client: AnyClient, grpc_servicer: ScriptedServer) -> None:
    retry = RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000))
    error = await failure(client, grpc_servicer, grpc.StatusCode.RESOURCE_EXHAUSTED, "Full.", retry)
    assert error.retry_after_s == 1.5


async def test_violations(client: AnyClient, grpc_servicer: ScriptedServer) -> None:
    bad = BadRequest()
    bad.field_violations.add(field="sampling.top_p", description="must be at most 1")
    bad.field_violations.add(field="stopping.max_tokens", description="must be\nat least 1")
    code = grpc.StatusCode.INVALID_ARGUMENT
    error = await failure(client, grpc_servicer, code, "2 fields are wrong.", bad)
    assert error.violations[0] == ("sampling.top_p", "must be at most 1")
    assert str(error) == (
        "2 fields are wrong. [sampling.top_p: must be at most 1; stopping.max_tokens: must be at least 1]"
    )


@pytest.mark.parametrize("garbage", [b"\xff\xff", b"", b"\x08\x05"])
async def test_garbled_details_are_left_out(
    client: AnyClient, grpc_servicer: ScriptedServer, garbage: bytes
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.accept()
        trailers = (("grpc-status-details-bin", garbage),)
        await exchange.context.abort(grpc.StatusCode.ABORTED, "gone", trailers)

    grpc_servicer.script = script
    with pytest.raises(AbortedError, match=r"^gone$"):
        await client.complete("Hello")


async def test_unary_calls_raise_too(client: AnyClient) -> None:
    with pytest.raises(NotFoundError, match="no model nosuch"):
        await client.count_tokens("Hello", model="nosuch")


async def test_deadline(client: AnyClient, grpc_servicer: ScriptedServer) -> None:
    grpc_servicer.script = never_ending
    with pytest.raises(DeadlineError):
        await client.complete("Hello", timeout_s=0.3)


def test_no_server(free_address: str) -> None:
    with SyncClient(free_address) as client, pytest.raises(UnavailableError) as caught:
        client.complete("Hello")
    assert caught.value.reason == ""


def test_errors_can_be_pickled() -> None:
    error = OverloadedError("Full.", reason="STREAM_LIMIT", retry_after_s=2.0)
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, OverloadedError)
    assert vars(copy) == vars(error)
