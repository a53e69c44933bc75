"""The server with a scripted engine in the model's place: `python -m tests.integration.scripted_server`.

Starts in a fraction of the time and makes its steps on an even beat, for tests of the server's own life.
"""

import os
import sys

from config import load
from engine.scripted import ScriptedEngine, counting_script
from service.assembly import run

STEP_S = 0.01


def main() -> int:
    engine = ScriptedEngine(
        counting_script,
        step_s=STEP_S,
        max_batch_rows=32,
        context_tokens=100_000,
        default_max_tokens=256,
    )
    port = int(os.environ.get("PENSTOCK_SERVER__PORT", "0"))
    return run(load("test", None, os.environ, {"server": {"port": port}}), engine)


if __name__ == "__main__":
    sys.exit(main())
