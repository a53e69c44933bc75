"""What the fair share of a tenant came to lately."""

import math

from flowcontrol.admission.tenants import Tenant


class FairShare:
    """Tokens served over the last credit_s, exponentially weighted, and the tenants that shared them."""

    __slots__ = ("_all", "_credit_s", "_served")

    def __init__(self, credit_s: float) -> None:
        self._credit_s = credit_s
        # Tokens as of a time: of all, and of each tenant, the one that was served longest ago first.
        self._all = (0.0, 0.0)
        self._served: dict[Tenant, tuple[float, float]] = {}

    def served(self, tenant: Tenant, tokens: int, now_s: float) -> None:
        if self._credit_s:
            self._all = (self._decayed(self._all, now_s) + tokens, now_s)
            before = self._decayed(self._served.pop(tenant, (0.0, now_s)), now_s)
            self._served[tenant] = (before + tokens, now_s)

    def credit(self, now_s: float) -> float:
        """By how much a tenant's virtual time may be behind that of the others: its share of what was served
        in the last credit_s, in tokens / weight.
        """
        self._forget(now_s)
        weights = sum(tenant.limits.weight for tenant in self._served)
        return self._decayed(self._all, now_s) / weights if weights else 0.0

    def share(self, tenant: Tenant, now_s: float) -> float:
        """A tenant's part of what was served lately, above 0; 1 where nothing is known of it."""
        self._forget(now_s)
        if tenant not in self._served:
            return 1.0
        return self._decayed(self._served[tenant], now_s) / self._decayed(self._all, now_s)

    def _forget(self, now_s: float) -> None:
        """Drop those who were not served for credit_s."""
        while self._served:
            tenant, (_, at_s) = next(iter(self._served.items()))
            if at_s >= now_s - self._credit_s:
                return
            del self._served[tenant]

    def _decayed(self, tokens: tuple[float, float], now_s: float) -> float:
        amount, at_s = tokens
        return amount * math.exp((at_s - now_s) / self._credit_s)
