"""What goes wrong with a call, as exceptions made from gRPC statuses and their google.rpc details."""

from collections.abc import Iterator
from typing import Any, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

_M = TypeVar("_M", bound=Message)


class PenstockError(Exception):
    """A call failed. str() is one line: the message, the reason and the offending fields.

    code: the gRPC status. reason: the server's stable name for the failure (ErrorInfo.reason), "" when it
    gave none. retry_after_s: seconds after which the server expects to have room, None when it did not say.
    violations: (field, description) pairs of an invalid request. request_id: the stream's, "" when unknown.
    """

    default_code = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str = "",
        retry_after_s: float | None = None,
        violations: tuple[tuple[str, str], ...] = (),
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.violations = violations
        self.request_id = request_id

    def __str__(self) -> str:
        line = self.message or self.code.name
        if self.reason:
            line += f" ({self.reason})"
        fields = [f"{field}: {text}" for field, text in self.violations if text not in self.message]
        if fields:
            line += f" [{'; '.join(fields)}]"
        return " ".join(line.split())


class InvalidRequestError(PenstockError):
    """The request breaks a rule; see violations. Sending it again does not help."""

    default_code = grpc.StatusCode.INVALID_ARGUMENT


class NotFoundError(PenstockError):
    """There is no model of that name."""

    default_code = grpc.StatusCode.NOT_FOUND


class OverloadedError(PenstockError):
    """The server has no room now; see retry_after_s."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class UnavailableError(PenstockError):
    """No server answers or the connection broke (reason is ""), or the server cannot serve just now."""

    default_code = grpc.StatusCode.UNAVAILABLE


class DeadlineError(PenstockError):
    """timeout_s passed."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED


class CancelledStreamError(PenstockError):
    """The call was cancelled: the stream or the client was closed during the call, or a proxy ended it."""

    default_code = grpc.StatusCode.CANCELLED


class AbortedError(PenstockError):
    """The server gave the stream up, such as when its chunks were not acknowledged in time."""

    default_code = grpc.StatusCode.ABORTED


class NotImplementedOnServerError(PenstockError):
    """The server does not have this call or this field."""

    default_code = grpc.StatusCode.UNIMPLEMENTED


class InternalServerError(PenstockError):
    """A defect or a broken model on the server."""

    default_code = grpc.StatusCode.INTERNAL


class ProtocolError(PenstockError):
    """The server's messages break the penstock.v1 contract."""

    default_code = grpc.StatusCode.INTERNAL


_BY_CODE: dict[grpc.StatusCode, type[PenstockError]] = {
    kind.default_code: kind
    for kind in (
        InvalidRequestError,
        NotFoundError,
        OverloadedError,
        UnavailableError,
        DeadlineError,
        CancelledStreamError,
        AbortedError,
        NotImplementedOnServerError,
        InternalServerError,
    )
}


def from_rpc_error(error: grpc.RpcError, request_id: str = "") -> PenstockError:
    """The exception for a failed call of grpc or grpc.aio. Absent or garbled details are left out."""
    code = error.code()
    details = _details(error)
    info = next(_unpacked(details, error_details_pb2.ErrorInfo), None)
    retry = next(_unpacked(details, error_details_pb2.RetryInfo), None)
    bad_request = next(_unpacked(details, error_details_pb2.BadRequest), None)
    return _BY_CODE.get(code, PenstockError)(
        error.details() or "",
        code=code,
        reason=info.reason if info else "",
        retry_after_s=retry.retry_delay.ToTimedelta().total_seconds() if retry else None,
        violations=tuple((v.field, v.description) for v in bad_request.field_violations)
        if bad_request
        else (),
        request_id=request_id or (info.metadata.get("request_id", "") if info else ""),
    )


def _details(error: grpc.RpcError) -> list[AnyMessage]:
    call: Any = error  # from_call asks for code(), details() and trailing_metadata() alone
    try:
        status: status_pb2.Status | None = rpc_status.from_call(call)
    except (DecodeError, ValueError, TypeError):
        return []
    return list(status.details) if status is not None else []


def _unpacked(details: list[AnyMessage], kind: type[_M]) -> Iterator[_M]:
    for detail in details:
        message = kind()
        try:
            if detail.Unpack(message):
                yield message
        except DecodeError:
            continue
