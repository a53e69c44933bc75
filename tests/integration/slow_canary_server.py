"""A scripted server on which streams with the prefix cache get their first token late.

`python -m tests.integration.slow_canary_server`: what a bad canary is like.
"""

import asyncio
import os
import sys

from config import load
from engine.contract import EventSink
from engine.requests import GenerationRequest
from engine.scripted import ScriptedEngine, counting_script
from service.assembly import run

STEP_S = 0.01
DELAY_S = 0.3
SLOW_CANARY = {"module": "tests.integration.slow_canary_server", "args": ()}
"""How to start one, for tests.integration.processes.running_server."""


class SlowCanaryEngine(ScriptedEngine):
    """Lets a stream with the prefix cache run DELAY_S after it was submitted."""

    def submit(self, request: GenerationRequest, sink: EventSink, *, prepared: int = 0) -> int:
        stream = super().submit(request, sink, prepared=prepared)
        if request.prefix_cache:
            self.pause(stream)
            asyncio.get_running_loop().call_later(DELAY_S, self.resume, stream)
        return stream


def main() -> int:
    engine = SlowCanaryEngine(
        counting_script, step_s=STEP_S, max_batch_rows=32, context_tokens=100_000, default_max_tokens=256
    )
    return run(load("test", None, os.environ, {"server": {"port": 0}}), engine)


if __name__ == "__main__":
    sys.exit(main())
