"""Which stream ended its worker, as far as that can be told.

A stream gets strikes for each loss of a worker, until its next token. Of several that were lost together
any may be the cause, so none is refused: each goes on trial, alone among unproven ones.
"""

from collections.abc import Iterable
from dataclasses import dataclass

CRASH_STRIKES = 2
"""For a worker that ended by itself or hung."""
KILL_STRIKES = 1
"""For one that was killed from outside. That is an operator's doing, or the system's for want of memory."""
RESTART_STRIKES = 0
"""For one that we ended for reasons of our own, such as its slowness: that says nothing of any request."""
# Two crashes in a row.
_MOST_STRIKES = 4


@dataclass(frozen=True, slots=True)
class Suspect:
    """A stream of a worker that was lost. strikes: this loss included. proven: it had a new token there."""

    stream: int
    strikes: int
    proven: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """Streams to refuse, at most one, and streams that go on trial."""

    refused: frozenset[int]
    on_trial: frozenset[int]


def judge(suspects: Iterable[Suspect]) -> Verdict:
    """Decide on all streams that were lost with one worker."""
    unproven = [suspect for suspect in suspects if not suspect.proven]
    accused = frozenset(suspect.stream for suspect in unproven if suspect.strikes >= _MOST_STRIKES)
    if len(unproven) == 1:
        return Verdict(refused=accused, on_trial=frozenset())
    return Verdict(refused=frozenset(), on_trial=accused)
