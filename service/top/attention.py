"""What an operator is to look at first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from penstock.v1.feature_pb2 import FeatureState
from penstock.v1.status_pb2 import Status, StreamState, StreamStatus, Worker, WorkerState
from service.top.guard import breached, burn, fast, feature, in_unit, title
from service.top.history import History
from service.top.words import clean, enum_name, number, seconds

_UNWELL = {
    WorkerState.WORKER_STATE_SUSPECT,
    WorkerState.WORKER_STATE_DEAD,
    WorkerState.WORKER_STATE_CRASH_LOOP,
}
_SHOWN_WORKERS = 3
LOW_CREDIT = 0.25


class Severity(IntEnum):
    GOOD = 0
    WARNING = 1
    CRITICAL = 2


MARKS = {Severity.GOOD: "✓", Severity.WARNING: "▲", Severity.CRITICAL: "✗"}
STYLES = {Severity.GOOD: "green", Severity.WARNING: "yellow", Severity.CRITICAL: "bold red"}


@dataclass(frozen=True, slots=True)
class Concern:
    severity: Severity
    text: str


def health(now: Status) -> Concern:
    """The server's state in one word."""
    ready = sum(one.state == WorkerState.WORKER_STATE_READY for one in now.workers)
    starting = any(one.state == WorkerState.WORKER_STATE_STARTING for one in now.workers)
    if now.draining:
        return Concern(Severity.WARNING, "draining")
    if not ready:
        return Concern(Severity.WARNING, "loading") if starting else Concern(Severity.CRITICAL, "down")
    if any(breached(one) for one in now.service_levels.objectives):
        return Concern(Severity.CRITICAL, "breached")
    if any(one.state in _UNWELL for one in now.workers):
        return Concern(Severity.WARNING, "degraded")
    return Concern(Severity.GOOD, "healthy")


def concerns(now: Status, history: History) -> list[Concern]:
    """Everything that needs attention, the most urgent first."""
    found = [*_workers(now), *_guard(now), *_streams(now, history), *_features(now)]
    return sorted(found, key=lambda one: -one.severity)


def severity_of(worker: Worker) -> Severity:
    if worker.state in (WorkerState.WORKER_STATE_DEAD, WorkerState.WORKER_STATE_CRASH_LOOP):
        return Severity.CRITICAL
    return Severity.GOOD if worker.state == WorkerState.WORKER_STATE_READY else Severity.WARNING


def worker_state(worker: Worker) -> str:
    return enum_name(WorkerState, worker.state, "WORKER_STATE_")


def by_need(streams: Sequence[StreamStatus]) -> list[StreamStatus]:
    """Stalled for longest first, then slow ones, then those low in credit; the oldest of equals first."""

    def key(stream: StreamStatus) -> tuple[bool, float, bool, bool]:
        stalled = stream.state == StreamState.STREAM_STATE_STALLED
        return (not stalled, -stream.stalled_ms, not stream.slow, not low_credit(stream))

    return sorted(streams, key=key)


def low_credit(stream: StreamStatus) -> bool:
    """Whether little of the window is left: the next step may be a stall."""
    return stream.credits_enforced and stream.credit <= LOW_CREDIT * stream.window


def _workers(now: Status) -> Iterator[Concern]:
    if not any(one.state == WorkerState.WORKER_STATE_READY for one in now.workers):
        yield Concern(Severity.CRITICAL, "no worker is ready")
    unwell = [one for one in now.workers if one.state in _UNWELL]
    for one in unwell[:_SHOWN_WORKERS]:
        yield Concern(severity_of(one), f"worker {one.index} {worker_state(one)}")
    if len(unwell) > _SHOWN_WORKERS:
        yield Concern(Severity.WARNING, f"{len(unwell) - _SHOWN_WORKERS} more workers unwell")
    if now.waiting_for_worker:
        yield Concern(Severity.WARNING, f"{now.waiting_for_worker} streams wait for a worker")


def _guard(now: Status) -> Iterator[Concern]:
    for one in now.service_levels.objectives:
        if breached(one):
            value = f"{in_unit(one, fast(one))} of {in_unit(one, one.target)}"
            text = f"{title(one)} {value}, breached {seconds(one.breached_ms / 1e3)}, burn {burn(one)}"
            yield Concern(Severity.CRITICAL, text)
    if now.remediation.suspended:
        yield Concern(Severity.CRITICAL, f"remediation suspended: {clean(now.remediation.suspended)}")


def _streams(now: Status, history: History) -> Iterator[Concern]:
    if now.streams.stalled:
        longest_ms = max((one.stalled_ms for one in now.active_streams), default=0.0)
        since = f", longest {seconds(longest_ms / 1e3)}" if longest_ms else ""
        yield Concern(Severity.WARNING, f"{now.streams.stalled} stalled{since}")
    if history.refused_per_s:
        reason, _ = next(iter(history.refused_per_s.items()))
        rate = number(sum(history.refused_per_s.values()))
        yield Concern(Severity.WARNING, f"refusing {rate}/s, most for {clean(reason)}")


def _features(now: Status) -> Iterator[Concern]:
    for one in now.features:
        if one.state == FeatureState.FEATURE_STATE_ROLLED_BACK:
            yield Concern(Severity.WARNING, feature(one))
