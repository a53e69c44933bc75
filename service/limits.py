"""LimitsService: the limit on streams in flight, shown and changed while the server runs."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

import grpc
import structlog

from flowcontrol.admission.governor import Governor
from flowcontrol.admission.options import GovernorOptions
from flowcontrol.limits.contract import LimitOptions
from flowcontrol.reasons import Reason
from penstock.v1 import limits_pb2 as pb
from penstock.v1 import limits_pb2_grpc
from service.admission_messages import MAX_STREAMS, MAX_TARGET_MS, STRATEGIES, limits
from service.calls import answering_errors
from service.errors import ServiceError, Violation
from service.identity import is_local

MAX_NOTE_CHARACTERS = 256

_SETTABLE = ("strategy", "min_streams", "max_streams", "target_ttft_ms", "target_latency_ms")
_STRATEGIES = {number: name for name, number in STRATEGIES.items()}
Context = grpc.aio.ServicerContext[Any, Any]

_log = structlog.get_logger("penstock.limits")


@dataclass(frozen=True, slots=True)
class Change:
    """What Governor.configure takes."""

    limits: LimitOptions
    target_ttft_s: float
    target_latency_s: float


def read_update(request: pb.UpdateLimitsRequest, options: GovernorOptions) -> Change:
    """What is in force after the change. Raises ServiceError INVALID_REQUEST with every field at fault."""
    violations = [*_range_violations(request), *_order_violations(request, options.limits)]
    if not violations and not any(_is_set(request, field) for field in _SETTABLE):
        # The request itself is at fault, not one of its fields.
        text = f"nothing to change; allowed: at least one of {', '.join(_SETTABLE)}"
        violations = [Violation("request", text)]
    if violations:
        message = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        raise ServiceError(Reason.INVALID_REQUEST, message, violations=violations)
    now, gate = options.limits, options.gate
    return Change(
        limits=replace(
            now,
            strategy=_STRATEGIES.get(request.strategy, now.strategy),
            min_streams=request.min_streams if _is_set(request, "min_streams") else now.min_streams,
            max_streams=request.max_streams if _is_set(request, "max_streams") else now.max_streams,
        ),
        target_ttft_s=(
            request.target_ttft_ms / 1e3 if _is_set(request, "target_ttft_ms") else gate.target_ttft_s
        ),
        target_latency_s=(
            request.target_latency_ms / 1e3
            if _is_set(request, "target_latency_ms")
            else gate.target_latency_s
        ),
    )


def _is_set(request: pb.UpdateLimitsRequest, field: str) -> bool:
    if field == "strategy":
        return request.strategy != pb.LIMIT_STRATEGY_UNSPECIFIED
    return request.HasField(field)  # type: ignore[arg-type]


def _range_violations(request: pb.UpdateLimitsRequest) -> list[Violation]:
    found = []
    if _is_set(request, "strategy") and request.strategy not in _STRATEGIES:
        allowed = ", ".join(pb.LimitStrategy.Name(number) for number in _STRATEGIES)
        found.append(Violation("strategy", f"got {request.strategy}; allowed: {allowed}"))
    for field, low, high in (
        ("min_streams", 1, MAX_STREAMS),
        ("max_streams", 1, MAX_STREAMS),
        ("target_ttft_ms", 1, MAX_TARGET_MS),
        ("target_latency_ms", 0, MAX_TARGET_MS),
    ):
        got = getattr(request, field)
        if _is_set(request, field) and not low <= got <= high:
            found.append(Violation(field, f"got {got}; allowed: {low} to {high}"))
    if len(request.note) > MAX_NOTE_CHARACTERS:
        text = f"got {len(request.note)} characters; allowed: at most {MAX_NOTE_CHARACTERS}"
        found.append(Violation("note", text))
    return found


def _order_violations(request: pb.UpdateLimitsRequest, now: LimitOptions) -> list[Violation]:
    """max_streams below min_streams, be they new or in force; said of one that the request sets."""
    least = request.min_streams if _is_set(request, "min_streams") else now.min_streams
    most = request.max_streams if _is_set(request, "max_streams") else now.max_streams
    in_range = 1 <= least <= MAX_STREAMS and 1 <= most <= MAX_STREAMS
    if not in_range or least <= most:
        return []
    if _is_set(request, "max_streams"):
        return [Violation("max_streams", f"got {most}; allowed: at least min_streams, which is {least}")]
    return [Violation("min_streams", f"got {least}; allowed: at most max_streams, which is {most}")]


class LimitsServicer(limits_pb2_grpc.LimitsServiceServicer):
    """Shows and changes what a governor is told.

    changed: called after each change, when more streams may start. remote_control: whether a caller on
    another machine may change limits. clock: the governor's.
    """

    def __init__(
        self,
        governor: Governor,
        changed: Callable[[], None],
        *,
        remote_control: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._governor = governor
        self._changed = changed
        self._remote_control = remote_control
        self._clock = clock

    @answering_errors
    async def GetLimits(self, request: pb.GetLimitsRequest, context: Context) -> pb.GetLimitsResponse:
        return pb.GetLimitsResponse(limits=self._limits())

    @answering_errors
    async def UpdateLimits(
        self, request: pb.UpdateLimitsRequest, context: Context
    ) -> pb.UpdateLimitsResponse:
        peer = context.peer()
        if not self._remote_control and not is_local(peer):
            message = "admission.remote_control is off: limits are changed from the server's own machine only"
            raise ServiceError(Reason.NOT_ALLOWED, message)
        change = read_update(request, self._governor.options)
        before = self._limits()
        self._governor.configure(
            change.limits,
            target_ttft_s=change.target_ttft_s,
            target_latency_s=change.target_latency_s,
            now_s=self._clock(),
        )
        after = self._limits()
        _log.info(
            "limits changed",
            peer=unquote(peer),
            note=request.note,
            before=_logged(before),
            after=_logged(after),
        )
        self._changed()
        return pb.UpdateLimitsResponse(before=before, after=after)

    def _limits(self) -> pb.Limits:
        now_s = self._clock()
        return limits(self._governor.snapshot(now_s), now_s)


def _logged(values: pb.Limits) -> dict[str, object]:
    """What the change is about, for the audit line."""
    numbers = ("limit", "min_streams", "max_streams", "target_ttft_ms", "target_latency_ms")
    shown: dict[str, object] = {name: getattr(values, name) for name in numbers}
    return {"strategy": _STRATEGIES[values.strategy].value, **shown}
