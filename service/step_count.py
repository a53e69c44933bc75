"""Decode steps as a stream sees them."""

from collections.abc import Sequence

from engine.contract import WorkerSnapshot


class StepCount:
    """Counts for several workers as if there were one: steps that two of them make side by side are one step.

    A step of a worker counts as much as it has rows, since so many streams saw it.
    """

    def __init__(self) -> None:
        self._steps = 0.0
        self._seen: dict[int, int] = {}

    def take(self, workers: Sequence[WorkerSnapshot]) -> int:
        """Steps since the first call. What a worker did before it was first seen does not count."""
        seen = {_key(worker): worker.counters.decode_steps for worker in workers}
        made = {
            key: max(0, steps - self._seen.get(key, steps))  # A worker that was restarted counts anew.
            for key, steps in seen.items()
        }
        rows = {_key(worker): worker.counters.running_rows for worker in workers}
        in_all = sum(rows.values())
        if in_all:
            self._steps += sum(made[key] * rows[key] for key in made) / in_all
        else:
            self._steps += max(made.values(), default=0)
        self._seen = seen
        return int(self._steps)


def _key(worker: WorkerSnapshot) -> int:
    """Process ids are above 0; a worker without one is known by its number alone."""
    return worker.pid or -worker.index
