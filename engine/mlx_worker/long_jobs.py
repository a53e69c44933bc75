"""Keeps long work about one stream from holding up the commands about others."""

import os
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

Job = Callable[[], None]


class LongJobs:
    """Runs the jobs of a stream in the order in which they came, long ones in a thread beside.

    One thread: two long texts at a time would take the processor from the model. A job that raises
    there is a defect and ends the process, as it does in the other threads.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="long jobs")
        self._lock = threading.Lock()
        self._pending: Counter[int] = Counter()
        self._ended: set[int] = set()

    def run(self, stream: int, job: Job, *, long: bool = False, last: bool = False) -> None:
        """Run a job now, or behind the long ones that its stream still has.

        last: jobs of the stream that have not begun are left out, since nobody wants them any more.
        """
        with self._lock:
            behind = long or stream in self._pending
            if behind:
                self._pending[stream] += 1
            if behind and last:
                self._ended.add(stream)
        if behind:
            self._thread.submit(self._run_pending, stream, job, last)
        else:
            job()

    def close(self) -> None:
        """Leave out the jobs that have not begun."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _run_pending(self, stream: int, job: Job, last: bool) -> None:
        try:
            if last or stream not in self._ended:
                job()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        with self._lock:
            self._pending[stream] -= 1
            if not self._pending[stream]:
                del self._pending[stream]
                self._ended.discard(stream)
