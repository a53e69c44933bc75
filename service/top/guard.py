"""Objectives, actions and features in words, for `penstock top` and `penstock status`."""

from penstock.v1.feature_pb2 import Feature, FeatureState
from penstock.v1.status_pb2 import Objective, Remediation, RemediationEvent, Status, Verdict
from service.top.words import clean, enum_name, finite, milliseconds, number, seconds, share

Line = tuple[str, str]

_TITLES = {
    "ttft_p50": "TTFT p50",
    "ttft_p95": "TTFT p95",
    "inter_token_p95": "ITL p95",
    "refusal_rate": "Refused",
    "infrastructure_cancellations": "Faults",
}
_RATES = {"refusal_rate", "infrastructure_cancellations"}
_SHOWN_EVENTS = 3


def title(objective: Objective) -> str:
    return _TITLES.get(objective.name, clean(objective.name))


def in_unit(objective: Objective, value: float | None) -> str:
    """A value of an objective in the unit of its target: a share, or milliseconds."""
    return share(value) if objective.name in _RATES else milliseconds(value)


def fast(objective: Objective) -> float | None:
    """Its value over the fast window; None with too few samples."""
    return finite(objective.fast) if objective.HasField("fast") else None


def burn(objective: Objective) -> str:
    """How fast the budget is used up in the fast and in the slow window."""
    rates = [
        number(getattr(objective, name)) if objective.HasField(name) else "-"
        for name in ("fast_burn_rate", "slow_burn_rate")
    ]
    return "/".join(rates)


def breached(objective: Objective) -> bool:
    return objective.verdict == Verdict.VERDICT_BREACHED


def verdict(objective: Objective) -> str:
    """In a word or two."""
    if breached(objective):
        return f"breached {seconds(objective.breached_ms / 1e3)}"
    if objective.verdict == Verdict.VERDICT_UNKNOWN:
        return f"too few: {objective.samples}"
    return enum_name(Verdict, objective.verdict, "VERDICT_")


def event(one: RemediationEvent) -> str:
    """One action: what, of what, and since when."""
    subject = f" {clean(one.subject)}" if one.subject else ""
    dry = ", dry run" if one.dry_run else ""
    action = clean(one.action).lower().replace("_", " ")
    return f"{action}{subject} {clean(one.outcome).lower()} {seconds(one.ago_ms / 1e3)} ago{dry}"


def past(now: Remediation) -> list[RemediationEvent]:
    """The latest events without those that are in force."""
    in_force = [(one.action, one.subject, one.ago_ms) for one in now.active]
    return [one for one in now.events if (one.action, one.subject, one.ago_ms) not in in_force]


def feature(one: Feature) -> str:
    """A feature and where it is."""
    state = enum_name(FeatureState, one.state, "FEATURE_STATE_")
    if one.state == FeatureState.FEATURE_STATE_CANARY:
        tenants = f", {len(one.tenants)} tenants" if one.tenants else ""
        state = f"canary {one.canary_percent:g} %{tenants}"
        if one.comparison.verdict:
            state += f": {clean(one.comparison.verdict)}"
    elif one.state == FeatureState.FEATURE_STATE_ROLLED_BACK and one.reason:
        state += f": {clean(one.reason)}"
    return f"{clean(one.name)} {state}"


def guard_lines(now: Status) -> list[Line]:
    """What `penstock status` says of them; nothing of what the server does not have."""
    lines: list[Line] = []
    for one in now.service_levels.objectives:
        value = f"{in_unit(one, fast(one))} of {in_unit(one, one.target)}"
        lines.append(
            ("" if lines else "Objectives", f"{title(one)} {value}, burn {burn(one)}, {verdict(one)}")
        )
    if now.HasField("remediation"):
        lines += _remediation_lines(now.remediation)
    features = [("", feature(one)) for one in now.features]
    return [*lines, *([("Features", features[0][1]), *features[1:]] if features else [])]


def _remediation_lines(now: Remediation) -> list[Line]:
    mode = "dry run" if now.dry_run else "acting"
    suspended = f", suspended: {clean(now.suspended)}" if now.suspended else ""
    return [
        ("Remediation", f"{mode}, {len(now.active)} in force{suspended}"),
        *(("", f"in force: {event(one)}: {clean(one.cause)}") for one in now.active),
        *(("", f"{event(one)}: {clean(one.cause)}") for one in past(now)[:_SHOWN_EVENTS]),
    ]
