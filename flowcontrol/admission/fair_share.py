"""What the fair share of a tenant came to lately."""

import math

from flowcontrol.admission.tenants import Tenant


class FairShare:
    """Tokens served over the last credit_s, exponentially weighted, and the tenants that shared them."""

    __slots__ = ("_at_s", "_credit_s", "_served_s", "_tokens")

    def __init__(self, credit_s: float) -> None:
        self._credit_s = credit_s
        self._tokens = 0.0
        self._at_s = 0.0
        # When each tenant was last served, the longest ago first.
        self._served_s: dict[Tenant, float] = {}

    def served(self, tenant: Tenant, tokens: int, now_s: float) -> None:
        if self._credit_s:
            self._tokens = self._decayed(now_s) + tokens
            self._at_s = now_s
            self._served_s.pop(tenant, None)
            self._served_s[tenant] = now_s

    def credit(self, now_s: float) -> float:
        """By how much a tenant's virtual time may be behind that of the others: its share of what was served
        in the last credit_s, in tokens / weight.
        """
        while self._served_s and next(iter(self._served_s.values())) < now_s - self._credit_s:
            del self._served_s[next(iter(self._served_s))]
        weights = sum(tenant.limits.weight for tenant in self._served_s)
        return self._decayed(now_s) / weights if weights else 0.0

    def _decayed(self, now_s: float) -> float:
        return self._tokens * math.exp((self._at_s - now_s) / self._credit_s)
