"""Tenants: what each may have, and what it has."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flowcontrol.admission.ask import Quota, ServiceClass
from flowcontrol.admission.snapshot import TenantSnapshot
from flowcontrol.admission.token_bucket import TokenBucket

OTHERS = "(others)"
"""The tenant that all names share for which the table has no room."""


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What one tenant may have; 0 for no limit, except weight.

    weight: its share relative to others, above 0. max_streams: in flight at a time. requests_per_s: streams
    started. tokens_per_s: prompt and output. max_class: a higher class is lowered to this one.
    """

    weight: float
    max_streams: int
    requests_per_s: float
    tokens_per_s: float
    max_class: ServiceClass

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight must be finite and above 0, got {self.weight}")
        if self.max_streams < 0:
            raise ValueError(f"max_streams must not be negative, got {self.max_streams}")


@dataclass(frozen=True, slots=True)
class TenantOptions:
    """default: limits of names that are not in `named`. max_tenants: most of those kept apart at a time.

    idle_s: how long a tenant must have had nothing in flight or queued before its place may go to another.
    burst_s: rates hold over this time; a tenant may use as much at once (but at least one request).
    """

    default: TenantLimits
    named: Mapping[str, TenantLimits]
    max_tenants: int
    idle_s: float
    burst_s: float

    def limits_of(self, name: str) -> TenantLimits:
        return self.named.get(name, self.default)


@dataclass(frozen=True, slots=True)
class Throttle:
    """Holds a tenant to a share of the limit, whatever that is at the time. limit: tells it.

    share: above 0, at most 1. Raises ValueError otherwise.
    """

    share: float
    limit: Callable[[], int]

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")

    @property
    def max_streams(self) -> int:
        """At least one."""
        return max(1, int(self.share * self.limit()))


class Tenant:
    """One tenant. Compared by identity; made by TenantTable, which changes its limits.

    in_flight: streams. queued, queued_tokens: waiting requests and their tokens, counted by the queue.
    refused, asked_tokens: counted by whoever is asked. started: streams so far. tokens: charged so far.
    throttle: what it is held to beside its limits; None for nothing.
    seen_s: when it last asked for or ended a stream. virtual_tokens: tokens charged by the queue /
    weight.
    """

    __slots__ = (
        "_lifts",
        "_request_bucket",
        "_token_bucket",
        "asked_tokens",
        "in_flight",
        "limits",
        "name",
        "queued",
        "queued_tokens",
        "refused",
        "seen_s",
        "started",
        "throttle",
        "tokens",
        "virtual_tokens",
    )

    def __init__(self, name: str, limits: TenantLimits, *, burst_s: float, now_s: float) -> None:
        self.name = name
        self.limits = limits
        self.in_flight = 0
        self.queued = 0
        self.queued_tokens = 0
        self.refused = 0
        self.asked_tokens = 0
        self.throttle: Throttle | None = None
        self.started = 0
        self.tokens = 0
        self.virtual_tokens = 0.0
        self._lifts: dict[ServiceClass, float] = {}
        self.seen_s = now_s
        self._request_bucket = TokenBucket(*_request_rate(limits, burst_s), now_s)
        self._token_bucket = TokenBucket(*_token_rate(limits, burst_s), now_s)

    @property
    def max_streams(self) -> int:
        """What it may have in flight now, at least 1; 0 for no limit."""
        own = self.limits.max_streams
        if self.throttle is None:
            return own
        throttled = self.throttle.max_streams
        return min(own, throttled) if own else throttled

    def ready_at(self, tokens: int, now_s: float) -> float:
        """When it may start a stream of so many tokens: not after now_s means now.

        math.inf while max_streams are in flight, since no one knows when the first of them ends.
        """
        if self._streams_used_up():
            return math.inf
        return max(self._request_bucket.ready_at(1, now_s), self._token_bucket.ready_at(tokens, now_s))

    def quota(self, tokens: int, now_s: float) -> Quota | None:
        """The quota that keeps it from starting a stream of so many tokens now; None when nothing does."""
        limits = self.limits
        if self._streams_used_up():
            held = " while it is throttled" if self.max_streams != limits.max_streams else ""
            description = f"{self.max_streams} streams in flight, as many as it may have{held}"
        elif self._request_bucket.ready_at(1, now_s) > now_s:
            description = f"more than {limits.requests_per_s:g} requests per second"
        elif self._token_bucket.ready_at(tokens, now_s) > now_s:
            description = f"more than {limits.tokens_per_s:g} tokens per second"
        else:
            return None
        return Quota(subject=f"tenant:{self.name}", description=description)

    def start(self, tokens: int, now_s: float) -> None:
        """One stream begins, charged with so many tokens, whether it is ready or not."""
        self.in_flight += 1
        self.started += 1
        self.tokens += tokens
        self._request_bucket.take(1, now_s)
        self._token_bucket.take(tokens, now_s)

    def end(self, tokens_diff: int, now_s: float) -> None:
        """One stream has ended. tokens_diff: really used - charged at its start.

        Raises RuntimeError when none is in flight, and changes nothing then.
        """
        if not self.in_flight:
            raise RuntimeError(f"tenant {self.name!r} has no stream in flight")
        self.in_flight -= 1
        self.tokens += tokens_diff
        self.seen_s = now_s
        self._token_bucket.take(tokens_diff, now_s)

    def configure(self, limits: TenantLimits, *, burst_s: float, now_s: float) -> None:
        """New limits; streams in flight go on, even when there are more than it may have now."""
        self._request_bucket.configure(*_request_rate(limits, burst_s), now_s)
        self._token_bucket.configure(*_token_rate(limits, burst_s), now_s)
        self.limits = limits

    def idle_at(self, now_s: float, idle_s: float) -> bool:
        """Whether it has had nothing in flight or queued for idle_s."""
        return not self.in_flight and not self.queued and self.seen_s + idle_s <= now_s

    def virtual_time(self, service_class: ServiceClass) -> float:
        """By which the queue compares tenants in a class: virtual_tokens, and what it was lifted there."""
        return self.virtual_tokens + self._lifts.get(service_class, 0.0)

    def lift(self, service_class: ServiceClass, time: float) -> None:
        """Let its virtual time in the class be at least `time`, so that idle time is not saved up."""
        lifts = self._lifts
        lifts[service_class] = max(time - self.virtual_tokens, lifts.get(service_class, 0.0))

    def charge(self, tokens: int) -> None:
        """Move its virtual time; a negative number gives back."""
        self.virtual_tokens += tokens / self.limits.weight

    def shadow(self) -> "Tenant":
        """A copy with a virtual time of its own, to try out an order. The rest is shared: not to be used."""
        shadow = copy.copy(self)
        shadow._lifts = self._lifts.copy()
        return shadow

    def _streams_used_up(self) -> bool:
        return 0 < self.max_streams <= self.in_flight


