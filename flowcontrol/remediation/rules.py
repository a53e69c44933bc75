"""From signals to what is wanted: a table, from the most specific cause to the most general."""

from collections.abc import Callable
from dataclasses import dataclass

from flowcontrol.limits.contract import StrategyName
from flowcontrol.remediation.actions import Action, Key
from flowcontrol.remediation.signals import Signals, TenantSignal
from flowcontrol.remediation.usual import Usual
from flowcontrol.slo_verdict import Objective, ObjectiveSnapshot

KV_FULL, KV_ROOM = 0.95, 0.7
"""Use of the memory for KV caches at which they are evicted, and below which their budget is given back: what
is given back fills again."""
FLOOD_SHARE, FLOOD_OVER = 0.5, 0.4
"""Share of the demand at which a tenant is a flood, and below which it is none any more. The end of the
breach is no reason to end a throttle: the throttle is why it ended."""
FLOOD_GROWTH, FLOOD_GROWTH_OVER = 2.0, 1.5
"""Besides: how many times as much as usual it asks for, compared with the others. The tenant that always asks
most is no flood."""
PREFILL_MUCH, PREFILL_LITTLE = 0.5, 0.25
"""Share of the step time of prompts at which they hold up decoding, and below which they do not any more."""
LIMIT_SWINGS = 3
"""Changes of direction in a minute that are swinging: a limit that has settled makes at most two."""

_TIMES = (Objective.INTER_TOKEN_P95, Objective.TTFT_P95, Objective.TTFT_P50)
_FLOODED = (Objective.REFUSAL_RATE, *_TIMES)


@dataclass(frozen=True, slots=True)
class Wanted:
    """An action that a rule asks for. objective: whose breach it is to end; None: the cause is enough."""

    action: Action
    subject: str
    cause: str
    objective: Objective | None

    @property
    def key(self) -> Key:
        return self.action, self.subject


@dataclass(frozen=True, slots=True)
class Rule:
    """level: 0 is the most specific. A rule waits while an action of a lower level may yet work."""

    find: Callable[[Signals, Usual], list[Wanted]]
    level: int


def worse_canary(signals: Signals, usual: Usual) -> list[Wanted]:
    return [
        Wanted(Action.ROLL_BACK_FEATURE, feature.name, feature.worse, None) for feature in signals.features
    ]


def stuck_worker(signals: Signals, usual: Usual) -> list[Wanted]:
    return [
        Wanted(Action.RESTART_WORKER, worker.subject, f"no sign of life for {worker.silent_s:.0f} s", None)
        for worker in signals.workers
        if worker.suspect
    ]


def slow_worker(signals: Signals, usual: Usual) -> list[Wanted]:
    breach = burning(signals, _TIMES)
    if breach is None:
        return []
    return [
        Wanted(Action.RESTART_WORKER, worker.subject, f"{told(breach)}; {slow}", breach.name)
        for worker in signals.workers
        if not worker.suspect and (slow := usual.step_times.slow(worker, signals.workers)) is not None
    ]


def kv_shortage(signals: Signals, usual: Usual) -> list[Wanted]:
    refusals, evictions = signals.kv_refusals, signals.kv_evictions
    # With room left, it is a small budget that evicts, such as the one that this action gives.
    if signals.kv_use <= (KV_ROOM if evictions else KV_FULL) and not refusals:
        return []
    cause = f"KV memory {signals.kv_use:.0%} in use, {refusals} refusals, {evictions} evictions"
    return [Wanted(Action.EVICT_CACHES, "", cause, None)]


def tenant_flood(signals: Signals, usual: Usual) -> list[Wanted]:
    breach, flood = burning(signals, _FLOODED), _flood(signals, usual)
    if breach is None or flood is None or flood.throttled:
        return []
    cause = f"{told(breach)}; {flood.share:.0%} of the demand"
    return [Wanted(Action.THROTTLE_TENANT, flood.name, cause, breach.name)]


def long_prefill(signals: Signals, usual: Usual) -> list[Wanted]:
    breach = burning(signals, (Objective.INTER_TOKEN_P95,))
    share = signals.prefill_share
    if breach is None or share is None or share < PREFILL_MUCH:
        return []
    return [Wanted(Action.SHRINK_PREFILL, "", f"{told(breach)}; prompts take {share:.0%}", breach.name)]


def swinging_limit(signals: Signals, usual: Usual) -> list[Wanted]:
    breach, limit = burning(signals, _TIMES), signals.limit
    if breach is None or limit.swings < LIMIT_SWINGS or limit.strategy is StrategyName.FIXED:
        return []
    cause = f"{told(breach)}; the limit turned {limit.swings} times in a minute"
    return [Wanted(Action.FIX_LIMIT, "", cause, breach.name)]


def too_much_load(signals: Signals, usual: Usual) -> list[Wanted]:
    breach, limit = burning(signals, _TIMES), signals.limit
    if breach is None or limit.limit <= limit.min_streams:
        return []
    return [Wanted(Action.LOWER_LIMIT, "", told(breach), breach.name)]


RULES = (
    Rule(worse_canary, 0),
    Rule(stuck_worker, 0),
    Rule(slow_worker, 0),
    # A flood may be what fills the memory: neither waits for the other.
    Rule(kv_shortage, 1),
    Rule(tenant_flood, 1),
    Rule(long_prefill, 2),
    Rule(swinging_limit, 3),
    Rule(too_much_load, 4),
)


def remains(key: Key, signals: Signals, usual: Usual) -> bool:
    """Whether the cause of an action in force is still there, though what it did to others may be over."""
    action, subject = key
    if action is Action.EVICT_CACHES:
        return signals.kv_use > KV_ROOM or signals.kv_refusals > 0
    if action is Action.THROTTLE_TENANT:
        return any(each.name == subject and _floods_still(each, usual) for each in signals.tenants)
    if action is Action.SHRINK_PREFILL:
        return (signals.prefill_share or 0.0) > PREFILL_LITTLE
    return False


def burning(signals: Signals, names: tuple[Objective, ...]) -> ObjectiveSnapshot | None:
    """The first of them that is breached, and still uses up its budget too fast."""
    found = (signals.slo.find(name) for name in names)
    return next((each for each in found if each and each.burning), None)


def well(signals: Signals) -> bool:
    """Whether no time objective is breached."""
    found = (signals.slo.find(name) for name in _TIMES)
    return all(each is None or each.breached_since_s is None for each in found)


def told(breach: ObjectiveSnapshot) -> str:
    """The breach in words."""
    assert breach.fast_burn is not None
    return f"{breach.name} burns {breach.fast_burn:.1f} times its budget"


def _flood(signals: Signals, usual: Usual) -> TenantSignal | None:
    """The tenant with more than its part of the demand, where others suffer from it."""
    asking = [tenant for tenant in signals.tenants if tenant.share > 0]
    largest = max(asking, key=lambda tenant: tenant.share, default=None)
    if largest is None or len(asking) < 2 or largest.share <= FLOOD_SHARE:
        return None
    return largest if usual.tenant_shares.growth(largest) >= FLOOD_GROWTH else None


def _floods_still(tenant: TenantSignal, usual: Usual) -> bool:
    return tenant.share > FLOOD_OVER and usual.tenant_shares.growth(tenant) > FLOOD_GROWTH_OVER
