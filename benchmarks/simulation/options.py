"""The governor's options in the simulation: the server's defaults, but for what a scenario sets."""

from dataclasses import replace

from benchmarks.simulation.scenarios import Scenario
from flowcontrol.admission.ask import ServiceClass
from flowcontrol.admission.fair_queue import QueueOptions
from flowcontrol.admission.gate import GateOptions
from flowcontrol.admission.options import GovernorOptions
from flowcontrol.admission.tenants import TenantLimits, TenantOptions
from flowcontrol.limits.contract import LimitOptions, StrategyName


def limit_options(scenario: Scenario, strategy: StrategyName) -> LimitOptions:
    return LimitOptions(
        strategy=strategy,
        min_streams=scenario.min_streams,
        max_streams=scenario.max_streams,
        interval_s=1.0,
        min_samples=5,
        scale_up_threshold=0.8,
        scale_down_threshold=0.3,
    )


def constants(scenario: Scenario, streams: int) -> tuple[LimitOptions, LimitOptions]:
    """What an operator sets, one after the other, for a limit that stays there.

    The bounds are put back: below min_streams the gate refuses nobody, and that is not what is studied.
    """
    options = limit_options(scenario, StrategyName.FIXED)
    return replace(options, min_streams=streams, max_streams=streams), options


def governor_options(
    scenario: Scenario, limits: LimitOptions, *, queue: bool = True, initial_streams: int | None = None
) -> GovernorOptions:
    """queue: False for no queue and no targets, so that whoever is over the limit is refused."""
    factor = 1.0 if queue else 0.0
    return GovernorOptions(
        initial_streams=initial_streams or scenario.initial_streams,
        limits=limits,
        gate=GateOptions(
            target_ttft_s=scenario.target_ttft_s,
            target_latency_s=scenario.target_latency_s,
            service_share=0.7,
            class_factors=dict.fromkeys(ServiceClass, factor),
            max_kv_bytes=scenario.plant.kv_tokens if scenario.kv_told else 0,
            max_retry_after_s=30.0,
        ),
        queue=QueueOptions(
            max_requests=512 if queue else 0,
            max_tokens=1_048_576 if queue else 0,
            ttl_s=60.0,
            ageing_s=10.0,
            lifo_under_overload=False,
            credit_s=10.0,
            reserved=dict.fromkeys(ServiceClass, 0.0),
        ),
        tenants=TenantOptions(
            default=TenantLimits(1.0, 0, 0.0, 0.0, ServiceClass.SYSTEM),
            named={},
            max_tenants=1024,
            idle_s=300.0,
            burst_s=10.0,
        ),
    )
