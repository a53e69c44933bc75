"""Steps of several workers, as one stream sees them."""

from dataclasses import replace

from engine.contract import NO_COUNTERS, WorkerSnapshot, WorkerState
from service.step_count import StepCount


def worker(pid: int, steps: int, rows: int, *, index: int = 0) -> WorkerSnapshot:
    counters = replace(NO_COUNTERS, decode_steps=steps, running_rows=rows)
    return WorkerSnapshot(index, WorkerState.READY, pid, 0, rows, counters)


def test_the_steps_of_one_worker_are_counted_as_they_are() -> None:
    count = StepCount()
    assert [count.take([worker(1, steps, 3)]) for steps in (7, 8, 8, 20)] == [0, 1, 1, 13]
    assert count.take([worker(1, 25, 0)]) == 18, "the last of its rows may just have ended"


def test_steps_made_side_by_side_count_once() -> None:
    count = StepCount()
    count.take([worker(1, 0, 2), worker(2, 100, 2)])
    assert count.take([worker(1, 10, 2), worker(2, 110, 2)]) == 10


def test_a_worker_counts_as_much_as_it_has_rows() -> None:
    count = StepCount()
    count.take([worker(1, 0, 3), worker(2, 0, 1)])
    assert count.take([worker(1, 10, 3), worker(2, 50, 1)]) == 20
    assert count.take([worker(1, 20, 4), worker(2, 50, 0)]) == 30


def test_a_restart_or_a_new_model_is_no_step() -> None:
    count = StepCount()
    count.take([worker(1, 50, 1)])
    assert count.take([worker(9, 500, 1)]) == 0
    assert count.take([worker(9, 3, 1)]) == 0
    assert count.take([worker(9, 5, 1), worker(4, 900, 1)]) == 1
    assert count.take([worker(4, 904, 1)]) == 5
    assert count.take([]) == 5


def test_workers_without_a_process_are_told_apart() -> None:
    count = StepCount()
    count.take([worker(0, 0, 1), worker(0, 0, 1, index=1)])
    assert count.take([worker(0, 4, 1), worker(0, 2, 1, index=1)]) == 3
