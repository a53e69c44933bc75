"""Long jobs run beside, in the order of their stream, and hold up no other stream."""

import threading
from collections.abc import Iterator

import pytest

from engine.mlx_worker.long_jobs import LongJobs

_TIMEOUT_S = 20.0


class Gate:
    """A job that runs until the test lets it end."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self._may_end = threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self._may_end.wait(_TIMEOUT_S)

    def open(self) -> None:
        self._may_end.set()


@pytest.fixture
def jobs() -> Iterator[LongJobs]:
    jobs = LongJobs()
    yield jobs
    jobs.close()


def drain(jobs: LongJobs, stream: int) -> None:
    """Wait until all jobs of a stream, and those before them, have run."""
    done = threading.Event()
    jobs.run(stream, done.set, long=True)
    assert done.wait(_TIMEOUT_S)


def test_a_short_job_runs_at_once(jobs: LongJobs) -> None:
    ran: list[str] = []
    jobs.run(1, lambda: ran.append(threading.current_thread().name))
    assert ran == [threading.current_thread().name]


def test_short_jobs_keep_behind_the_long_ones_of_their_stream_only(jobs: LongJobs) -> None:
    gate, ran = Gate(), list[str]()
    jobs.run(1, gate, long=True)
    assert gate.begun.wait(_TIMEOUT_S)
    jobs.run(1, lambda: ran.append("behind"))
    jobs.run(2, lambda: ran.append("other"))
    jobs.run(1, lambda: ran.append("last of all"))
    assert ran == ["other"]
    gate.open()
    drain(jobs, 1)
    assert ran == ["other", "behind", "last of all"]


def test_once_its_long_jobs_are_done_a_stream_runs_at_once_again(jobs: LongJobs) -> None:
    ran: list[str] = []
    for stream in (1, 2):
        jobs.run(stream, lambda: None, long=True)
    drain(jobs, 2)
    jobs.run(1, lambda: ran.append(threading.current_thread().name))
    assert ran == [threading.current_thread().name]


def test_the_last_job_leaves_out_those_that_have_not_begun(jobs: LongJobs) -> None:
    gate, ran = Gate(), list[str]()
    jobs.run(1, gate, long=True)
    assert gate.begun.wait(_TIMEOUT_S)
    jobs.run(1, lambda: ran.append("not wanted"), long=True)
    jobs.run(2, lambda: ran.append("other"), long=True)
    jobs.run(1, lambda: ran.append("last"), last=True)
    gate.open()
    drain(jobs, 2)
    assert ran == ["other", "last"]


def test_a_number_used_again_after_its_last_job_is_not_left_out(jobs: LongJobs) -> None:
    gate, ran = Gate(), list[str]()
    jobs.run(1, gate, long=True)
    jobs.run(1, lambda: ran.append("last"), last=True)
    gate.open()
    drain(jobs, 2)
    jobs.run(1, lambda: ran.append("new"), long=True)
    drain(jobs, 1)
    assert ran == ["last", "new"]
