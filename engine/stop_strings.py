"""Finds stop strings in text that arrives in pieces."""

from collections.abc import Sequence


class StopStringMatcher:
    """Holds text back while it may be the beginning of a stop string.

    The concatenation of what push and flush return is the text before the first stop string, or the
    whole text when there is none. The stop string that is complete first wins, the longer one where
    two end together; so the result does not depend on how the text was cut into pieces.
    """

    __slots__ = ("_held", "_stop_strings", "active", "stopped_by")

    def __init__(self, stop_strings: Sequence[str]) -> None:
        if not all(stop_strings):
            raise ValueError("a stop string must have at least one character")
        self._stop_strings = tuple(stop_strings)
        self.active = bool(self._stop_strings)
        """Whether there is anything to find; where not, push returns what it is given."""
        self._held = ""
        self.stopped_by = ""
        """The stop string that was found; empty before."""

    def push(self, text: str, *, may_stop: bool = True) -> str:
        """Add a piece and return the text that is certain now.

        may_stop: False while stop strings are to be ignored; the text is then passed on as it is.
        Text after a stop string is dropped.
        """
        if self.stopped_by or not self._stop_strings or not may_stop:
            return "" if self.stopped_by else self.flush() + text
        text = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stop_strings if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.stopped_by = min(found)
            self._held = ""
            return text[:at]
        keep = self._partial_match(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what is held back: no more text comes."""
        held, self._held = self._held, ""
        return held

    def _partial_match(self, text: str) -> int:
        """Length of the longest end of text with which some stop string begins."""
        longest = 0
        for stop in self._stop_strings:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest
