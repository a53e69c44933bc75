"""How long one reader takes to ack, and whether it is a slow consumer."""

from collections import deque

LATEST_ACKS = 8
"""Acks in the mean: one late ack among prompt ones weighs little, and a change shows soon."""


class AckTimes:
    """Mean time from sending a chunk to the ack that names it, over the latest acks.

    Only the chunk that the ack names counts, not every chunk that it settles: a reader that acks each
    half window answers at once, though the first chunk of that half waited for its ack on purpose.

    Holds one number per chunk that is not acked, so the window bounds it. Where no window is enforced,
    the owner calls `clear`.
    """

    __slots__ = ("_acks_come", "_first", "_latest_s", "_sent_s", "_slow", "_threshold_s")

    def __init__(self, threshold_s: float) -> None:
        """threshold_s: the mean above which the reader is slow."""
        self._threshold_s = threshold_s
        self._acks_come = True
        self._first = 0
        self._sent_s: deque[float] = deque()
        self._latest_s: deque[float] = deque(maxlen=LATEST_ACKS)
        self._slow = False

    @property
    def slow(self) -> bool:
        """Whether the mean was ever above the threshold."""
        return self._slow

    @property
    def mean_s(self) -> float | None:
        """Mean of the latest ack times; None before the first ack."""
        latest_s = self._latest_s
        return sum(latest_s) / len(latest_s) if latest_s else None

    def sent(self, seq: int, now_s: float) -> None:
        """Chunk seq is written now. Each seq is greater by 1 than the one before."""
        if self._acks_come:
            if not self._sent_s:
                self._first = seq
            self._sent_s.append(now_s)

    def acked(self, seq: int, now_s: float) -> bool:
        """An ack came. True exactly once: with the ack that first lifts the mean over the threshold.

        An ack that settles nothing new, or that names a chunk not sent yet, does not count.
        """
        settled = seq - self._first + 1
        if not 0 < settled <= len(self._sent_s):
            return False
        for _ in range(settled):
            sent_s = self._sent_s.popleft()
        self._first = seq + 1
        self._latest_s.append(now_s - sent_s)
        if self._slow or sum(self._latest_s) / len(self._latest_s) <= self._threshold_s:
            return False
        self._slow = True
        return True

    def clear(self) -> None:
        """No more acks will come: forget what waits for one, and what is sent from now on."""
        self._acks_come = False
        self._sent_s.clear()
