"""How many prompt tokens the next step may compute, so that streams in decode do not wait for long."""

LEAST_TOKENS = 16
"""Of a slice, so that prompts get on however slow the model is."""
_KEEP = 0.7
# One slice may be held up by anything: it counts as at most so much slower, or faster, than was expected.
_SLOWER, _FASTER = 4.0, 2.0


class PrefillSlice:
    """Sizes slices from the rate at which earlier ones were computed.

    The rate is tokens over seconds, both with exponential forgetting, so that a slice counts by its size.
    """

    __slots__ = ("_max_gap_s", "_most", "_seconds", "_tokens")

    def __init__(self, *, most: int, max_gap_s: float) -> None:
        """most: tokens of a slice that nobody waits for. max_gap_s: what others may take; 0 for any time."""
        if max_gap_s < 0:
            raise ValueError(f"max_gap_s must not be negative, got {max_gap_s}")
        self.resize(most)
        self._max_gap_s = max_gap_s
        self._tokens = 0.0
        self._seconds = 0.0

    def resize(self, most: int) -> None:
        """Slices of at most so many tokens from now on. Raises ValueError below 1."""
        if most < 1:
            raise ValueError(f"most must be at least 1, got {most}")
        self._most = most

    @property
    def rate(self) -> float | None:
        """Prompt tokens per second; None before the first slice."""
        return self._tokens / self._seconds if self._seconds else None

    def tokens(self, *, decoding: bool) -> int:
        """Most tokens of the next slice. decoding: whether a stream waits for the step that computes it."""
        if not decoding or not self._max_gap_s:
            return self._most
        rate = self.rate
        fitting = 0.0 if rate is None else rate * self._max_gap_s
        return int(min(self._most, max(LEAST_TOKENS, fitting)))

    def computed(self, tokens: int, took_s: float) -> None:
        """A slice of so many tokens took so long."""
        if tokens <= 0 or took_s <= 0:
            return
        if (rate := self.rate) is not None:
            expected_s = tokens / rate
            took_s = min(max(took_s, expected_s / _FASTER), expected_s * _SLOWER)
        self._tokens = _KEEP * self._tokens + tokens
        self._seconds = _KEEP * self._seconds + took_s
