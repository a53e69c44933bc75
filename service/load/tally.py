"""Attempts added up. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from service.load.attempt import Attempt, Ending
from service.load.options import Targets
from service.load.quantiles import Quantiles, jain, quantiles

LATE_S = 0.05
"""When the 95th percentile of the lag is more, what was measured is the generator."""


@dataclass(frozen=True, slots=True)
class TenantTally:
    """asked: requests. refused: calls. tokens: received within the window."""

    name: str
    asked: int
    answered: int
    refused: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Second:
    """One second of the run. asked: with those not sent. refused_retries: of calls that were tries again."""

    second: int
    asked: int
    not_sent: int
    retried: int
    answered: int
    refused_first: int
    refused_retries: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Tally:
    """The numbers of a run.

    asked: requests; endings: of the last call of each; they add up to it. refused_first, refused_retries:
    calls, and refusals: the same by reason. failures, losses: calls by cause. messages: the first text for
    each cause. good: answers within the targets; output_tokens and good_tokens: with what came after the
    window. Rates are over the window: tokens that came in it. Times in seconds. ttft_with_retries: from when
    the first call of the request was sent. late: whether requests were sent so late that the numbers are
    this process's own.
    """

    asked: int
    retries: int
    endings: Mapping[Ending, int]
    refused_first: int
    refused_retries: int
    refusals: Mapping[str, int]
    failures: Mapping[str, int]
    losses: Mapping[str, int]
    messages: Mapping[str, str]
    good: int
    output_tokens: int
    good_tokens: int
    window_s: float
    throughput_per_s: float
    goodput_per_s: float
    ttft: Quantiles
    ttft_with_retries: Quantiles
    inter_token: Quantiles
    refusal: Quantiles
    queue: Quantiles
    admission: Quantiles
    lag: Quantiles
    late: bool
    tenants: Sequence[TenantTally]
    jain: float | None
    seconds: Sequence[Second]


def add_up(
    attempts: Sequence[Attempt], *, window_s: float, targets: Targets, tenants: Iterable[str]
) -> Tally:
    """window_s: while requests arrived; what came after it is not in the rates."""
    answered = [attempt for attempt in attempts if attempt.ending is Ending.ANSWERED]
    refused = [attempt for attempt in attempts if attempt.ending is Ending.REFUSED]
    good = [attempt for attempt in answered if is_good(attempt, targets)]
    first_sent_s = {attempt.number: attempt.sent_s for attempt in attempts if attempt.tries == 1}
    lag = quantiles(a.sent_s - a.due_s for a in attempts if a.ending is not Ending.NOT_SENT)
    shares = [_tenant(name, attempts, window_s) for name in tenants]
    return Tally(
        asked=len(first_sent_s),
        retries=sum(attempt.tries > 1 for attempt in attempts),
        endings=_endings(attempts),
        refused_first=sum(attempt.tries == 1 for attempt in refused),
        refused_retries=sum(attempt.tries > 1 for attempt in refused),
        refusals=Counter(attempt.cause for attempt in refused),
        failures=Counter(a.cause for a in attempts if a.ending is Ending.FAILED),
        losses=Counter(a.cause for a in attempts if a.ending is Ending.LOST),
        messages={a.cause: a.message for a in reversed(attempts) if a.cause},
        good=len(good),
        output_tokens=sum(attempt.tokens for attempt in attempts),
        good_tokens=sum(attempt.tokens for attempt in good),
        window_s=window_s,
        throughput_per_s=_per_s(attempts, window_s),
        goodput_per_s=_per_s(good, window_s),
        ttft=quantiles(a.ttft_s for a in attempts if a.ttft_s is not None),
        ttft_with_retries=quantiles(a.arrived_s[0] - first_sent_s[a.number] for a in attempts if a.arrived_s),
        inter_token=quantiles(gap_s for attempt in attempts for gap_s in attempt.gaps_s()),
        refusal=quantiles(attempt.ended_s - attempt.sent_s for attempt in refused),
        queue=quantiles(attempt.queue_s for attempt in answered),
        admission=quantiles(attempt.admission_s for attempt in answered),
        lag=lag,
        late=lag.p95 is not None and lag.p95 > LATE_S,
        tenants=shares,
        jain=jain([share.tokens for share in shares]) if len(shares) > 1 else None,
        seconds=_seconds(attempts),
    )


def is_good(attempt: Attempt, targets: Targets) -> bool:
    """Whether an answer kept to the targets. One without tokens kept to them by its end."""
    ttft_s = attempt.ended_s - attempt.sent_s if attempt.ttft_s is None else attempt.ttft_s
    in_time = not targets.ttft_s or ttft_s <= targets.ttft_s
    return in_time and (not targets.latency_s or attempt.latency_s <= targets.latency_s)


def _endings(attempts: Iterable[Attempt]) -> dict[Ending, int]:
    last = {attempt.number: attempt.ending for attempt in attempts}  # in order: the last call of each stays
    counts = Counter(last.values())
    return {ending: counts[ending] for ending in Ending}


def _within(attempt: Attempt, window_s: float) -> int:
    """Tokens that came within the window."""
    pairs = zip(attempt.arrived_s, attempt.arrived_tokens, strict=True)
    return sum(tokens for time_s, tokens in pairs if time_s <= window_s)


def _per_s(attempts: Iterable[Attempt], window_s: float) -> float:
    return sum(_within(attempt, window_s) for attempt in attempts) / window_s if window_s > 0 else 0.0


def _tenant(name: str, attempts: Iterable[Attempt], window_s: float) -> TenantTally:
    own = [attempt for attempt in attempts if attempt.tenant == name]
    return TenantTally(
        name,
        asked=sum(attempt.tries == 1 for attempt in own),
        answered=sum(attempt.ending is Ending.ANSWERED for attempt in own),
        refused=sum(attempt.ending is Ending.REFUSED for attempt in own),
        tokens=sum(_within(attempt, window_s) for attempt in own),
    )


def _seconds(attempts: Sequence[Attempt]) -> list[Second]:
    """Every second from the beginning to the last event; a call counts when it was sent and when it ended."""
    asked, not_sent, retried = Counter[int](), Counter[int](), Counter[int]()
    answered, refused_first, refused_retries = Counter[int](), Counter[int](), Counter[int]()
    tokens = Counter[int]()
    for attempt in attempts:
        first = attempt.tries == 1
        (asked if first else retried)[int(attempt.sent_s)] += 1
        match attempt.ending:
            case Ending.NOT_SENT:
                not_sent[int(attempt.sent_s)] += 1
            case Ending.ANSWERED:
                answered[int(attempt.ended_s)] += 1
            case Ending.REFUSED:
                (refused_first if first else refused_retries)[int(attempt.ended_s)] += 1
        for time_s, count in zip(attempt.arrived_s, attempt.arrived_tokens, strict=True):
            tokens[int(time_s)] += count
    columns = (asked, not_sent, retried, answered, refused_first, refused_retries, tokens)
    last = max((max(column, default=-1) for column in columns), default=-1)
    return [Second(number, *(column[number] for column in columns)) for number in range(last + 1)]
