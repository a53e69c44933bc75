"""Predicts when a request would get its first token, and whether that is soon enough."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from flowcontrol.admission.ask import ServiceClass
from flowcontrol.admission.estimates import FirstTokenModel, HoldTime, StepTime

# Streams differ: for nine of ten to stay within a target for the mean time between tokens, all together
# must stay this much within it.
_LATENCY_SHARE = 0.9
# A prompt that takes longer than half of the target alone may take twice its own time.
_SOLO_FACTOR = 2.0


@dataclass(frozen=True, slots=True)
class GateOptions:
    """Targets and bounds of the gate.

    target_ttft_s: time to first token, waiting included. target_latency_s: mean time between two tokens
    of a stream; 0 for none. service_share: share of target_ttft_s that the limit lets the engine itself
    take; the rest is for waiting. class_factors: a class's target is target_ttft_s times its factor; 0
    for no target. max_kv_bytes: KV cache of all streams in flight; 0 for no bound. max_retry_after_s:
    longest delay that a refused caller is told.
    """

    target_ttft_s: float
    target_latency_s: float
    service_share: float
    class_factors: Mapping[ServiceClass, float]
    max_kv_bytes: int
    max_retry_after_s: float


class Gate:
    """The model of the engine that predictions are made with. Learns from the streams that ran."""

    def __init__(self, options: GateOptions) -> None:
        self.options = options
        self.first_token = FirstTokenModel()
        self.steps = StepTime()
        self.holds = HoldTime()
        self.kv_bytes_per_token = 0.0

    def service_s(self, prefill_tokens: float) -> float:
        """Time to first token from the permit on, with so many prompt tokens to compute before it."""
        return self.first_token.predict_s(prefill_tokens)

    def hold_s(self, output_tokens: float) -> float:
        """How long a stream keeps its permit after its first token."""
        return self.holds.hold_s(output_tokens, self.steps.value_s)

    def budget_s(self, service_class: ServiceClass, prompt_tokens: int) -> float:
        """What time to first token may be, waiting included: the target of the class, or twice what the
        prompt takes alone where that is more. Infinite for a class without a target.
        """
        target_s = self.options.target_ttft_s * self.options.class_factors[service_class]
        return max(target_s, self._solo_s(prompt_tokens)) if target_s else math.inf

    def ttft_load(self, service_s: float, prefill_tokens: int) -> float:
        """A measured time from permit to first token over what it may be: 1 is on target.

        What may be grows with the prompts that had to be computed before: prompts that came together are no
        sign of too many streams in flight. Waiting is left out: were it in, overload would lower the limit,
        and that would lengthen the wait.
        """
        share_s = self.options.target_ttft_s * self.options.service_share
        return service_s / max(share_s, self._solo_s(prefill_tokens))

    def latency_load(self) -> float | None:
        """Mean time between tokens since the last call over its target; None without a target or a step."""
        step_s = self.steps.take_window_s()
        if step_s is None or not self.options.target_latency_s:
            return None
        return step_s / (self.options.target_latency_s * _LATENCY_SHARE)

    def kv_bytes(self, tokens: int) -> int:
        return math.ceil(tokens * self.kv_bytes_per_token)

    def kv_fits(self, tokens: int) -> bool:
        """Whether so many tokens in flight fit the budget."""
        return not self.options.max_kv_bytes or self.kv_bytes(tokens) <= self.options.max_kv_bytes

    def _solo_s(self, prefill_tokens: int) -> float:
        # The base is left out: it grows with the load, and a baseline that drifts hides overload.
        return _SOLO_FACTOR * self.first_token.slope * prefill_tokens
