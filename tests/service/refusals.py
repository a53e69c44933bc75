"""The error status of a call, read from its trailing metadata as any gRPC client would."""

from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

_STATUS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True)
class Refusal:
    """An error status with its google.rpc details. violations: descriptions by field."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    domain: str = ""
    retry_after_s: float | None = None
    violations: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def refusal(error: grpc.RpcError) -> Refusal:
    """Works for errors of grpc and of grpc.aio; the details are empty where the server sent none."""
    call: Any = error
    found: dict[str, Any] = {}
    for key, value in call.trailing_metadata() or ():
        if key == _STATUS_KEY:
            status = status_pb2.Status.FromString(value)
            assert status.code == call.code().value[0]
            found = _details(status)
    return Refusal(call.code(), call.details() or "", **found)


def _details(status: status_pb2.Status) -> dict[str, Any]:
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    bad = error_details_pb2.BadRequest()
    found: dict[str, Any] = {}
    for detail in status.details:
        if detail.Unpack(info):
            found |= {"reason": info.reason, "domain": info.domain, "metadata": dict(info.metadata)}
        elif detail.Unpack(retry):
            found["retry_after_s"] = retry.retry_delay.ToNanoseconds() / 1e9
        elif detail.Unpack(bad):
            found["violations"] = {v.field: v.description for v in bad.field_violations}
        else:
            raise AssertionError(f"unexpected detail {detail.type_url}")
    return found