class TenantTable:
    """The tenants by name. Its size is bounded, since names may come from callers.

    Names with limits of their own always have a place. Of the others max_tenants do; when all of them
    are busy, further names share the tenant "(others)", with the default limits.
    """

    def __init__(self, options: TenantOptions, now_s: float) -> None:
        self._options = options
        self._tenants: dict[str, Tenant] = {}
        self._throttles: dict[str, Throttle] = {}
        self._others = self._make(OTHERS, now_s)
        self._others_used = False

    def enter(self, name: str, now_s: float) -> Tenant:
        """The tenant of that name for a request that comes now; found, or made.

        The one that was idle for longest makes room where that is needed.
        """
        tenant = self._tenants.get(name)
        if tenant is None:
            if not self._has_room_for(name, now_s):
                self._others_used = True
                return self._others
            tenant = self._tenants[name] = self._make(name, now_s)
        tenant.seen_s = now_s
        return tenant

    def configure(self, options: TenantOptions, now_s: float) -> None:
        """New options, for the tenants in the table too. Those beyond a lower max_tenants stay until idle."""
        self._options = options
        for tenant in (*self._tenants.values(), self._others):
            tenant.configure(options.limits_of(tenant.name), burst_s=options.burst_s, now_s=now_s)

    def throttle(self, name: str, throttle: Throttle | None) -> None:
        """Hold a tenant to a share of the limit, now and when it comes back; None lets go of it."""
        self._throttles.pop(name, None)
        if throttle is not None:
            self._throttles[name] = throttle
        tenant = self._others if name == OTHERS else self._tenants.get(name)
        if tenant is not None:
            tenant.throttle = throttle

    def snapshot(self) -> tuple[TenantSnapshot, ...]:
        """In order of name; "(others)" comes last, and only once it was used."""
        tenants = sorted(self._tenants.values(), key=lambda tenant: tenant.name)
        if self._others_used:
            tenants.append(self._others)
        return tuple(self._snapshot_of(tenant) for tenant in tenants)

    def _make(self, name: str, now_s: float) -> Tenant:
        options = self._options
        tenant = Tenant(name, options.limits_of(name), burst_s=options.burst_s, now_s=now_s)
        tenant.throttle = self._throttles.get(name)
        return tenant

    def _has_room_for(self, name: str, now_s: float) -> bool:
        """Whether a new name gets a place; takes one from an idle tenant when it needs to."""
        named = self._options.named
        if name in named:
            return True
        unnamed = [tenant for tenant in self._tenants.values() if tenant.name not in named]
        if len(unnamed) < self._options.max_tenants:
            return True
        idle = [tenant for tenant in unnamed if tenant.idle_at(now_s, self._options.idle_s)]
        if idle:
            del self._tenants[min(idle, key=lambda tenant: tenant.seen_s).name]
        return len(unnamed) - bool(idle) < self._options.max_tenants

    def _snapshot_of(self, tenant: Tenant) -> TenantSnapshot:
        return TenantSnapshot(
            name=tenant.name,
            named=tenant.name in self._options.named,
            weight=tenant.limits.weight,
            in_flight=tenant.in_flight,
            queued=tenant.queued,
            started=tenant.started,
            refused=tenant.refused,
            tokens=tenant.tokens,
            asked_tokens=tenant.asked_tokens,
            throttle=tenant.throttle.share if tenant.throttle is not None else None,
        )


def _request_rate(limits: TenantLimits, burst_s: float) -> tuple[float, float]:
    return limits.requests_per_s, limits.requests_per_s * burst_s


def _token_rate(limits: TenantLimits, burst_s: float) -> tuple[float, float]:
    return limits.tokens_per_s, limits.tokens_per_s * burst_s
