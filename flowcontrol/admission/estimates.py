"""What the gate predicts with, learned from the streams that ran."""

import math

# Streams over which a mean forgets: a newer one counts 1/64 more than the one before it.
_MEMORY = 64
# Prompts must differ by this share of their mean before a slope can be read from them.
_LEAST_SPREAD = 0.2
# Seconds over which the time between tokens forgets.
_STEP_MEMORY_S = 2.0
_BIAS_BOUNDS = (0.25, 8.0)


class Mean:
    """An exponentially weighted moving average; None before the first value."""

    __slots__ = ("_weight", "value")

    def __init__(self, memory: int) -> None:
        self._weight = 1 / memory
        self.value: float | None = None

    def add(self, value: float) -> None:
        self.value = value if self.value is None else self.value + self._weight * (value - self.value)


class FirstTokenModel:
    """Time from permit to first token as base_s + slope * tokens to compute before it.

    A weighted least-squares line, its moments forgetting exponentially: short prompts give the base, a
    backlog gives the slope, which is the inverse of the prefill rate. A rate taken from single short
    prompts would be a hundred times too low, and the gate would refuse what there is room for. Before
    enough was seen the slope is 0: optimistic, since the queue is bounded anyway.
    """

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0
        self._slope = 0.0

    @property
    def known(self) -> bool:
        return self._n > 0

    @property
    def slope(self) -> float:
        """Seconds per token; 0 while unknown."""
        return self._slope

    @property
    def base_s(self) -> float:
        """Time to first token with no prompt to compute; 0 while unknown."""
        return max(0.0, (self._y - self._slope * self._x) / self._n) if self._n else 0.0

    def add(self, tokens: float, first_token_s: float) -> None:
        """tokens: of the stream's own prompt and of those under way when it began."""
        keep = 1 - 1 / _MEMORY
        self._n = self._n * keep + 1
        self._x = self._x * keep + tokens
        self._y = self._y * keep + first_token_s
        self._xx = self._xx * keep + tokens * tokens
        self._xy = self._xy * keep + tokens * first_token_s
        mean = self._x / self._n
        variance = self._xx / self._n - mean * mean
        if variance > (_LEAST_SPREAD * mean) ** 2:
            covariance = self._xy / self._n - mean * self._y / self._n
            # Not steeper than a line through the origin: a base is never negative.
            self._slope = min(max(0.0, covariance / variance), self._y / self._x)

    def predict_s(self, tokens: float) -> float:
        return self.base_s + self._slope * tokens


class StepTime:
    """Time between two tokens of a stream, from the engine's count of decode steps."""

    def __init__(self) -> None:
        self.value_s: float | None = None
        self._steps = 0
        # When the count was seen to change; None before that. It arrives with the engine's heartbeat, so
        # only from one change to the next is it known how long the steps took.
        self._at_s: float | None = None
        self._window_s = 0.0
        self._window_steps = 0

    def assume(self, step_s: float) -> None:
        """What to go by until the first steps are seen; 0 for nothing."""
        if self.value_s is None and step_s > 0:
            self.value_s = step_s

    def observe(self, steps: int, decoding: bool, now_s: float) -> None:
        """steps: since the engine started. decoding: whether any stream is between its tokens now."""
        made, self._steps = steps - self._steps, steps
        if not decoding or made < 0:
            self._at_s = None
        if not decoding or made <= 0:
            return
        before_s, self._at_s = self._at_s, now_s
        if before_s is None or now_s <= before_s:
            return
        took_s = now_s - before_s
        self._window_s += took_s
        self._window_steps += made
        weight = min(1.0, took_s / _STEP_MEMORY_S)
        step_s = took_s / made
        self.value_s = step_s if self.value_s is None else self.value_s + weight * (step_s - self.value_s)

    def take_window_s(self) -> float | None:
        """Mean since the last call; None when no step was seen."""
        mean_s = self._window_s / self._window_steps if self._window_steps else None
        self._window_s, self._window_steps = 0.0, 0
        return mean_s


class HoldTime:
    """How long a stream holds its permit after its first token: output tokens x time between tokens.

    What that leaves out (readers that stall, prompts of others in between) is learned as a factor.
    """

    def __init__(self) -> None:
        self.output = Mean(_MEMORY)
        self._bias = Mean(_MEMORY)
        self._ratio = Mean(_MEMORY)
        self._ratio_squared = Mean(_MEMORY)

    @property
    def spread(self) -> float:
        """How little can be foretold of one stream's time: the coefficient of variation of real over
        expected, at most 1. 0 while unknown, and when every stream takes as long as expected.
        """
        mean, squared = self._ratio.value, self._ratio_squared.value
        if not mean or squared is None:
            return 0.0
        return min(1.0, math.sqrt(max(0.0, squared - mean * mean)) / mean)

    def expected_output(self, max_tokens: int) -> int:
        """Output tokens of a stream that may have max_tokens."""
        mean = self.output.value
        return max_tokens if mean is None else min(max_tokens, max(1, round(mean)))

    def hold_s(self, output_tokens: float, step_s: float | None) -> float:
        """0 while the time between tokens is unknown."""
        return output_tokens * (step_s or 0.0) * (self._bias.value or 1.0)

    def ended(self, expected_s: float, output_tokens: int, held_s: float, step_s: float | None) -> None:
        """A stream ended well, held_s after its first token. expected_s: what hold_s said of it."""
        self.output.add(output_tokens)
        if expected_s > 0:
            self._ratio.add(held_s / expected_s)
            self._ratio_squared.add((held_s / expected_s) ** 2)
        if step_s and output_tokens > 1:
            low, high = _BIAS_BOUNDS
            self._bias.add(min(high, max(low, held_s / (output_tokens * step_s))))


class RetrySlots:
    """Spreads those who are refused over the time in which they can be served.

    Each refusal takes the next slot of the server's throughput, so that callers who were refused together
    do not come back together.
    """

    def __init__(self, max_s: float) -> None:
        self._max_s = max_s
        self._next_s = 0.0

    def take(self, wait_s: float, slot_s: float, chance: float, now_s: float) -> float:
        """Seconds after which to try again.

        wait_s: until there may be room. slot_s: the server starts one stream in this time. chance in [0, 1)
        adds up to a fifth; answers beyond max_s are spread over its upper half.
        """
        at_s = max(now_s + wait_s, self._next_s)
        self._next_s = min(at_s + slot_s, now_s + self._max_s)
        return self.without_slot(at_s - now_s, chance)

    def without_slot(self, wait_s: float, chance: float) -> float:
        """The same for one whose wait has nothing to do with the server's throughput."""
        if wait_s >= self._max_s:
            return self._max_s * (1 + chance) / 2
        return min(self._max_s, wait_s * (1 + 0.2 * chance))
