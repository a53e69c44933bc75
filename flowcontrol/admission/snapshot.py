"""What the governor shows of itself at one moment."""

from dataclasses import dataclass

from flowcontrol.admission.ask import ServiceClass
from flowcontrol.limits.contract import LimitReason, StrategyName
from flowcontrol.reasons import Reason


@dataclass(frozen=True, slots=True)
class TenantSnapshot:
    """One tenant. tokens: of prompts and output, charged so far. named: whether it has limits of its own.

    asked_tokens: estimated tokens of all that it asked for so far, admitted or not. throttle: share of the
    limit that its streams in flight are held to; None while they are not.
    """

    name: str
    named: bool
    weight: float
    in_flight: int
    queued: int
    started: int
    refused: int
    tokens: int
    asked_tokens: int
    throttle: float | None


@dataclass(frozen=True, slots=True)
class LimitSnapshot:
    """The limit on streams in flight. changed_s: since when it is what it is, on the governor's clock.

    ttft_load, latency_load: of the last whole window, 1 is on target; None when it said nothing. last_good:
    the last limit that stood under demand with load on target. cap: what the guard holds it to; None for
    nothing. fixed: whether the strategy is `fixed` because the guard has made it so. changes: how often the
    limit has moved, by reason; raised, lowered: by direction.
    """

    strategy: StrategyName
    limit: int
    min_streams: int
    max_streams: int
    target_ttft_s: float
    target_latency_s: float
    reason: LimitReason
    changed_s: float
    last_change: int
    """Streams by which the last change moved the limit."""
    ttft_load: float | None
    latency_load: float | None
    last_good: int
    cap: int | None
    fixed: bool
    changes: dict[LimitReason, int]
    raised: int
    lowered: int


@dataclass(frozen=True, slots=True)
class EstimateSnapshot:
    """What the gate predicts with; None before it was measured.

    prefill_tokens_per_s: how fast a backlog of prompts is worked off. first_token_s: time to first token
    of a short prompt on an idle engine. step_s: between two tokens of a stream. output_tokens: mean output
    of a stream.
    """

    prefill_tokens_per_s: float | None
    first_token_s: float | None
    step_s: float | None
    output_tokens: float | None
    kv_bytes: int
    max_kv_bytes: int
    drain_s: float
    """Until all that waits now would have started."""


@dataclass(frozen=True, slots=True)
class GovernorSnapshot:
    """Admission at one moment. Counts are since the start; refused counts those who waited first too."""

    limit: LimitSnapshot
    estimates: EstimateSnapshot
    in_flight: dict[ServiceClass, int]
    queued: dict[ServiceClass, int]
    queued_tokens: int
    max_queued_requests: int
    max_queued_tokens: int
    admitted: int
    refused: dict[Reason, int]
    tenants: tuple[TenantSnapshot, ...]
