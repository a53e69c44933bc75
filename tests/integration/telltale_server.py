"""`python -m tests.integration.telltale_server serve ...`: a scripted server whose output is easily found."""

import itertools
import os
import sys
from collections.abc import Iterator

from config import load
from engine.requests import GenerationRequest
from engine.scripted import ScriptedEngine
from service.assembly import run

WORD = "Xylophone"


def telltale(request: GenerationRequest) -> Iterator[tuple[int, str]]:
    return ((number, f" {WORD}") for number in itertools.count(1))


if __name__ == "__main__":
    engine = ScriptedEngine(telltale, step_s=0.001, context_tokens=1000)
    sys.exit(run(load("test", None, os.environ, {"server": {"port": 0}}), engine))
