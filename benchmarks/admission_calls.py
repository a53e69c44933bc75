"""What callers are told to do, what they saw, and what that comes to. Pure."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from random import Random

import msgspec

from benchmarks.measure import percentile
from benchmarks.simulation.measures import max_min_shares
from service.load.attempt import Ending
from service.load.quantiles import LEAST_FOR_P95, jain

AT_ONCE_S = 1.0
"""A refusal that comes later than this was not given at once: the request had waited."""


class Load(msgspec.Struct, frozen=True):
    """One run of callers.

    phases: (requests per second, seconds), one after the other, Poisson; with callers only the seconds
    count. callers: of a closed loop, each of which waits after a refusal as told; 0 for an open loop.
    max_requests: of a closed loop; 0 for no bound. max_tries: calls for one request of an open loop.
    tenants: shares of the requests. nameless: the server is not told the tenants.
    """

    target: str
    phases: list[tuple[float, float]]
    callers: int = 0
    max_requests: int = 0
    max_tries: int = 1
    prompt_tokens: int = 32
    max_tokens: int = 32
    priority: str = "default"
    tenants: dict[str, float] = {}
    nameless: bool = False
    seed: int = 0

    @property
    def duration_s(self) -> float:
        return sum(seconds for _, seconds in self.phases)


class Call(msgspec.Struct, frozen=True, array_like=True):
    """One call. Times are seconds since the run began; the fields are those of service.load.attempt."""

    number: int
    tries: int
    tenant: str
    due_s: float
    sent_s: float
    ended_s: float
    ending: str
    cause: str
    retry_after_s: float | None
    ttft_s: float | None
    tokens: int


class Observed(msgspec.Struct, frozen=True):
    """All calls of a run. loop_lag_p95_s: by which the callers' event loop came late."""

    calls: list[Call]
    loop_lag_p95_s: float


def arrivals(phases: Sequence[tuple[float, float]], random: Random) -> Iterator[float]:
    """Times of a Poisson process whose rate is that of each phase in turn."""
    begin_s = 0.0
    for rate_per_s, seconds in phases:
        if rate_per_s:
            gaps = (random.expovariate(rate_per_s) for _ in itertools.repeat(None))
            times = itertools.accumulate(gaps)
            for time_s in itertools.takewhile(lambda time_s, end=seconds: time_s < end, times):  # type: ignore[misc]
                yield begin_s + time_s
        begin_s += seconds


class Summary(msgspec.Struct, frozen=True):
    """A run in numbers. Shares are of the calls. Percentiles are None with too few samples.

    untyped: calls that ended without an answer that says why. failed: with another typed answer than a
    refusal. cut: ended by the load itself, or not sent. late_refusals: share of refusals that came after
    AT_ONCE_S. untold: refusals without a delay to wait. sent_late_p95_s: by which calls were sent late.
    """

    calls: int
    answered: int
    refused: int
    untyped: int
    failed: int
    cut: int
    reasons: dict[str, int]
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    refusal_p50_s: float | None
    refusal_p95_s: float | None
    late_refusals: float | None
    untold: int
    sent_late_p95_s: float | None

    @property
    def refused_share(self) -> float:
        return self.refused / self.calls if self.calls else 0.0


def summarise(calls: Sequence[Call]) -> Summary:
    """The calls of one run, or of several together."""
    endings = Counter(call.ending for call in calls)
    refusals = [call for call in calls if call.ending == Ending.REFUSED]
    times_s = [call.ended_s - call.sent_s for call in refusals]
    ttft_s = [call.ttft_s for call in calls if call.ttft_s is not None]
    late = sum(time_s > AT_ONCE_S for time_s in times_s)
    return Summary(
        calls=len(calls),
        answered=endings[Ending.ANSWERED],
        refused=len(refusals),
        untyped=endings[Ending.LOST],
        failed=endings[Ending.FAILED],
        cut=endings[Ending.UNFINISHED] + endings[Ending.NOT_SENT],
        reasons=dict(Counter(call.cause for call in calls if call.cause).most_common()),
        ttft_p50_s=_quantile(ttft_s, 0.5),
        ttft_p95_s=_quantile(ttft_s, 0.95),
        refusal_p50_s=_quantile(times_s, 0.5),
        refusal_p95_s=_quantile(times_s, 0.95),
        late_refusals=late / len(refusals) if refusals else None,
        untold=sum(call.retry_after_s is None for call in refusals),
        sent_late_p95_s=_quantile([c.sent_s - c.due_s for c in calls if c.ending != Ending.NOT_SENT], 0.95),
    )


def _quantile(values: Sequence[float], fraction: float) -> float | None:
    if not values or (fraction > 0.5 and len(values) < LEAST_FOR_P95):
        return None
    return percentile(sorted(values), fraction)


def tokens_per_s(calls: Sequence[Call], from_s: float, to_s: float) -> float:
    """Output tokens of the answers that ended between two times."""
    tokens = sum(call.tokens for call in calls if answered(call) and from_s <= call.ended_s < to_s)
    return tokens / (to_s - from_s)


def answered(call: Call) -> bool:
    return call.ending == Ending.ANSWERED


class Shares(msgspec.Struct, frozen=True):
    """What tenants got of their fair shares. share: by tenant. jain: Jain's index of these, 1 when all
    got the same part of their fair shares. overload: requests that were asked, by those answered."""

    share: dict[str, float]
    jain: float
    overload: float


def shares(calls: Sequence[Call], tenants: Sequence[str], from_s: float, to_s: float) -> Shares:
    """Of the requests that were asked between two times, whenever they were answered.

    A fair share is the max-min one of all that these requests got together: what the tenant asked for, or an
    equal part of what those leave who asked for less. Not of a time's tokens: a tenant's answers come later
    than its questions, and the ends of the time would count for more than unfairness does. All requests are
    alike, so that they stand for tokens.
    """
    within = [call for call in calls if from_s <= call.sent_s < to_s]
    asked = Counter(call.tenant for call in within)
    got = Counter(call.tenant for call in within if answered(call))
    fair = max_min_shares({name: float(asked[name]) for name in tenants}, float(got.total()))
    share = {name: got[name] / fair[name] if fair[name] else 1.0 for name in tenants}
    return Shares(share, jain(list(share.values())) or 0.0, len(within) / max(1, got.total()))


def each_second(calls: Sequence[Call], ending: str) -> list[int]:
    """Calls with this ending by the second in which they ended."""
    counts = Counter(int(call.ended_s) for call in calls if call.ending == ending)
    return [counts[second] for second in range(max(counts, default=-1) + 1)]


def served(calls: Sequence[Call], from_s: float, to_s: float) -> float:
    """Share of the requests first asked between two times that were answered in the end."""
    asked = {call.number for call in calls if call.tries == 1 and from_s <= call.sent_s < to_s}
    got = {call.number for call in calls if answered(call)}
    return len(asked & got) / len(asked) if asked else 1.0


def tenant_rates(light: Sequence[str], heavy: str, times: float, total: float) -> Mapping[str, float]:
    """Requests per second of each: the heavy one asks `times` as much as each other, all together `total`."""
    unit = total / (len(light) + times)
    return {**dict.fromkeys(light, unit), heavy: times * unit}
