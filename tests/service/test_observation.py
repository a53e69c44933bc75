"""What streams tell their sinks: gaps in credit only, and the table of causes."""

from dataclasses import replace

import pytest

from engine.events import Finished, FinishReason
from flowcontrol.admission.ask import ServiceClass
from flowcontrol.reasons import Reason
from flowcontrol.stream_state import Input
from service.causes import CAUSES, is_refusal
from service.errors import ServiceError
from service.observation import Cause, Observation
from service.stream_end import cause_of
from tests.service.sinks import LABELS, RecordingSink

FINISHED = Finished(1, FinishReason.STOP, "", "", None, 3, 5, 0, 0.0, 0.0, 0.0, 0.0, 0.0)


def test_gaps_are_handed_out_once_and_by_labels() -> None:
    sinks = [RecordingSink(), RecordingSink()]
    observation = Observation(sinks)
    other = replace(LABELS, service_class=ServiceClass.BULK)
    one, two, three = (observation.stream(labels) for labels in (LABELS, LABELS, other))
    for now_s in (1.0, 1.5, 3.5):
        one.token(now_s)
    for now_s in (2.0, 2.25):
        two.token(now_s)
    three.token(5.0)
    observation.flush()
    one.token(3.75)
    observation.flush()
    observation.flush()
    for sink in sinks:
        assert sink.told_gaps == [(LABELS, [0.5, 2.0, 0.25]), (LABELS, [0.25])]


def test_no_gap_is_taken_while_a_stream_is_held() -> None:
    sink = RecordingSink()
    observation = Observation([sink])
    stream = observation.stream(LABELS)
    for now_s in (1.0, 1.5):
        stream.token(now_s)
    stream.hold()
    for now_s in (2.0, 9.0):  # What was under way still comes.
        stream.token(now_s)
    stream.hold()
    stream.release()
    for now_s in (20.0, 20.25):
        stream.token(now_s)
    observation.flush()
    assert sink.told_gaps == [(LABELS, [0.5, 0.25])]
    assert stream.decode_s == 0.75


def test_a_stream_without_sinks_listens_to_nothing() -> None:
    assert not Observation([]).stream(LABELS).listening
    assert Observation([RecordingSink()]).stream(LABELS).listening


def test_every_reason_has_a_cause() -> None:
    assert set(CAUSES) == set(Reason)
    assert Cause.CLIENT not in {CAUSES[reason] for reason in (Reason.INTERNAL, Reason.STEP_FAILED)}


@pytest.mark.parametrize(
    ("reason", "refusal"),
    [
        (Reason.QUEUE_FULL, True),
        (Reason.TENANT_LIMIT, True),
        (Reason.MODEL_LOADING, True),
        (Reason.DRAINING, True),
        (Reason.INVALID_REQUEST, False),
        (Reason.MODEL_NOT_FOUND, False),
    ],
)
def test_only_what_may_come_again_is_a_refusal(reason: Reason, refusal: bool) -> None:
    assert is_refusal(reason) is refusal


@pytest.mark.parametrize(
    ("how", "finished", "reason", "late", "cause"),
    [
        (Input.FINISH, FINISHED, None, False, (None, "stop")),
        (Input.CANCEL, None, None, False, (Cause.CLIENT, "cancelled")),
        # The engine was done, the caller left before it had read all.
        (Input.CANCEL, FINISHED, None, False, (Cause.CLIENT, "cancelled")),
        (Input.CANCEL, None, None, True, (Cause.DEADLINE, "cancelled")),
        (Input.FAIL, None, Reason.ACK_TIMEOUT, False, (Cause.ACK_TIMEOUT, "ACK_TIMEOUT")),
        (Input.FAIL, None, Reason.STREAM_TIMEOUT, True, (Cause.DEADLINE, "STREAM_TIMEOUT")),
        (Input.FAIL, None, Reason.WORKER_LOST, True, (Cause.SERVER, "WORKER_LOST")),
        # A defect: an exception that is no ServiceError.
        (Input.FAIL, None, None, False, (Cause.SERVER, "INTERNAL")),
    ],
)
def test_the_cause_of_an_end(
    how: Input, finished: Finished | None, reason: Reason | None, late: bool, cause: tuple[Cause | None, str]
) -> None:
    error = None if reason is None else ServiceError(reason, "")
    assert cause_of(how, finished, error, out_of_time=late) == cause
