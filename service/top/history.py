"""What `penstock top` remembers: a ring of samples, and rates from the differences of counters.

Pure. Time is the server's uptime, so a slow connection does not disturb a rate.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.v1.status_pb2 import Status, Worker
from service.top.guard import fast
from service.top.words import finite

SAMPLES = 600
RATE_WINDOW_S = 3.0
"""A rate is taken over at least this: counters of workers arrive in steps, with their heartbeats."""

WorkerKey = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment. None: not known then."""

    limit: float | None = None
    in_flight: float | None = None
    queued: float | None = None
    tokens_per_s: float | None = None
    refused_per_s: float | None = None
    ttft_load: float | None = None
    """Time to first token by its target, as the limit sees it."""
    objectives: Mapping[str, float] = field(default_factory=dict)
    """The value of each objective over its fast window, by name."""


@dataclass(frozen=True, slots=True)
class WorkerRates:
    """Of one worker, over the rate window. None: not known yet."""

    tokens_per_s: float | None = None
    step_ms: float | None = None
    busy: float | None = None
    """Share of the time that it spent in steps, 0..1."""


@dataclass(frozen=True, slots=True)
class _Work:
    pid: int
    tokens: int
    steps: int
    step_s: float


@dataclass(frozen=True, slots=True)
class _Counters:
    uptime_s: float
    workers: Mapping[WorkerKey, _Work]
    refused: Mapping[str, int]


class History:
    """The latest samples, and the rates of now."""

    def __init__(self, samples: int = SAMPLES) -> None:
        self._samples: deque[Sample] = deque(maxlen=samples)
        self._counters: deque[_Counters] = deque()
        self.workers: dict[WorkerKey, WorkerRates] = {}
        """By model and index; those of the latest status only."""
        self.refused_per_s: dict[str, float] = {}
        """By reason, most first; those above 0 only."""
        self.latest = Sample()
        """What was heard last; stays while nothing is heard."""
        self.interval_s: float | None = None
        """Mean time between the samples of the rate window."""

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Oldest first."""
        return tuple(self._samples)

    def add(self, now: Status) -> None:
        """Take a status in. One of a server that started again begins the counting anew."""
        counters = _counters(now)
        if self._counters and counters.uptime_s <= self._counters[-1].uptime_s:
            self._counters.clear()
        self._counters.append(counters)
        while len(self._counters) > 2 and counters.uptime_s - self._counters[1].uptime_s >= RATE_WINDOW_S:
            self._counters.popleft()
        passed_s = counters.uptime_s - self._counters[0].uptime_s
        self.interval_s = passed_s / (len(self._counters) - 1) if passed_s else None
        self.workers = {key: self._worker_rates(key, passed_s) for key in counters.workers}
        self.refused_per_s = self._refusals(passed_s)
        self.latest = self._sample(now, passed_s)
        self._samples.append(self.latest)

    def gap(self) -> None:
        """Nothing was heard for a while: charts show a gap, and rates begin anew."""
        if self._samples and self._samples[-1] != Sample():
            self._samples.append(Sample())
        self._counters.clear()

    def _sample(self, now: Status, passed_s: float) -> Sample:
        limits = now.admission.limits
        governed = now.HasField("admission")
        rates = [rates.tokens_per_s for rates in self.workers.values() if rates.tokens_per_s is not None]
        values = {one.name: fast(one) for one in now.service_levels.objectives}
        return Sample(
            limit=limits.limit if governed else now.streams.max_active,
            in_flight=limits.in_flight if governed else now.streams.active,
            queued=limits.queued if governed else now.streams.queued,
            tokens_per_s=sum(rates) if rates else None,
            refused_per_s=sum(self.refused_per_s.values()) if passed_s else None,
            ttft_load=finite(limits.ttft_load) if limits.HasField("ttft_load") else None,
            objectives={name: value for name, value in values.items() if value is not None},
        )

    def _worker_rates(self, key: WorkerKey, passed_s: float) -> WorkerRates:
        first, last = self._counters[0].workers.get(key), self._counters[-1].workers[key]
        if first is None or not passed_s:
            return WorkerRates()
        if first.pid != last.pid or last.steps < first.steps:  # another process, which counts from 0
            first = _Work(last.pid, 0, 0, 0.0)
        steps = last.steps - first.steps
        step_s = max(0.0, last.step_s - first.step_s)
        return WorkerRates(
            tokens_per_s=max(0, last.tokens - first.tokens) / passed_s,
            step_ms=step_s / steps * 1e3 if steps else None,
            busy=min(1.0, step_s / passed_s),
        )

    def _refusals(self, passed_s: float) -> dict[str, float]:
        first, last = self._counters[0].refused, self._counters[-1].refused
        grown = {reason: total - first.get(reason, 0) for reason, total in last.items()}
        most_first = sorted(grown.items(), key=lambda item: (-item[1], item[0]))
        return {reason: more / passed_s for reason, more in most_first if more > 0} if passed_s else {}


def worker_key(worker: Worker) -> WorkerKey:
    return worker.model, worker.index


def _counters(now: Status) -> _Counters:
    return _Counters(
        uptime_s=finite(now.uptime_s) or 0.0,
        workers={
            worker_key(one): _Work(one.pid, one.generated_tokens, one.decode_steps, finite(one.step_s) or 0.0)
            for one in now.workers
        },
        refused=dict(now.admission.refused),
    )
