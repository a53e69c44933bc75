"""The one table from reasons to gRPC statuses, and the google.rpc details that go with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from opentelemetry import trace

from engine.contract import EngineError
from flowcontrol.admission.ask import Quota
from flowcontrol.reasons import Reason

DOMAIN = "penstock"

# A client accepts 8 KiB of metadata and sees RESOURCE_EXHAUSTED in place of a status that is larger. The
# message is in there twice: percent-encoded, up to three bytes for one, and in the details, in base64.
_MAX_MESSAGE_BYTES = 1024
_MAX_VIOLATIONS_BYTES = 2048
_MAX_DESCRIPTION_BYTES = 512


@dataclass(frozen=True, slots=True)
class _Answer:
    """retry_after_s: told to the caller when the error itself has none; None where a retry does not help."""

    code: grpc.StatusCode
    retry_after_s: float | None = None


ANSWERS: dict[Reason, _Answer] = {
    Reason.INVALID_REQUEST: _Answer(grpc.StatusCode.INVALID_ARGUMENT),
    Reason.PROTOCOL_VIOLATION: _Answer(grpc.StatusCode.INVALID_ARGUMENT),
    Reason.ACK_BEYOND_SENT: _Answer(grpc.StatusCode.INVALID_ARGUMENT),
    Reason.NOT_IMPLEMENTED: _Answer(grpc.StatusCode.UNIMPLEMENTED),
    Reason.MODEL_NOT_FOUND: _Answer(grpc.StatusCode.NOT_FOUND),
    Reason.MODEL_NAME_TAKEN: _Answer(grpc.StatusCode.ALREADY_EXISTS),
    Reason.MODEL_MEMORY: _Answer(grpc.StatusCode.RESOURCE_EXHAUSTED),
    Reason.MODEL_LOAD_FAILED: _Answer(grpc.StatusCode.FAILED_PRECONDITION),
    Reason.MODEL_IS_DEFAULT: _Answer(grpc.StatusCode.FAILED_PRECONDITION),
    Reason.MODEL_UNLOADED: _Answer(grpc.StatusCode.UNAVAILABLE, 1.0),
    Reason.TOO_MANY_STREAMS: _Answer(grpc.StatusCode.RESOURCE_EXHAUSTED, 1.0),
    Reason.QUEUE_FULL: _Answer(grpc.StatusCode.RESOURCE_EXHAUSTED, 1.0),
    Reason.WOULD_MISS_DEADLINE: _Answer(grpc.StatusCode.RESOURCE_EXHAUSTED, 1.0),
    Reason.QUEUE_TIMEOUT: _Answer(grpc.StatusCode.RESOURCE_EXHAUSTED, 1.0),
    Reason.TENANT_LIMIT: _Answer(grpc.StatusCode.RESOURCE_EXHAUSTED, 1.0),
    Reason.KV_EXHAUSTED: _Answer(grpc.StatusCode.RESOURCE_EXHAUSTED, 1.0),
    Reason.NOT_ALLOWED: _Answer(grpc.StatusCode.PERMISSION_DENIED),
    Reason.CANARY_RUNNING: _Answer(grpc.StatusCode.FAILED_PRECONDITION),
    Reason.DRAINING: _Answer(grpc.StatusCode.UNAVAILABLE, 1.0),
    Reason.MODEL_LOADING: _Answer(grpc.StatusCode.UNAVAILABLE, 1.0),
    Reason.WORKER_STUCK: _Answer(grpc.StatusCode.UNAVAILABLE, 5.0),
    Reason.WORKER_LOST: _Answer(grpc.StatusCode.UNAVAILABLE, 1.0),
    Reason.CRASH_LOOP: _Answer(grpc.StatusCode.UNAVAILABLE),
    Reason.POISON_REQUEST: _Answer(grpc.StatusCode.INTERNAL),
    Reason.STEP_FAILED: _Answer(grpc.StatusCode.INTERNAL),
    Reason.ACK_TIMEOUT: _Answer(grpc.StatusCode.ABORTED, 1.0),
    Reason.STREAM_TIMEOUT: _Answer(grpc.StatusCode.DEADLINE_EXCEEDED),
    Reason.IDLE_TIMEOUT: _Answer(grpc.StatusCode.DEADLINE_EXCEEDED),
    Reason.INTERNAL: _Answer(grpc.StatusCode.INTERNAL),
}


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one field. field: its path from the request, such as start.sampling.top_p."""

    field: str
    description: str


class ServiceError(Exception):
    """Ends a call with an error status."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        violations: Sequence[Violation] = (),
        retry_after_s: float | None = None,
        quota: Quota | None = None,
    ) -> None:
        """quota: the one that was exceeded, where one is the cause."""
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)
        self.quota = quota
        self.retry_after_s = ANSWERS[reason].retry_after_s if retry_after_s is None else retry_after_s

    @classmethod
    def from_engine(cls, error: EngineError, prefix: str) -> "ServiceError":
        """The same error for a caller. prefix: path of the message whose fields the engine names."""
        violations = [Violation(prefix + error.field, error.message)] if error.field else []
        message = prefix + error.message if error.field else error.message
        return cls(error.reason, message, violations=violations, retry_after_s=error.retry_after_s)

    @property
    def code(self) -> grpc.StatusCode:
        return ANSWERS[self.reason].code

    def to_status(self, request_id: str) -> status_pb2.Status:
        """The google.rpc.Status: ErrorInfo, and RetryInfo, QuotaFailure, BadRequest where they apply."""
        info = error_details_pb2.ErrorInfo(reason=self.reason.value, domain=DOMAIN)
        if request_id:
            info.metadata["request_id"] = request_id
        details: list[Message] = [info]
        if self.retry_after_s is not None:
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(int(self.retry_after_s * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        if self.violations:
            details.append(_bad_request(self.violations))
        if self.quota is not None:
            failure = error_details_pb2.QuotaFailure()
            failure.violations.add(subject=self.quota.subject, description=self.quota.description)
            details.append(failure)
        message = _clipped(self.message, _MAX_MESSAGE_BYTES)
        status = status_pb2.Status(code=self.code.value[0], message=message)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        return status


def _bad_request(violations: Sequence[Violation]) -> error_details_pb2.BadRequest:
    """The violations, as many as there is room for; at least one."""
    bad = error_details_pb2.BadRequest()
    for violation in violations:
        description = _clipped(violation.description, _MAX_DESCRIPTION_BYTES)
        bad.field_violations.add(field=violation.field, description=description)
        if bad.ByteSize() > _MAX_VIOLATIONS_BYTES:
            del bad.field_violations[-1]
            break
    return bad


def _clipped(text: str, most_bytes: int) -> str:
    """The text, or its beginning and "..." where it is longer than most_bytes as UTF-8."""
    encoded = text.encode()
    if len(encoded) <= most_bytes:
        return text
    return encoded[: most_bytes - 3].decode(errors="ignore") + "..."


async def abort(
    context: grpc.aio.ServicerContext[Any, Any], error: ServiceError, request_id: str = ""
) -> NoReturn:
    """End the call with the error's status and details. Must be awaited in the handler itself."""
    span = trace.get_current_span()
    span.set_attribute("error.type", error.reason.value)
    if request_id:
        span.set_attribute("penstock.request_id", request_id)
    await context.abort_with_status(rpc_status.to_status(error.to_status(request_id)))
    raise AssertionError("abort_with_status does not return")
