"""How many streams the engine has places for in its batch, as its own queue shows."""


class EnginePlaces:
    """Learned, not told: workers come and go, and models share them.

    A stream that waits in the engine shows that all places are taken. When many streams end in one moment
    those who wait get their places only with the engine's next step; so the most of two intervals counts.
    """

    def __init__(self) -> None:
        # Most streams that had places, and whether any had none: in the interval under way, and before it.
        self._now = self._before = (0, False)

    @property
    def count(self) -> int | None:
        """None while nobody waits in the engine: then it may have places for any number."""
        (most, full), (most_before, full_before) = self._now, self._before
        return max(1, most, most_before) if full or full_before else None

    def see(self, with_place: int, without_place: int) -> None:
        """Called on every change, with the streams that the engine has told to have a place, or none."""
        most, full = self._now
        self._now = max(most, with_place), full or without_place > 0

    def next_interval(self, with_place: int, without_place: int) -> None:
        """An interval begins, with so many streams."""
        self._before, self._now = self._now, (with_place, without_place > 0)
