"""Governors and requests for the tests of admission."""

from dataclasses import replace
from typing import Any

from flowcontrol.admission.ask import Ask, Outcome, ServiceClass
from flowcontrol.admission.fair_queue import QueueOptions
from flowcontrol.admission.gate import GateOptions
from flowcontrol.admission.governor import Governor
from flowcontrol.admission.options import GovernorOptions
from flowcontrol.admission.tenants import TenantLimits, TenantOptions
from flowcontrol.admission.ticket import Ticket
from flowcontrol.limits.contract import LimitOptions, StrategyName

FREE = TenantLimits(
    weight=1.0, max_streams=0, requests_per_s=0.0, tokens_per_s=0.0, max_class=ServiceClass.SYSTEM
)
OPTIONS = GovernorOptions(
    initial_streams=2,
    limits=LimitOptions(
        strategy=StrategyName.FIXED,
        min_streams=1,
        max_streams=100,
        interval_s=1.0,
        min_samples=5,
        scale_up_threshold=0.8,
        scale_down_threshold=0.3,
    ),
    gate=GateOptions(
        target_ttft_s=1.0,
        target_latency_s=0.1,
        service_share=0.5,
        class_factors={
            ServiceClass.SYSTEM: 0.0,
            ServiceClass.INTERACTIVE: 1.0,
            ServiceClass.DEFAULT: 5.0,
            ServiceClass.BULK: 60.0,
        },
        max_kv_bytes=0,
        max_retry_after_s=30.0,
    ),
    queue=QueueOptions(
        max_requests=100,
        max_tokens=100_000,
        ttl_s=60.0,
        ageing_s=1000.0,
        lifo_under_overload=False,
        credit_s=0.0,
        reserved=dict.fromkeys(ServiceClass, 0.0),
    ),
    tenants=TenantOptions(default=FREE, named={}, max_tenants=100, idle_s=600.0, burst_s=1.0),
)


def governor_options(**changes: Any) -> GovernorOptions:
    """changes: of a part (gate={...}), or of the options themselves (initial_streams=3)."""
    parts = {
        name: replace(getattr(OPTIONS, name), **change) if isinstance(change, dict) else change
        for name, change in changes.items()
    }
    return replace(OPTIONS, **parts)


def governor(chance: float = 0.0, **changes: Any) -> Governor:
    """At time 0; changes as for governor_options."""
    return Governor(governor_options(**changes), now_s=0.0, chance=lambda: chance)


def ask(
    tenant: str = "",
    service_class: ServiceClass = ServiceClass.DEFAULT,
    prompt_tokens: int = 10,
    max_tokens: int = 10,
    deadline_s: float | None = None,
) -> Ask:
    return Ask(tenant, service_class, prompt_tokens, max_tokens, deadline_s)


def ticket(given: object) -> Ticket:
    """What `ask` gave, known to be a ticket."""
    assert isinstance(given, Ticket), given
    return given


def taught(governor: Governor, *, first_token_s: float, step_s: float, output_tokens: int = 10) -> float:
    """Let one stream run on an idle governor at time 0, to teach it these times. Returns when it ends."""
    stream = ticket(governor.ask(ask(max_tokens=output_tokens), 0.0))
    stream.first_token(first_token_s)
    governor.observe(0, 1, first_token_s)
    governor.observe(1, 1, first_token_s)
    ends_s = first_token_s + output_tokens * step_s
    governor.observe(output_tokens + 1, 1, ends_s)
    stream.end(Outcome.SUCCESS, output_tokens, ends_s)
    governor.decide(ends_s)
    return ends_s
