"""Every stream of the pool: with which worker it is, or in which order it waits for one."""

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

from engine.affinity import Affinity
from engine.routing import Load, RoutingRule
from engine.stream_record import StreamRecord
from engine.suspects import Suspect, judge


@dataclass(frozen=True, slots=True)
class Loss:
    """The streams of a worker that was lost, in their order: those that go on, and one that is refused."""

    going_on: list[StreamRecord]
    refused: list[StreamRecord]


class StreamBoard:
    """Assigns streams to workers. A stream without a worker waits, unless it is paused: then it rests."""

    def __init__(self, *, workers: int, rule: RoutingRule, affinity: Affinity) -> None:
        self._rule = rule
        self._affinity = affinity
        self._streams: dict[int, StreamRecord] = {}
        self._assigned: list[dict[int, StreamRecord]] = [{} for _ in range(workers)]
        self._waiting: list[StreamRecord] = []

    @property
    def waiting(self) -> Sequence[StreamRecord]:
        """Those that wait for a worker, the next one first."""
        return self._waiting

    def assigned(self, worker: int) -> int:
        """Streams that a worker has."""
        return len(self._assigned[worker])

    def unpaused(self, worker: int) -> int:
        """Of those, the ones that take a place in its batch."""
        return sum(not record.paused for record in self._assigned[worker].values())

    def find(self, stream: int) -> StreamRecord | None:
        return self._streams.get(stream)

    def find_on(self, stream: int, worker: int) -> StreamRecord | None:
        """The stream, if it is with that worker."""
        return self._assigned[worker].get(stream)

    def add(self, record: StreamRecord) -> None:
        """A new stream, which waits."""
        self._streams[record.number] = record
        self._wait(record)

    def remove(self, stream: int) -> StreamRecord | None:
        """Forget a stream, wherever it is."""
        record = self._streams.pop(stream, None)
        if record is None:
            return None
        if record.worker is not None:
            del self._assigned[record.worker][stream]
        elif not record.paused:
            self._waiting.remove(record)
        return record

    def pause(self, record: StreamRecord) -> None:
        if not record.paused:
            record.paused = True
            if record.worker is None:
                self._waiting.remove(record)

    def resume(self, record: StreamRecord) -> None:
        if record.paused:
            record.paused = False
            if record.worker is None:
                self._wait(record)

    def dispatch(self, ready: Sequence[int]) -> list[StreamRecord]:
        """Assign those that wait, in order, to the workers that are ready. Returns the ones assigned."""
        given: list[StreamRecord] = []
        free = list(ready)
        for record in self._waiting:
            if record.on_trial and not record.whole:
                continue  # Its worker would take no other until the last piece is there.
            loads = [self._load(worker, record.keys) for worker in free]
            worker = self._rule.choose(loads, on_trial=record.on_trial)
            if worker is not None:
                self._assign(record, worker)
                given.append(record)
            elif not record.on_trial:
                break  # Nobody behind it would find room either.
            elif loads and len(free) == len(ready) and not any(load.on_trial for load in loads):
                # One worker gets no others until it can take this one; else it might never.
                free.remove(min(loads, key=lambda load: (load.unproven, load.streams, load.index)).index)
        if given:
            self._waiting = [record for record in self._waiting if record.worker is None]
        return given

    def lose(self, worker: int, *, strikes: int) -> Loss:
        """The worker is gone: its streams wait again where they were, or are refused and forgotten.

        strikes: what each of them gets for it, see engine.suspects. With none nobody is judged, not even one
        that had enough of them before.
        """
        lost = sorted(self._assigned[worker].values(), key=_number)
        self._assigned[worker].clear()
        self._affinity.forget(worker)
        for record in lost:
            record.strikes += strikes
        suspects = [Suspect(each.number, each.strikes, proven=not each.unproven) for each in lost]
        verdict = judge(suspects if strikes else ())
        loss = Loss([], [])
        for record in lost:
            record.worker, record.unproven, record.lost, record.position = None, True, True, 0
            if record.number in verdict.refused:
                del self._streams[record.number]
                loss.refused.append(record)
                continue
            record.on_trial = record.on_trial or record.number in verdict.on_trial
            loss.going_on.append(record)
            if not record.paused:
                self._wait(record)
        return loss

    def clear(self) -> list[StreamRecord]:
        """Forget every stream. Returns them in their order."""
        records = sorted(self._streams.values(), key=_number)
        self._streams.clear()
        self._waiting.clear()
        for assigned in self._assigned:
            assigned.clear()
        return records

    def _wait(self, record: StreamRecord) -> None:
        insort(self._waiting, record, key=_number)

    def _assign(self, record: StreamRecord, worker: int) -> None:
        record.worker = worker
        self._assigned[worker][record.number] = record
        self._affinity.note(worker, record.keys)

    def _load(self, worker: int, keys: tuple[int, ...]) -> Load:
        present = [record for record in self._assigned[worker].values() if not record.paused]
        # One whose prompt is not whole yet may stay unproven for long: nobody on trial waits for it.
        unproven = [record for record in present if record.unproven and record.whole]
        return Load(
            index=worker,
            streams=len(present),
            unproven=len(unproven),
            on_trial=any(record.on_trial for record in unproven),
            match=self._affinity.match(worker, keys),
        )


def _number(record: StreamRecord) -> int:
    return record.number
