"""What the governor is told, without defaults: config/runtime.yaml is their only home."""

from dataclasses import dataclass

from flowcontrol.admission.fair_queue import QueueOptions
from flowcontrol.admission.gate import GateOptions
from flowcontrol.admission.tenants import TenantOptions
from flowcontrol.limits.contract import LimitOptions


@dataclass(frozen=True, slots=True)
class GovernorOptions:
    """initial_streams: where the limit begins."""

    initial_streams: int
    limits: LimitOptions
    gate: GateOptions
    queue: QueueOptions
    tenants: TenantOptions
