"""What the step loop spends its time on."""


class LoopTimes:
    """Sums over the turns of the loop. The fields are those of EngineCounters."""

    def __init__(self) -> None:
        self.steps = 0
        self.generated_tokens = 0
        self.step_s = 0.0
        self.outside_model_s = 0.0
        self.prefill_s = 0.0
        self.max_decode_gap_s = 0.0
        self.max_cancel_delay_steps = 0
        self._last_tokens_s = 0.0

    def tokens(self, now_s: float, *, decoding: bool) -> None:
        """A step gave tokens. decoding: some row that had one of the step before was still there."""
        self.steps += 1
        if decoding:
            self.max_decode_gap_s = max(self.max_decode_gap_s, now_s - self._last_tokens_s)
        self._last_tokens_s = now_s

    def cancelled(self, at_step: int) -> None:
        """A row left for a cancel that came when so many steps were made."""
        self.max_cancel_delay_steps = max(self.max_cancel_delay_steps, self.steps - at_step)

    def turn(self, turn_s: float, model_s: float) -> None:
        """A turn with a step took so long from its first order to its last message; model_s of it in MLX."""
        self.step_s += turn_s
        self.outside_model_s += max(0.0, turn_s - model_s)
