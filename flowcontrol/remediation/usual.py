"""What is usual while all is well; rules compare with it."""

from flowcontrol.remediation.signals import Signals
from flowcontrol.remediation.step_times import StepTimes
from flowcontrol.remediation.tenant_shares import TenantShares


class Usual:
    def __init__(self) -> None:
        self.step_times = StepTimes()
        self.tenant_shares = TenantShares()

    def observe(self, signals: Signals, *, well: bool) -> None:
        """An interval has ended. well: no time objective is breached, and no action keeps it so."""
        self.step_times.observe(signals.workers, well=well)
        if well:
            self.tenant_shares.observe(signals.tenants)
