"""The server with worker doubles in the model's place: `python -m tests.integration.paced_server DIRECTORY`.

Real processes that can be killed, stopped, and slowed down one by one: tests.engine.worker_double.pace writes
into the directory, which is the last argument. Their tokens are made up. Options are those of a server.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from config import load
from engine.pool_engine import PoolEngine
from service.assembly import run
from service.assembly_options import supervisor_options, worker_options, worker_pool_options

PROGRAM = (sys.executable, "-m", "tests.engine.worker_double")


def paced(directory: Path) -> dict[str, Any]:
    """How to start one, for tests.integration.processes.running_server."""
    return {"module": "tests.integration.paced_server", "args": (str(directory),)}


def main() -> int:
    loaded = load("test", None, os.environ, {"server": {"port": 0}})
    settings = loaded.settings
    worker = replace(worker_options(settings, "embedded"), model=f"paced:{sys.argv[-1]}")
    engine = PoolEngine(worker, supervisor_options(settings), worker_pool_options(settings), program=PROGRAM)
    return run(loaded, engine)


if __name__ == "__main__":
    sys.exit(main())
