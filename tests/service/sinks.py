"""A sink that keeps what it is told."""

from collections.abc import Sequence

from flowcontrol.admission.ask import ServiceClass
from flowcontrol.reasons import Reason
from service.observation import StreamLabels, StreamOutcome

LABELS = StreamLabels("scripted", ServiceClass.DEFAULT, "control")


class RecordingSink:
    """Implements StreamSink."""

    def __init__(self) -> None:
        self.first_tokens: list[tuple[StreamLabels, float]] = []
        self.told_gaps: list[tuple[StreamLabels, list[float]]] = []
        self.refusals: list[tuple[StreamLabels | None, Reason]] = []
        self.outcomes: list[StreamOutcome] = []

    def first_token(self, labels: StreamLabels, ttft_s: float) -> None:
        self.first_tokens.append((labels, ttft_s))

    def gaps(self, labels: StreamLabels, gaps_s: Sequence[float]) -> None:
        self.told_gaps.append((labels, list(gaps_s)))

    def refused(self, labels: StreamLabels | None, reason: Reason) -> None:
        self.refusals.append((labels, reason))

    def ended(self, outcome: StreamOutcome) -> None:
        self.outcomes.append(outcome)
