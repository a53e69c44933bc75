"""A request for admission, and the answers to it."""

from dataclasses import dataclass
from enum import Enum, IntEnum

from flowcontrol.reasons import Reason


class ServiceClass(IntEnum):
    """Class of service; a higher one goes first."""

    BULK = 1
    DEFAULT = 2
    INTERACTIVE = 3
    SYSTEM = 4


class Outcome(Enum):
    """How a permit ended."""

    SUCCESS = "success"
    """The stream ran; its times say something about the load."""
    IGNORED = "ignored"
    """It ended for a reason that says nothing about the load: its caller left, or the request was bad."""
    DROPPED = "dropped"
    """It ran out of time before its first token: a sign of overload."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for one stream.

    tenant: empty for callers without one. prompt_tokens: estimated, the prompt is not tokenised yet.
    max_tokens: most tokens of output. deadline_s: when the caller stops waiting, on the governor's clock;
    None for never.
    """

    tenant: str
    service_class: ServiceClass
    prompt_tokens: int
    max_tokens: int
    deadline_s: float | None


@dataclass(frozen=True, slots=True)
class Quota:
    """The quota that a refused request would have exceeded. subject: such as "tenant:acme"."""

    subject: str
    description: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """No, and when a new try may succeed."""

    reason: Reason
    message: str
    retry_after_s: float
    quota: Quota | None = None
