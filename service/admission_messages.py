"""Admission as messages: GovernorSnapshot for LimitsService and StatusService."""

import heapq

from flowcontrol.admission.ask import ServiceClass
from flowcontrol.admission.snapshot import EstimateSnapshot, GovernorSnapshot, TenantSnapshot
from flowcontrol.limits.contract import LimitReason, StrategyName
from penstock.v1 import generation_pb2, limits_pb2, status_pb2

MAX_TENANTS = 20
# What an operator may set, as in config/runtime.yaml.
MAX_STREAMS = 10_000
MAX_TARGET_MS = 3_600_000

STRATEGIES = {name: limits_pb2.LimitStrategy.Value(f"LIMIT_STRATEGY_{name.name}") for name in StrategyName}
PRIORITIES = {one: generation_pb2.Priority.Value(f"PRIORITY_{one.name}") for one in ServiceClass}
_REASONS = {reason: limits_pb2.LimitReason.Value(f"LIMIT_REASON_{reason.name}") for reason in LimitReason}


def limits(snapshot: GovernorSnapshot, now_s: float) -> limits_pb2.Limits:
    """now_s: on the governor's clock."""
    limit = snapshot.limit
    return limits_pb2.Limits(
        strategy=STRATEGIES[limit.strategy],
        min_streams=limit.min_streams,
        max_streams=limit.max_streams,
        target_ttft_ms=round(limit.target_ttft_s * 1e3),
        target_latency_ms=round(limit.target_latency_s * 1e3),
        limit=limit.limit,
        in_flight=sum(snapshot.in_flight.values()),
        queued=sum(snapshot.queued.values()),
        reason=_REASONS[limit.reason],
        changed_ago_ms=(now_s - limit.changed_s) * 1e3,
        last_change=limit.last_change,
        ttft_load=limit.ttft_load,
        latency_load=limit.latency_load,
        drain_ms=snapshot.estimates.drain_s * 1e3,
        last_good=limit.last_good,
        cap=limit.cap or 0,
        fixed_by_guard=limit.fixed,
    )


def admission(snapshot: GovernorSnapshot, now_s: float) -> status_pb2.Admission:
    """now_s: on the governor's clock."""
    most = heapq.nlargest(MAX_TENANTS, snapshot.tenants, key=lambda tenant: tenant.tokens)
    return status_pb2.Admission(
        limits=limits(snapshot, now_s),
        estimates=_estimates(snapshot.estimates),
        priorities=[
            status_pb2.PriorityCounts(
                priority=PRIORITIES[one],
                in_flight=snapshot.in_flight.get(one, 0),
                queued=snapshot.queued.get(one, 0),
            )
            for one in sorted(ServiceClass, reverse=True)
        ],
        queued_tokens=snapshot.queued_tokens,
        max_queued_requests=snapshot.max_queued_requests,
        max_queued_tokens=snapshot.max_queued_tokens,
        admitted=snapshot.admitted,
        refused={reason.value: number for reason, number in snapshot.refused.items()},
        tenants=[_tenant(tenant) for tenant in most],
    )


def _estimates(snapshot: EstimateSnapshot) -> status_pb2.AdmissionEstimates:
    return status_pb2.AdmissionEstimates(
        prefill_tokens_per_s=snapshot.prefill_tokens_per_s,
        first_token_ms=_ms(snapshot.first_token_s),
        step_ms=_ms(snapshot.step_s),
        output_tokens=snapshot.output_tokens,
        kv_bytes=snapshot.kv_bytes,
        max_kv_bytes=snapshot.max_kv_bytes,
    )


def _ms(duration_s: float | None) -> float | None:
    return None if duration_s is None else duration_s * 1e3


def _tenant(snapshot: TenantSnapshot) -> status_pb2.TenantStatus:
    return status_pb2.TenantStatus(
        name=snapshot.name,
        named=snapshot.named,
        weight=snapshot.weight,
        in_flight=snapshot.in_flight,
        queued=snapshot.queued,
        started=snapshot.started,
        refused=snapshot.refused,
        tokens=snapshot.tokens,
        asked_tokens=snapshot.asked_tokens,
        throttle=snapshot.throttle,
    )
