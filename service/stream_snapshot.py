"""What status shows of one stream."""

from dataclasses import dataclass

from flowcontrol.admission.ask import ServiceClass
from flowcontrol.credits import CreditSnapshot
from flowcontrol.stream_state import State


@dataclass(frozen=True, slots=True)
class StreamSnapshot:
    """A stream at one moment.

    stalled_s: since when tokens wait without credit, 0 when they do not. parked: its row is out of the
    decode batch. mean_ack_s: None before the first ack. age_s: since it asked. queue_position: 0 when it
    does not wait for admission.
    """

    request_id: str
    state: State
    credits: CreditSnapshot
    stalled_s: float
    waiting_tokens: int
    parked: bool
    mean_ack_s: float | None
    slow: bool
    age_s: float
    tenant: str
    service_class: ServiceClass
    queue_position: int
    sent_tokens: int
    """Without those that the caller had before."""
