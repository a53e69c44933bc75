"""What an alert says, and its JSON. docs/alerts.md describes it for those who receive it."""

import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum


class AlertKind(StrEnum):
    BREACH = "breach"
    """An objective is missed, and has been for some time."""
    BREACH_ENDED = "breach_ended"
    """A breach that was told is over."""
    ACTION = "action"
    """The server changed something by itself, or would have (dry run)."""
    ACTION_UNDONE = "action_undone"
    SUSPENDED = "suspended"
    """The server takes no more actions for a while: too many failed."""


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class AlertServer:
    """Who tells. address: host:port that the server listens on."""

    address: str
    version: str


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing that people must be told. Never holds text of a prompt or an output.

    id: the same in every post of this alert. at: with a time zone. subject: the objective or the action.
    text: one sentence for people. details: numbers and short texts for programs.
    """

    id: str
    at: datetime
    kind: AlertKind
    severity: Severity
    subject: str
    text: str
    details: Mapping[str, int | float | str]
    server: AlertServer

    @classmethod
    def now(
        cls,
        kind: AlertKind,
        severity: Severity,
        subject: str,
        text: str,
        details: Mapping[str, int | float | str],
        server: AlertServer,
    ) -> "Alert":
        """An alert with an id of its own and the time of this call."""
        return cls(str(uuid.uuid4()), datetime.now(UTC), kind, severity, subject, text, details, server)

    def body(self) -> bytes:
        """The alert as JSON. What JSON has no number for (infinity, not a number) is null."""
        content = {
            "id": self.id,
            "at": self.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "kind": self.kind,
            "severity": self.severity,
            "subject": self.subject,
            "text": self.text,
            "details": {name: _plain(value) for name, value in self.details.items()},
            "server": {"address": self.server.address, "version": self.server.version},
        }
        return json.dumps(content, allow_nan=False, default=str).encode()


def _plain(value: float | str) -> float | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
