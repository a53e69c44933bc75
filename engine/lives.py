"""How long to wait before a worker is started again, and whether it is."""

from engine.backoff import backoff_s


class Lives:
    """The lives of one worker so far. Not started again after max_crashes barren ones in a row.

    A life is barren that ended before the model was ready, or within backoff_max_s of that without a token.
    """

    def __init__(self, *, max_crashes: int, backoff_initial_s: float, backoff_max_s: float) -> None:
        self._max_crashes = max_crashes
        self._initial_s = backoff_initial_s
        self._max_s = backoff_max_s
        self._short = 0
        self._barren = 0

    @property
    def short(self) -> int:
        """Lives in a row, up to the last one, that ended soon after they began."""
        return self._short

    @property
    def crash_loop(self) -> bool:
        return self._barren >= self._max_crashes

    def ended(self, *, lived_s: float, ready_s: float | None, fruitful: bool) -> float:
        """A life is over. Returns seconds to wait before the next.

        ready_s: of lived_s, since the model was ready; None when it never was. fruitful: it gave a token.
        """
        # A worker that served for a while did not fail because of how it was started.
        self._short = 1 if lived_s > self._max_s else self._short + 1
        barren = ready_s is None or (ready_s <= self._max_s and not fruitful)
        self._barren = self._barren + 1 if barren else 0
        return backoff_s(self._short, initial_s=self._initial_s, max_s=self._max_s)
