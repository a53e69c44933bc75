"""Whether the streams of a canary arm do worse than those of the control arm, however often one looks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ddsketch.ddsketch import BaseDDSketch
from ddsketch.mapping import LogarithmicMapping
from ddsketch.store import DenseStore

from flowcontrol.features import CANARY, CONTROL

LEAST_Z = 4.0
"""What a difference must be in standard deviations, one-sided: 3.2e-5 for one look.

A look at a sum that has hardly grown is hardly a new one. One that is looked at without end is beyond z with
a chance of z * phi(z) / 2 for each time that the samples have grown by a factor of e (repeated significance
tests: D. Siegmund, Sequential Analysis, 1985): 2.7e-4 here, 0.25 % from 50 samples to 500,000.
"""
LEAST_RATIO = 1.1
"""A smaller difference is left alone, however certain: it is not worth a roll-back."""
LEAST_TTFT_S = 0.020
LEAST_TOKEN_S = 0.002
LEAST_FAILED = 0.005
"""Share of streams. The objective for failures of the infrastructure is of this size."""

_MOST_CHANCE = math.erfc(LEAST_Z / math.sqrt(2)) / 2
_ACCURACY = 0.01
_LEAST_TIME_S = 1e-6
_TAIL = 0.95


class VerdictKind(StrEnum):
    TOO_FEW = "too few samples"
    NO_DIFFERENCE = "no difference"
    BETTER = "better"
    WORSE = "worse"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of the canary arm. text: for people, with what is worse or better."""

    kind: VerdictKind
    text: str


@dataclass(frozen=True, slots=True)
class ArmSnapshot:
    """streams: ended ones. Times are None without a sample. failed: by a fault of the server."""

    streams: int
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    inter_token_p95_s: float | None
    failed: int


@dataclass(frozen=True, slots=True)
class ComparisonSnapshot:
    control: ArmSnapshot
    canary: ArmSnapshot
    verdict: Verdict


class Times:
    """A distribution of times with a relative error of 1 %, in a bounded number of bins."""

    def __init__(self) -> None:
        # A store of our own, since the tests count in its bins.
        self._store = DenseStore()
        self._sketch = BaseDDSketch(LogarithmicMapping(_ACCURACY), self._store, DenseStore(), 0.0)

    def __len__(self) -> int:
        return int(self._store.count)

    def add(self, time_s: float) -> None:
        self._sketch.add(max(time_s, _LEAST_TIME_S))

    def quantile(self, share: float) -> float | None:
        return self._sketch.get_quantile_value(share)

    def bins(self) -> dict[int, int]:
        """Samples by bin; a higher one has longer times."""
        store = self._store
        return {place + store.offset: int(number) for place, number in enumerate(store.bins) if number}


class _Arm:
    def __init__(self) -> None:
        self.ttft = Times()
        self.gaps = Times()
        self.token = Times()
        self.ended = 0
        self.failed = 0

    def snapshot(self) -> ArmSnapshot:
        return ArmSnapshot(
            streams=self.ended,
            ttft_p50_s=self.ttft.quantile(0.5),
            ttft_p95_s=self.ttft.quantile(_TAIL),
            inter_token_p95_s=self.gaps.quantile(_TAIL),
            failed=self.failed,
        )


