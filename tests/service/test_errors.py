"""The table from reasons to statuses, and the details that a status carries."""

import grpc
import pytest
from google.rpc import error_details_pb2

from engine.contract import EngineError
from flowcontrol.reasons import Reason
from service.errors import ANSWERS, DOMAIN, ServiceError, Violation

# Statuses after which a client may try again by itself.
RETRYABLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED}
# What a gRPC client accepts by default as trailing metadata, in base64.
MAX_STATUS_BYTES = 6000


def details(error: ServiceError) -> tuple[error_details_pb2.ErrorInfo, list[str]]:
    status = error.to_status("request-1")
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info, [detail.type_url.rsplit(".", 1)[-1] for detail in status.details]


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_status_with_error_info(reason: Reason) -> None:
    error = ServiceError(reason, "text")
    info, kinds = details(error)
    assert (info.reason, info.domain) == (reason.value, DOMAIN)
    assert info.metadata["request_id"] == "request-1"
    assert error.to_status("").code == error.code.value[0]
    assert error.code is not grpc.StatusCode.OK
    # Neither memory nor a worker in a crash loop comes back by itself.
    lasting = (Reason.CRASH_LOOP, Reason.MODEL_MEMORY)
    assert ("RetryInfo" in kinds) == (error.code in RETRYABLE and reason not in lasting)


def test_the_table_has_no_other_rows() -> None:
    assert set(ANSWERS) == set(Reason)


def test_a_retry_time_of_the_error_itself_counts() -> None:
    status = ServiceError(Reason.MODEL_LOADING, "text", retry_after_s=2.5).to_status("")
    retry = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 2500


def test_without_a_request_id_there_is_no_metadata() -> None:
    info = error_details_pb2.ErrorInfo()
    ServiceError(Reason.INTERNAL, "text").to_status("").details[0].Unpack(info)
    assert not info.metadata


def test_violations_become_a_bad_request() -> None:
    violations = [Violation("a.b", "got 1"), Violation("c", "got 2")]
    status = ServiceError(Reason.INVALID_REQUEST, "text", violations=violations).to_status("")
    bad = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(bad)
    assert [(v.field, v.description) for v in bad.field_violations] == [("a.b", "got 1"), ("c", "got 2")]


def test_an_engine_error_keeps_its_field_under_the_prefix() -> None:
    engine_error = EngineError(Reason.INVALID_REQUEST, "prompt: too long", field="prompt")
    error = ServiceError.from_engine(engine_error, "start.")
    assert error.message == "start.prompt: too long"
    assert [violation.field for violation in error.violations] == ["start.prompt"]


def test_an_engine_error_without_a_field_keeps_its_message_and_its_retry_time() -> None:
    error = ServiceError.from_engine(EngineError(Reason.WORKER_STUCK, "no progress"), "start.")
    assert (error.message, error.violations, error.retry_after_s) == ("no progress", (), 5.0)


@pytest.mark.parametrize(
    "violations",
    [
        [Violation(f"start.sampling.logit_bias[{n}]", "got nan; allowed: -100 to 100") for n in range(1024)],
        [Violation("start.model", "x" * 100_000)],
        [Violation("start.model", "\N{SNOWMAN}" * 100_000)],
    ],
)
def test_a_status_fits_into_the_metadata_that_a_client_accepts(violations: list[Violation]) -> None:
    message = "; ".join(f"{v.field}: {v.description}" for v in violations)
    status = ServiceError(Reason.INVALID_REQUEST, message, violations=violations).to_status("r" * 128)
    assert status.ByteSize() <= MAX_STATUS_BYTES
    bad = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(bad)
    assert bad.field_violations[0].field == violations[0].field
