"""How long the steps of a worker usually take, to tell a slow one from one that has much to do."""

from collections import deque
from statistics import median

from flowcontrol.remediation.signals import WorkerSignal

PROBATION = 3
"""Intervals until one counts as good: a fault may take so long to show as a breach."""
MEMORY = 0.99
"""Kept of the usual time with each interval: a half is forgotten within 70."""
SLOW_FACTOR = 3.0
"""Beyond what batches of different size explain among workers that share the load."""


class StepTimes:
    """Keeps the longest mean step time of each worker while all was well, of those workers there are."""

    def __init__(self) -> None:
        self._usual_ms: dict[str, float] = {}
        self._recent_ms: dict[str, deque[float]] = {}
        # At the last look: restarts by worker, and the models of which a worker was not ready.
        self._restarts: dict[str, int] = {}
        self._away: frozenset[str] = frozenset()

    def usual_ms(self, worker: str) -> float | None:
        """Of the worker of that subject; None before it was seen for long enough."""
        return self._usual_ms.get(worker)

    def observe(self, workers: tuple[WorkerSignal, ...], *, well: bool) -> None:
        """An interval has ended. well: whether it is an example of good times."""
        self._restarts = {worker.subject: worker.restarts for worker in workers}
        self._away = frozenset(worker.model for worker in workers if not worker.ready)
        there = self._restarts.keys()
        self._usual_ms = {key: usual_ms for key, usual_ms in self._usual_ms.items() if key in there}
        self._recent_ms = {key: recent for key, recent in self._recent_ms.items() if key in there}
        if not well:
            self._recent_ms.clear()
            return
        for worker in workers:
            if worker.ready and worker.step_ms is not None:
                self._add(worker.subject, worker.step_ms)

    def _add(self, worker: str, step_ms: float) -> None:
        recent = self._recent_ms.setdefault(worker, deque())
        recent.append(step_ms)
        if len(recent) > PROBATION:
            self._usual_ms[worker] = max(recent.popleft(), self._usual_ms.get(worker, 0.0) * MEMORY)

    def slow(self, worker: WorkerSignal, workers: tuple[WorkerSignal, ...]) -> str | None:
        """In which way it is slow; None when it is not, or when there is nothing to compare it with.

        It must be slower than its siblings, the workers of the same model, and than itself in good times, as
        far as both are known. Alone, the first may mean a larger batch, the second more work for all. While
        one of them is away, or was in this interval, the others have its work, and a model that is loaded
        takes their time: nothing is said.
        """
        if not self._whole(worker.model, workers):
            return None
        siblings_ms = [
            each.step_ms
            for each in workers
            if each.model == worker.model and each.index != worker.index and each.step_ms
        ]
        known_ms = [median(siblings_ms)] if siblings_ms else []
        if (usual_ms := self.usual_ms(worker.subject)) is not None:
            known_ms.append(usual_ms)
        if not (known_ms and worker.step_ms):
            return None
        if worker.step_ms < SLOW_FACTOR * max(known_ms):
            return None
        return f"steps of {worker.step_ms:.0f} ms instead of {max(known_ms):.0f} ms"

    def _whole(self, model: str, workers: tuple[WorkerSignal, ...]) -> bool:
        """Whether all workers of a model were there for the whole interval."""
        return model not in self._away and all(
            worker.ready and worker.restarts == self._restarts.get(worker.subject, worker.restarts)
            for worker in workers
            if worker.model == model
        )