class ArmComparison:
    """Gathers what the streams of both arms were like since the canary began, and compares.

    The unit is the stream, since streams are what chance deals to the arms: one time to first token, one mean
    time between tokens and one end of each. Both arms cover the same time, so a burst meets both. Compared
    are times to first token by Mann-Whitney's U and by how many are in the slowest twentieth of both, mean
    times between tokens by U, and failures. Numbers are judged by the hypergeometric distribution, which is
    exact for few, too. A difference must also be large enough to matter.
    """

    def __init__(self, min_samples: int) -> None:
        """min_samples: streams that each arm needs before anything is said."""
        self._min_samples = min_samples
        self._arms: dict[str, _Arm] = {}
        self.running = False
        """Whether samples are taken."""
        self._reset()

    def begin(self) -> None:
        """A canary begins, or its share has changed: what was gathered is of another mixture."""
        self._reset()
        self.running = True

    def end(self) -> None:
        """The canary is over. What was gathered stays."""
        self.running = False

    def first_token(self, arm: str, ttft_s: float) -> None:
        if self.running:
            self._arms[arm].ttft.add(ttft_s)

    def gaps(self, arm: str, gaps_s: Sequence[float]) -> None:
        """Times between tokens, of any number of streams. They are shown, not judged by."""
        if self.running:
            gaps = self._arms[arm].gaps
            for gap_s in gaps_s:
                gaps.add(gap_s)

    def ended(self, arm: str, *, infrastructure: bool, token_s: float | None) -> None:
        """A stream has ended. infrastructure: by a fault of the server.

        token_s: its mean time between tokens, stalls left out; None for a stream with fewer than two tokens.
        """
        if not self.running:
            return
        one = self._arms[arm]
        one.ended += 1
        one.failed += infrastructure
        if token_s is not None:
            one.token.add(token_s)

    def verdict(self) -> Verdict:
        control, canary = self._arms[CONTROL], self._arms[CANARY]
        worse = self._differences(canary, control)
        if worse:
            return Verdict(VerdictKind.WORSE, f"{VerdictKind.WORSE}: {'; '.join(worse)}")
        if min(len(control.ttft), len(canary.ttft)) < self._min_samples:
            return Verdict(VerdictKind.TOO_FEW, VerdictKind.TOO_FEW.value)
        if self._differences(control, canary):
            return Verdict(VerdictKind.BETTER, VerdictKind.BETTER.value)
        return Verdict(VerdictKind.NO_DIFFERENCE, VerdictKind.NO_DIFFERENCE.value)

    def snapshot(self) -> ComparisonSnapshot:
        control, canary = self._arms[CONTROL], self._arms[CANARY]
        return ComparisonSnapshot(control.snapshot(), canary.snapshot(), self.verdict())

    def _reset(self) -> None:
        self._arms = {CONTROL: _Arm(), CANARY: _Arm()}

    def _differences(self, one: _Arm, other: _Arm) -> list[str]:
        """In what `one` is worse than `other`, in words."""
        found = []
        if min(len(one.ttft), len(other.ttft)) >= self._min_samples:
            slow, fast = one.ttft.bins(), other.ttft.bins()
            if z_of_ranks(slow, fast) > LEAST_Z:
                found += _longer("time to first token p50", one.ttft, other.ttft, 0.5, LEAST_TTFT_S)
            if chance_of_tail(slow, fast) < _MOST_CHANCE:
                found += _longer("time to first token p95", one.ttft, other.ttft, _TAIL, LEAST_TTFT_S)
        enough = min(len(one.token), len(other.token)) >= self._min_samples
        if enough and z_of_ranks(one.token.bins(), other.token.bins()) > LEAST_Z:
            found += _longer("time between tokens p50", one.token, other.token, 0.5, LEAST_TOKEN_S)
        if min(one.ended, other.ended) >= self._min_samples:
            found += _more_failed(one, other)
        return found


def z_of_ranks(one: dict[int, int], other: dict[int, int]) -> float:
    """Mann-Whitney's U as a standard normal, with its correction for ties: positive where `one` is higher.

    Samples by bin; neither may be empty. 0 where all are in one bin.
    """
    n, m = sum(one.values()), sum(other.values())
    u, below, ties = 0.0, 0, 0
    for key in sorted(one.keys() | other.keys()):
        mine, theirs = one.get(key, 0), other.get(key, 0)
        u += mine * (below + theirs / 2)
        below += theirs
        ties += (mine + theirs) ** 3 - (mine + theirs)
    total = n + m
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
    return (u - n * m / 2) / math.sqrt(variance) if variance > 0 else 0.0


def chance_of_tail(one: dict[int, int], other: dict[int, int]) -> float:
    """The chance that `one` has as many of the slowest twentieth of both as it has, if both are alike."""
    n, m = sum(one.values()), sum(other.values())
    left = (n + m) * (1 - _TAIL)
    mine, slowest = 0, 0
    keys = sorted(one.keys() | other.keys())
    while slowest + (together := one.get(keys[-1], 0) + other.get(keys[-1], 0)) <= left:
        mine += one.get(keys.pop(), 0)
        slowest += together
    return hypergeometric_tail(mine, slowest, n, n + m)


def hypergeometric_tail(got: int, marked: int, drawn: int, total: int) -> float:
    """The chance of `got` or more marked ones among `drawn` of `total`, of which `marked` are."""
    if got * total <= marked * drawn:
        return 1.0  # No more than expected: of no interest, and a long sum.
    term = math.exp(
        _log_choose(marked, got) + _log_choose(total - marked, drawn - got) - _log_choose(total, drawn)
    )
    chance = 0.0
    for k in range(got, min(marked, drawn) + 1):
        chance += term
        # Beyond the mean each term is less than the one before, by a factor that falls.
        if term < chance * 1e-9:
            break
        term *= (marked - k) * (drawn - k) / ((k + 1) * (total - marked - drawn + k + 1))
    return chance


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _longer(what: str, one: Times, other: Times, share: float, least_s: float) -> list[str]:
    """The difference in words, where it is large enough."""
    long_s, short_s = one.quantile(share) or 0.0, other.quantile(share) or 0.0
    if long_s < short_s * LEAST_RATIO or long_s < short_s + least_s:
        return []
    return [f"{what} {long_s * 1e3:.0f} ms against {short_s * 1e3:.0f} ms"]


def _more_failed(one: _Arm, other: _Arm) -> list[str]:
    many, few = one.failed / one.ended, other.failed / other.ended
    chance = hypergeometric_tail(one.failed, one.failed + other.failed, one.ended, one.ended + other.ended)
    if many < few + LEAST_FAILED or chance >= _MOST_CHANCE:
        return []
    return [f"failed streams {many:.1%} against {few:.1%}"]
