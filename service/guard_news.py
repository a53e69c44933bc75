"""What the guard tells people: alerts, the log, and the traces of streams in flight."""

from collections.abc import Callable

from flowcontrol.remediation.actions import Action, Event, Outcome
from flowcontrol.slo_verdict import ObjectiveSnapshot
from service.alert import Alert, AlertKind, AlertServer, Severity

_TOLD = {
    Outcome.TAKEN: (AlertKind.ACTION, Severity.WARNING, "taken"),
    Outcome.UNDONE: (AlertKind.ACTION_UNDONE, Severity.INFO, "undone"),
    Outcome.HELD: (
        AlertKind.ACTION,
        Severity.WARNING,
        "left in force, because it was taken and undone too often",
    ),
    Outcome.FAILED: (AlertKind.ACTION, Severity.CRITICAL, "failed"),
}
"""Kind, severity and words of the outcomes that are told. What was skipped was not done, and is in status."""


class Newsroom:
    """Makes alerts of what happens. tell: Alerts.tell."""

    def __init__(self, tell: Callable[[Alert], None]) -> None:
        self.server = AlertServer("", "")
        """Who tells; known once the server listens."""
        self.note: Callable[[str, str], None] = lambda action, cause: None
        """Puts an event into the traces of streams in flight."""
        self._tell = tell

    def breach(self, objective: ObjectiveSnapshot, *, ended: bool, lasted_s: float) -> None:
        name = objective.name.value
        words = "is met again after" if ended else "has been missed for"
        details: dict[str, int | float | str] = {"target": objective.target, "lasted_s": round(lasted_s, 1)}
        for key, value in (("fast", objective.fast), ("fast_burn_rate", objective.fast_burn)):
            if value is not None:
                details[key] = value
        kind = AlertKind.BREACH_ENDED if ended else AlertKind.BREACH
        severity = Severity.INFO if ended else Severity.CRITICAL
        self._send(kind, severity, name, f"The objective {name} {words} {lasted_s:.0f} s.", details)

    def event(self, event: Event) -> None:
        """Something was done by the policy, or would have been."""
        if event.outcome not in _TOLD:
            return
        kind, severity, words = _TOLD[event.outcome]
        what = f"{event.action.value} {event.subject}".strip()
        if event.dry_run:
            words = f"would have been {words} (dry run)"
        details: dict[str, int | float | str] = {
            "subject": event.subject,
            "cause": event.cause,
            "dry_run": int(event.dry_run),
        }
        self._send(kind, severity, event.action.value, f"{what} {words}: {event.cause}.", details)
        if not event.dry_run:
            self.note(f"{what} {event.outcome.value}", event.cause)

    def rolled_back(self, feature: str, worse: str) -> None:
        """A canary was rolled back without the policy."""
        text = f"The canary of {feature} was rolled back: {worse}."
        details: dict[str, int | float | str] = {"subject": feature, "cause": worse}
        self._send(AlertKind.ACTION, Severity.WARNING, Action.ROLL_BACK_FEATURE.value, text, details)
        self.note(f"{Action.ROLL_BACK_FEATURE.value} {feature}", worse)

    def suspended(self, why: str) -> None:
        text = f"No more actions are taken for an hour: {why}."
        self._send(AlertKind.SUSPENDED, Severity.CRITICAL, "remediation", text, {"cause": why})

    def _send(
        self,
        kind: AlertKind,
        severity: Severity,
        subject: str,
        text: str,
        details: dict[str, int | float | str],
    ) -> None:
        self._tell(Alert.now(kind, severity, subject, text, details, self.server))
