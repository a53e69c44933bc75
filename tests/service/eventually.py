"""Waiting for a state: look, and look again, until a deadline."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Seen = TypeVar("Seen")
_BETWEEN_LOOKS_S = 0.015


async def eventually(
    look: Callable[[], Awaitable[Seen]], holds: Callable[[Seen], bool], *, within_s: float = 30.0
) -> Seen:
    """What `look` saw when it first held. AssertionError with the last thing seen after within_s."""
    deadline_s = time.monotonic() + within_s
    while not holds(seen := await look()):
        assert time.monotonic() < deadline_s, f"not so within {within_s:g} s; seen last: {seen}"
        await asyncio.sleep(_BETWEEN_LOOKS_S)
    return seen
