"""Which part of the demand each tenant usually has, to tell a flood from the tenant that always asks most."""

from flowcontrol.remediation.signals import TenantSignal

WEIGHT = 0.05
"""Of one interval in the mean, once there are as many."""
FORGET_BELOW = 0.01
"""Shares add up to 1, so at most a hundred tenants are known."""
MOST_USUAL = 0.8
"""Who usually asks for even more can flood the others all the same."""


class TenantShares:
    """Keeps the mean share of each tenant while all was well."""

    def __init__(self) -> None:
        self._usual: dict[str, float] = {}
        self._seen = 0

    def observe(self, tenants: tuple[TenantSignal, ...]) -> None:
        """An interval has ended in which all was well. Without demand it says nothing."""
        shares = {tenant.name: tenant.share for tenant in tenants if tenant.share > 0}
        if not shares:
            return
        self._seen += 1
        weight = max(WEIGHT, 1 / self._seen)
        means = {
            name: self._usual.get(name, 0.0) * (1 - weight) + shares.get(name, 0.0) * weight
            for name in self._usual.keys() | shares.keys()
        }
        self._usual = {name: mean for name, mean in means.items() if mean >= FORGET_BELOW}

    def growth(self, tenant: TenantSignal) -> float:
        """How many times as much it asks for as usual, compared with all others together."""
        usual = min(self._usual.get(tenant.name, FORGET_BELOW), MOST_USUAL)
        others = max(1 - tenant.share, 1e-9)
        return tenant.share / others * (1 - usual) / usual
