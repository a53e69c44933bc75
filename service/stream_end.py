"""What is told of a stream at its end: to the governor, and to whoever observes streams."""

from engine.events import Finished
from flowcontrol.admission.ask import Outcome
from flowcontrol.reasons import Reason
from flowcontrol.stream_state import Input
from service.admission import Seat
from service.causes import CAUSES
from service.errors import ServiceError
from service.observation import Cause, StreamObserver, StreamOutcome
from service.stream_times import StreamTimes


def permit_outcome(error: ServiceError | None, *, has_token: bool) -> Outcome:
    """What an end before `finished` says about the load."""
    late = error is not None and error.reason is Reason.STREAM_TIMEOUT and not has_token
    return Outcome.DROPPED if late else Outcome.IGNORED


def cause_of(
    how: Input, finished: Finished | None, error: ServiceError | None, *, out_of_time: bool
) -> tuple[Cause | None, str]:
    """Who ended the stream and why, as in StreamOutcome. out_of_time: its caller's deadline has passed."""
    if how is Input.FINISH and finished is not None:
        return None, finished.reason.value
    if how is Input.CANCEL:
        return Cause.DEADLINE if out_of_time else Cause.CLIENT, "cancelled"
    reason = Reason.INTERNAL if error is None else error.reason
    return CAUSES[reason], reason.value


def tell_end(
    observer: StreamObserver,
    request_id: str,
    seat: Seat,
    times: StreamTimes,
    *,
    how: tuple[Cause | None, str],
    finished: Finished | None,
    prompt_tokens: int,
    completion_tokens: int,
) -> None:
    """The one place where a StreamOutcome is made. A stream that was refused while it waited has none.

    how: see cause_of. prompt_tokens: as far as they are known without `finished`.
    """
    refusal = seat.refusal
    if refusal is not None:
        observer.refused(refusal.reason)
        return
    cause, reason = how
    ttft_s = times.to_first_token_s if times.has_token else None
    observer.ended(
        StreamOutcome(
            labels=observer.labels,
            tenant=seat.tenant,
            request_id=request_id,
            cause=cause,
            reason=reason,
            queue_s=times.admission_s if times.submitted_s is not None else times.age_s,
            ttft_s=ttft_s,
            duration_s=times.age_s,
            stalled_s=times.stalled_s,
            stalls=times.stalls,
            decode_s=observer.decode_s,
            prompt_tokens=prompt_tokens if finished is None else finished.prompt_tokens,
            cached_tokens=0 if finished is None else finished.cached_tokens,
            completion_tokens=completion_tokens,
            stages_s=_stages_s(times.admission_s, ttft_s, finished),
        )
    )


def _stages_s(admission_s: float, ttft_s: float | None, finished: Finished | None) -> dict[str, float]:
    """As in the contract's Timing: `queue` holds the wait for the permit, `tokenise` and `cache_lookup`."""
    stages_s = {} if ttft_s is None else {"first_token": ttft_s}
    if finished is not None:
        stages_s["queue"] = admission_s + finished.queue_s
        stages_s["tokenise"] = finished.tokenise_s
        stages_s["cache_lookup"] = finished.cache_lookup_s
        stages_s["prefill"] = finished.prefill_s
    return stages_s
