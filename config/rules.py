"""What must hold between options: each of them may be right by itself and the combination impossible."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from config.schema import ClassesSettings


@dataclass(frozen=True, slots=True)
class Rule:
    """An order that two numbers must keep: ``left relation right``."""

    left: str
    relation: Literal[">", ">="]
    right: str

    @property
    def keys(self) -> tuple[str, ...]:
        return self.left, self.right

    def holds(self, values: Mapping[str, float]) -> bool:
        """Return whether the two values keep the order."""
        left, right = values[self.left], values[self.right]
        return left > right or (self.relation == ">=" and left == right)

    def __str__(self) -> str:
        return f"{self.left} {self.relation} {self.right}"


@dataclass(frozen=True, slots=True)
class SumRule:
    """Shares of one thing: ``name``, as the rule is called in words, adds up to 1 at most."""

    name: str
    keys: tuple[str, ...]

    def holds(self, values: Mapping[str, float]) -> bool:
        """Return whether the sum is at most 1. It is rounded once, so 0.7 + 0.2 + 0.1 is 1."""
        return math.fsum(values[key] for key in self.keys) <= 1

    def __str__(self) -> str:
        return f"the sum of {self.name} is at most 1"


RULES: tuple[Rule | SumRule, ...] = (
    Rule("server.max_receive_message_bytes", ">", "server.request_chunk_bytes"),
    Rule("server.max_send_message_bytes", ">", "server.response_chunk_bytes"),
    Rule(
        "stream_registry.backpressure.max_tokens_per_chunk",
        ">=",
        "stream_registry.backpressure.min_tokens_per_chunk",
    ),
    Rule(
        "stream_registry.backpressure.max_backlog_tokens",
        ">=",
        "stream_registry.backpressure.max_tokens_per_chunk",
    ),
    Rule(
        "stream_registry.adaptive_limits.max_streams",
        ">=",
        "stream_registry.adaptive_limits.min_streams",
    ),
    Rule(
        "stream_registry.adaptive_limits.scale_up_threshold",
        ">",
        "stream_registry.adaptive_limits.scale_down_threshold",
    ),
    SumRule(
        "admission.classes.*.reserved_share",
        tuple(f"admission.classes.{name}.reserved_share" for name in ClassesSettings.model_fields),
    ),
    Rule("engine.max_batch_rows", ">=", "engine.prefill_batch_rows"),
    Rule("engine.max_batch_rows", ">=", "engine.min_batch_rows"),
    Rule("engine.stuck_after_ms", ">", "engine.heartbeat_interval_ms"),
    Rule("engine.kill_after_ms", ">", "engine.stuck_after_ms"),
    Rule("engine.restart_backoff_max_ms", ">=", "engine.restart_backoff_initial_ms"),
    Rule("slo.fast_window_ms", ">=", "slo.evaluation_interval_ms"),
    Rule("slo.slow_window_ms", ">=", "slo.fast_window_ms"),
)
