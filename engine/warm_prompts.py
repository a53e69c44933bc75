"""Prompts that are tokenised before they are submitted: a bounded number, each for a bounded time."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WarmPrompt:
    """ids: the prompt's tokens; took_s: what making them took."""

    ids: tuple[int, ...]
    took_s: float


class WarmPrompts:
    """What was asked for and what came, by number. The oldest gives way to a new one."""

    def __init__(self, *, max_prompts: int, ttl_s: float) -> None:
        self._max_prompts = max_prompts
        self._ttl_s = ttl_s
        # In the order in which they were asked for, with the time of that.
        self._prompts: dict[int, tuple[float, WarmPrompt | None]] = {}

    def __len__(self) -> int:
        return len(self._prompts)

    def ask(self, number: int, now_s: float) -> bool:
        """Make room for an answer that will come. False when none is kept."""
        if not self._max_prompts:
            return False
        self._expire(now_s)
        while len(self._prompts) >= self._max_prompts:
            del self._prompts[next(iter(self._prompts))]
        self._prompts[number] = (now_s, None)
        return True

    def answer(self, number: int, prompt: WarmPrompt) -> None:
        """The answer has come; nothing if it is not wanted any more."""
        if number in self._prompts:
            self._prompts[number] = (self._prompts[number][0], prompt)

    def take(self, number: int, now_s: float) -> WarmPrompt | None:
        """The answer, if it is there and not too old. Either way the number is forgotten."""
        self._expire(now_s)
        return self._prompts.pop(number, (0.0, None))[1]

    def forget(self, number: int) -> None:
        self._prompts.pop(number, None)

    def clear(self) -> None:
        self._prompts.clear()

    def _expire(self, now_s: float) -> None:
        while self._prompts:
            first = next(iter(self._prompts))
            if now_s - self._prompts[first][0] <= self._ttl_s:
                return
            del self._prompts[first]
