"""Waiting for something that another process does."""

import asyncio
import time
from collections.abc import Callable

_BETWEEN_LOOKS_S = 0.01


async def eventually(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Return once the condition holds; fail when it does not within timeout_s."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s"
        await asyncio.sleep(_BETWEEN_LOOKS_S)
