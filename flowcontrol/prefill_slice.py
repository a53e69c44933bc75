"""How many prompt tokens the next step may compute, so that streams in decode do not wait for long."""

LEAST_TOKENS = 16
"""Of a slice, so that prompts get on however slow the model is."""
_KEEP = 0.7
# One step may be held up by anything: it counts as at most so much slower, or faster, than was expected.
_SLOWER, _FASTER = 4.0, 2.0
# Of a step with both, what is taken for prefill even where decoding alone was expected to take as long.
_LEAST_SHARE = 0.1


class PrefillSlice:
    """Sizes slices from the rate at which earlier ones were computed.

    The rate is tokens over seconds, both with exponential forgetting, so that a slice counts by its size.
    """

    __slots__ = ("_decode_s", "_max_gap_s", "_most", "_seconds", "_tokens")

    def __init__(self, *, most: int, max_gap_s: float) -> None:
        """most: tokens of a slice that nobody waits for. max_gap_s: what others may take; 0 for any time."""
        if most < 1 or max_gap_s < 0:
            raise ValueError(
                f"most must be at least 1 and max_gap_s not negative, got {most} and {max_gap_s}"
            )
        self._most = most
        self._max_gap_s = max_gap_s
        self._decode_s: float | None = None
        self._tokens = 0.0
        self._seconds = 0.0

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

    def computed(self, tokens: int, took_s: float, *, decoded: bool) -> None:
        """A step took so long, for a slice of so many tokens and, if decoded, for a decode step besides."""
        if took_s <= 0:
            return
        if tokens:
            self._count(tokens, took_s - (self._decode_s or 0.0) if decoded else took_s, took_s)
        elif decoded:
            known = took_s if self._decode_s is None else self._decode_s
            self._decode_s = _KEEP * known + (1 - _KEEP) * min(took_s, _SLOWER * known)

    def _count(self, tokens: int, prefill_s: float, took_s: float) -> None:
        prefill_s = max(prefill_s, _LEAST_SHARE * took_s)
        if (rate := self.rate) is not None:
            expected_s = tokens / rate
            prefill_s = min(max(prefill_s, expected_s / _FASTER), expected_s * _SLOWER)
        self._tokens = _KEEP * self._tokens + tokens
        self._seconds = _KEEP * self._seconds + prefill_s
