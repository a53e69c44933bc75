"""The instruments of objectives, remediation, alerts and features."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from flowcontrol.features import FeatureSnapshot, FeatureState
from flowcontrol.remediation.actions import Action, Outcome
from service.alerts import AlertsSnapshot
from service.guard import GuardSnapshot
from service.telemetry.tables import Instrument, Kind, Measured, by_label, one


@dataclass(frozen=True, slots=True)
class GuardReading:
    """What these instruments are read from."""

    guard: GuardSnapshot
    alerts: AlertsSnapshot
    features: tuple[FeatureSnapshot, ...]


def _burn_rates(reading: GuardReading) -> Iterable[Measured]:
    """Those of windows with too few samples are left out."""
    slo = reading.guard.slo
    for objective in slo.objectives if slo is not None else ():
        for window, rate in (("fast", objective.fast_burn), ("slow", objective.slow_burn)):
            if rate is not None:
                yield rate, {"objective": objective.name.value, "window": window}


def _breached(reading: GuardReading) -> Iterable[Measured]:
    slo = reading.guard.slo
    objectives = slo.objectives if slo is not None else ()
    return by_label(
        "objective", {each.name.value: float(each.breached_since_s is not None) for each in objectives}
    )


def _actions(reading: GuardReading) -> Iterable[Measured]:
    """All from 0 on: Prometheus sees no increase in a series that begins with 1."""
    remediation = reading.guard.remediation
    if remediation is None:
        return
    for action, outcome in product(Action, Outcome):
        labels = {"action": action.value.lower(), "outcome": outcome.value.lower()}
        yield remediation.counts.get((action, outcome), 0), labels


def _active(reading: GuardReading) -> Iterable[Measured]:
    remediation = reading.guard.remediation
    if remediation is None:
        return ()
    active = Counter(event.action for event in remediation.active)
    return by_label("action", {action.value.lower(): active[action] for action in Action})


def _alerts(reading: GuardReading) -> Iterable[Measured]:
    alerts = reading.alerts
    return by_label(
        "result", {"delivered": alerts.delivered, "given_up": alerts.given_up, "dropped": alerts.dropped}
    )


def _retries(reading: GuardReading) -> Iterable[Measured]:
    return one(reading.alerts.retried)


def _waiting(reading: GuardReading) -> Iterable[Measured]:
    return one(reading.alerts.waiting)


def _features(reading: GuardReading) -> Iterable[Measured]:
    for feature in reading.features:
        for state in FeatureState:
            yield float(feature.state is state), {"feature": feature.name.value, "state": state.value}


GUARD: tuple[Instrument[GuardReading], ...] = (
    Instrument(
        Kind.GAUGE, "penstock.slo.burn_rate", "",
        "How fast the budget of an objective is used up, by window; 1: as fast as allowed.", _burn_rates,
    ),
    Instrument(Kind.GAUGE, "penstock.slo.breached", "", "Whether it is breached, by objective.", _breached),
    Instrument(
        Kind.COUNTER, "penstock.remediation.actions", "",
        "What was done about breaches, by action and outcome; in a dry run what would have been.", _actions,
    ),
    Instrument(Kind.GAUGE, "penstock.remediation.active", "", "Actions in force, by action.", _active),
    Instrument(Kind.COUNTER, "penstock.alerts", "", "Alerts for the webhook, by result.", _alerts),
    Instrument(
        Kind.COUNTER, "penstock.alert_retries", "",
        "Posts to the webhook that were not the first of their alert.", _retries,
    ),
    Instrument(Kind.GAUGE, "penstock.alerts_waiting", "", "Alerts not yet posted to the webhook.", _waiting),
    Instrument(
        Kind.GAUGE, "penstock.feature.state", "", "1 for the state that it is in, by feature.", _features
    ),
)  # fmt: skip
