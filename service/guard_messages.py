"""Objectives and remediation as messages of StatusService."""

from flowcontrol.remediation.actions import Event
from flowcontrol.remediation.contract import RemediationSnapshot
from flowcontrol.slo import SloSnapshot
from flowcontrol.slo_verdict import ObjectiveSnapshot, Verdict
from penstock.v1 import status_pb2 as pb

_VERDICTS = {
    Verdict.UNKNOWN: pb.VERDICT_UNKNOWN,
    Verdict.MET: pb.VERDICT_MET,
    Verdict.BREACHED: pb.VERDICT_BREACHED,
}


def service_levels(snapshot: SloSnapshot, now_s: float) -> pb.ServiceLevels:
    """now_s: on the guard's clock, as below."""
    return pb.ServiceLevels(
        objectives=[_objective(one, now_s) for one in snapshot.objectives],
        evaluated_ago_ms=(now_s - snapshot.evaluated_s) * 1e3,
        interval_ms=snapshot.interval_s * 1e3,
        fast_window_ms=snapshot.fast_window_s * 1e3,
        slow_window_ms=snapshot.slow_window_s * 1e3,
    )


def _objective(snapshot: ObjectiveSnapshot, now_s: float) -> pb.Objective:
    # Times are told in milliseconds, as everywhere in status; rates as they are.
    unit = 1e3 if snapshot.name.is_time else 1.0
    since_s = snapshot.breached_since_s
    return pb.Objective(
        name=snapshot.name.value,
        target=snapshot.target * unit,
        verdict=_VERDICTS[snapshot.verdict],
        fast=None if snapshot.fast is None else snapshot.fast * unit,
        slow=None if snapshot.slow is None else snapshot.slow * unit,
        fast_burn_rate=snapshot.fast_burn,
        slow_burn_rate=snapshot.slow_burn,
        samples=snapshot.samples,
        breached_ms=0.0 if since_s is None else (now_s - since_s) * 1e3,
    )


def remediation(snapshot: RemediationSnapshot, now_s: float) -> pb.Remediation:
    return pb.Remediation(
        dry_run=snapshot.dry_run,
        suspended=snapshot.suspended,
        active=[_event(one, now_s) for one in snapshot.active],
        events=[_event(one, now_s) for one in snapshot.events],
    )


def _event(event: Event, now_s: float) -> pb.RemediationEvent:
    return pb.RemediationEvent(
        action=event.action.value,
        subject=event.subject,
        cause=event.cause,
        outcome=event.outcome.value,
        dry_run=event.dry_run,
        ago_ms=(now_s - event.at_s) * 1e3,
    )
