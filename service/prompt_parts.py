"""A prompt that comes in pieces: which piece may come, and how much of it."""

from flowcontrol.reasons import Reason
from service.errors import ServiceError, Violation


class PromptParts:
    """Counts the pieces of one stream's prompt. They go to the engine; nothing is kept here."""

    def __init__(self, *, awaited: bool, max_bytes: int) -> None:
        """awaited: whether start said that pieces follow. max_bytes: of all of them, in UTF-8."""
        self.missing = awaited
        """Whether pieces are still to come."""
        self._awaited = awaited
        self._max_bytes = max_bytes
        self._bytes = 0

    def take(self, text: str, *, last: bool) -> None:
        """Note a piece. Raises ServiceError when it may not come, or is too long."""
        if not self.missing:
            problem = "came after the last one" if self._awaited else "came, but start has no prompt_parts"
            raise ServiceError(Reason.PROTOCOL_VIOLATION, f"prompt_part: {problem}")
        total_bytes = self._bytes + len(text.encode())
        if total_bytes > self._max_bytes:
            field, most = "prompt_part.text", self._max_bytes
            problem = f"got {total_bytes} bytes in all pieces so far; allowed: at most {most}"
            violation = Violation(field, problem)
            raise ServiceError(Reason.INVALID_REQUEST, f"{field}: {problem}", violations=[violation])
        self._bytes = total_bytes
        self.missing = not last

    def check_complete(self) -> None:
        """The caller closes its side. Raises ServiceError when pieces are missing."""
        if self.missing:
            text = "prompt_part: the caller closed its side before the last piece"
            raise ServiceError(Reason.PROTOCOL_VIOLATION, text)
