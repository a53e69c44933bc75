"""Options of one run, without defaults: those of the command are in service/cli_bench.py."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class ArrivalKind(StrEnum):
    """How requests come: at times of their own (open loop), or when a caller is free (closed)."""

    POISSON = "poisson"
    BURST = "burst"
    CONSTANT = "constant"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class BurstShape:
    """A square wave: `factor` times the rate in the last burst_s of every period_s, the rate before that."""

    factor: float
    burst_s: float
    period_s: float


@dataclass(frozen=True, slots=True)
class Targets:
    """What an answer has to keep to count as good; 0: no target.

    ttft_s: from sending to the first token. latency_s: mean time between tokens.
    """

    ttft_s: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """One run.

    rate_per_s: arrivals, mean outside of bursts. duration_s: no request is sent after it. grace_s: streams
    that are open then are ended after it. callers: of a closed loop. max_requests: of a closed loop; 0 for no
    bound. max_tries: calls for one request; 1 never tries again. max_streams: open at a time. tenants: shares
    of the requests; empty: none is named. timeout_s: deadline of each call.
    """

    target: str
    arrivals: ArrivalKind
    rate_per_s: float
    duration_s: float
    grace_s: float
    burst: BurstShape
    callers: int
    max_requests: int
    max_tries: int
    max_streams: int
    tenants: Mapping[str, float]
    priority: str | None
    model: str | None
    prompt_tokens: int
    max_tokens: int
    ignore_eos: bool
    timeout_s: float | None
    targets: Targets
    seed: int
