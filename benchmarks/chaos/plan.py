"""What happens when in a chaos run. Pure: equal seeds make equal plans."""

import random
from collections.abc import Mapping

import msgspec

KILL = "kill a worker"
STOP = "stop a worker"
PAUSE = "stop a worker for a moment"
STALL = "a client stops reading for a while"
CANCEL = "a client cancels"
DISCONNECT = "a client's connection breaks"
LEAVE = "a client leaves at once"
BURST = "a burst of clients"
LOAD = "load or unload a model"

WEIGHTS = {KILL: 6, STOP: 2, PAUSE: 2, STALL: 4, CANCEL: 4, DISCONNECT: 4, LEAVE: 3, BURST: 3, LOAD: 2}
"""How often each happens, relative to the others."""
_QUIET_SHARE = 0.05


class Event(msgspec.Struct, frozen=True):
    """at_s: seconds after the beginning. dice: a number in [0, 1) for what is drawn when it happens."""

    at_s: float
    kind: str
    dice: float


def make_plan(count: int, duration_s: float, seed: int, weights: Mapping[str, int] = WEIGHTS) -> list[Event]:
    """Events at random moments, earliest first; every kind at least once where there is room.

    The first twentieth of the time is left quiet, so that there is something to disturb.
    """
    dice = random.Random(seed)
    kinds = [
        *weights,
        *dice.choices(list(weights), weights=list(weights.values()), k=max(0, count - len(weights))),
    ]
    dice.shuffle(kinds)
    times_s = sorted(dice.uniform(_QUIET_SHARE * duration_s, duration_s) for _ in range(count))
    return [Event(at_s, kind, dice.random()) for at_s, kind in zip(times_s, kinds, strict=False)]
