"""The start of a worker process, broken off."""

import asyncio
import gc
import os
from itertools import count
from pathlib import Path

import pytest

from engine.worker_process import WorkerProcess
from tests.engine.subjects import WORKER


async def test_a_start_that_is_cancelled_leaves_no_process_and_no_socket(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.touch()
    program = ("sh", "-c", f"echo $$ >> {pids}; exec sleep 20")
    for turns in count():
        spawning = asyncio.create_task(WorkerProcess.spawn(WORKER, program))
        for _ in range(turns):
            await asyncio.sleep(0)
        spawning.cancel()
        try:
            worker = await spawning
        except asyncio.CancelledError:
            continue
        # So many turns of the loop that the start was over before it was cancelled.
        await worker.end(0.0)
        break
    assert turns > 3, "never cancelled on the way"
    gc.collect()  # A process or a socket that was only forgotten warns now, and a warning is an error.
    for pid in pids.read_text(encoding="ascii").split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
