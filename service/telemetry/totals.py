"""Counts of streams since the server started."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from flowcontrol.reasons import Reason
from service.causes import is_refusal
from service.observation import Cause, StreamLabels, StreamOutcome

OUTCOMES = ("finished", "cancelled", "failed")


@dataclass(frozen=True, slots=True)
class TotalsSnapshot:
    """ended: by labels, then by each of OUTCOMES. Tokens are those of ended streams."""

    ended: dict[StreamLabels, dict[str, int]]
    cancelled: dict[Cause, int]
    refused: dict[Reason, int]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class StreamTotals:
    """Implements StreamSink."""

    def __init__(self) -> None:
        # All there may be from the beginning, since a rate needs a zero before the first one.
        self._ended: dict[StreamLabels, dict[str, int]] = {}
        self._cancelled: Counter[Cause] = Counter(dict.fromkeys(Cause, 0))
        self._refused: Counter[Reason] = Counter(dict.fromkeys(filter(is_refusal, Reason), 0))
        self._prompt_tokens = self._cached_tokens = self._completion_tokens = 0

    def first_token(self, labels: StreamLabels, ttft_s: float) -> None:
        """Nothing to count."""

    def gaps(self, labels: StreamLabels, gaps_s: Sequence[float]) -> None:
        """Nothing to count."""

    def refused(self, labels: StreamLabels | None, reason: Reason) -> None:
        self._refused[reason] += 1

    def ended(self, outcome: StreamOutcome) -> None:
        ended = self._ended.setdefault(outcome.labels, dict.fromkeys(OUTCOMES, 0))
        ended[_outcome(outcome)] += 1
        if outcome.cause is not None:
            self._cancelled[outcome.cause] += 1
        self._prompt_tokens += outcome.prompt_tokens
        self._cached_tokens += outcome.cached_tokens
        self._completion_tokens += outcome.completion_tokens

    def snapshot(self) -> TotalsSnapshot:
        return TotalsSnapshot(
            ended={labels: dict(ended) for labels, ended in self._ended.items()},
            cancelled=dict(self._cancelled),
            refused=dict(self._refused),
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            completion_tokens=self._completion_tokens,
        )


def _outcome(outcome: StreamOutcome) -> str:
    if outcome.cause is None:
        return "finished"
    return "cancelled" if outcome.reason == "cancelled" else "failed"
