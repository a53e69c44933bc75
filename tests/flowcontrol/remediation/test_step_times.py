"""Which worker is slow, against its siblings and against itself."""

from dataclasses import replace

import pytest

from flowcontrol.remediation.signals import WorkerSignal
from flowcontrol.remediation.step_times import MEMORY, PROBATION, StepTimes
from tests.flowcontrol.remediation.situations import worker


def slow(workers: tuple[WorkerSignal, ...], times: StepTimes | None = None) -> list[str]:
    """The subjects of those that are."""
    times = times or StepTimes()
    return [each.subject for each in workers if times.slow(each, workers)]


def seen(*step_ms: float | None) -> StepTimes:
    """One worker, these step times, all well, and long enough after."""
    times = StepTimes()
    for each in (*step_ms, *[None] * PROBATION):
        times.observe((worker(step_ms=each),), well=True)
    return times


@pytest.mark.parametrize(
    ("step_ms", "expected"),
    [
        ((20.0,), []),
        ((20.0, 59.0), []),
        ((20.0, 61.0), ["m/1"]),
        ((20.0, 70.0, 25.0), ["m/1"]),
        # All of them are: it is not the worker.
        ((60.0, 61.0, 59.0), []),
        ((20.0, None), []),
        ((None, 200.0), []),
    ],
)
def test_against_siblings(step_ms: tuple[float | None, ...], expected: list[str]) -> None:
    assert slow(tuple(worker(i, step_ms=each) for i, each in enumerate(step_ms))) == expected


def test_siblings_are_ready_workers_of_the_same_model() -> None:
    assert slow((replace(worker(0), model="other"), worker(1, step_ms=90))) == []
    assert slow((replace(worker(0), ready=False), worker(1, step_ms=90))) == []
    assert slow((worker(0), replace(worker(1, step_ms=90), ready=False))) == []


def test_while_a_sibling_is_away_nobody_is_slow() -> None:
    times = seen(20.0, 20.0, 20.0, 20.0)
    slow_one, sibling = worker(0, step_ms=90.0), worker(1)
    away = replace(sibling, ready=False, step_ms=None)
    assert slow((slow_one, sibling), times) == ["m/0"]
    assert slow((slow_one, away), times) == []
    times.observe((slow_one, away), well=False)
    # It was away in a part of this interval.
    assert slow((slow_one, sibling), times) == []
    times.observe((slow_one, sibling), well=False)
    assert slow((slow_one, sibling), times) == ["m/0"]
    # It was restarted between two looks.
    back = replace(sibling, restarts=1)
    assert slow((slow_one, back), times) == []
    times.observe((slow_one, back), well=False)
    assert slow((slow_one, back), times) == ["m/0"]


def test_against_itself_in_good_times() -> None:
    times = seen(20.0, 30.0, 20.0, 20.0, 20.0, 20.0)
    assert times.usual_ms("m/0") == pytest.approx(30 * MEMORY)
    assert slow((worker(step_ms=85.0),), times) == []
    assert slow((worker(step_ms=95.0),), times) == ["m/0"]


def test_both_comparisons_must_say_so() -> None:
    times = seen(20.0, 20.0, 20.0, 20.0)
    # All have more to do: it is slower than it was, not than the other.
    assert slow((worker(0, step_ms=90.0), worker(1, step_ms=80.0)), times) == []
    # Its batch is larger than the other's: it is as it was.
    assert slow((worker(0, step_ms=40.0), worker(1, step_ms=10.0)), times) == []


def test_what_came_just_before_a_breach_is_not_usual() -> None:
    times = StepTimes()
    for step_ms in (20.0, 20.0, 20.0, 20.0, 200.0, 200.0):
        times.observe((worker(step_ms=step_ms),), well=True)
    times.observe((worker(step_ms=200.0),), well=False)
    for _ in range(PROBATION):
        times.observe((worker(step_ms=20.0),), well=True)
    assert times.usual_ms("m/0") == 20.0


def test_little_is_known_of_a_worker_at_first() -> None:
    times = StepTimes()
    for _ in range(PROBATION):
        times.observe((worker(),), well=True)
    assert times.usual_ms("m/0") is None
    times.observe((worker(),), well=True)
    assert times.usual_ms("m/0") == 20.0


def test_what_is_gone_is_forgotten() -> None:
    times = seen(20.0, 20.0, 20.0, 20.0)
    times.observe((), well=True)
    assert times.usual_ms("m/0") is None


def test_only_ready_workers_are_learned_from() -> None:
    times = StepTimes()
    for _ in range(9):
        times.observe((replace(worker(), ready=False),), well=True)
    assert times.usual_ms("m/0") is None
