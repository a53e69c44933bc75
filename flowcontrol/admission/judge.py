"""Whether a request may come in, whether it must wait, and when it would start."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flowcontrol.admission.ask import Ask, Quota, Refusal, ServiceClass
from flowcontrol.admission.entry import Entry
from flowcontrol.admission.estimates import RetrySlots
from flowcontrol.admission.fair_queue import Ahead, FairQueue
from flowcontrol.admission.gate import Gate
from flowcontrol.admission.options import GovernorOptions
from flowcontrol.admission.permits import Permits, slot_wait_s
from flowcontrol.admission.tenants import Tenant
from flowcontrol.admission.ticket import Ticket
from flowcontrol.limits.controller import AdaptiveLimit
from flowcontrol.reasons import Reason

_LEAST_RETRY_S = 0.05
# Between the returns of two refused callers while it is not known how many streams can start in a time.
_FIRST_SLOT_S = 0.05
# Shares of its budget up to which a request is let in, and after which it is given up. Predictions err: for
# what lies between them those who were let in seldom hear no later; the rest is for a slow first token.
_CAUTION = 0.7
_PATIENCE = 0.9
# As many streams may wait in front of the engine's batch, as a share of its places.
_READY_SHARE = 0.125
# Times the budget from which on waiting is given up before all of it has passed.
_HOPELESS = 1.3


@dataclass(frozen=True, slots=True)
class Outlook:
    """position: 1 is next. wait_s: until the start, 0 when nothing is known of it."""

    position: int
    wait_s: float


@dataclass(frozen=True, slots=True)
class HeldBack:
    """What a request would wait for. quota: of its tenant, when that holds it back."""

    wait_s: float
    quota: Quota | None
    kv_full: bool

    def reason(self, otherwise: Reason) -> Reason:
        if self.quota is not None:
            return Reason.TENANT_LIMIT
        return Reason.KV_EXHAUSTED if self.kv_full else otherwise


class Judge:
    """Reads the state of the governor's parts; changes only what it remembers of its own answers."""

    def __init__(
        self,
        options: GovernorOptions,
        gate: Gate,
        queue: FairQueue,
        permits: Permits,
        limiter: AdaptiveLimit,
        chance: Callable[[], float],
    ) -> None:
        self.options = options
        self._gate = gate
        self._queue = queue
        self._permits = permits
        self._limiter = limiter
        self._retries = RetrySlots(options.gate.max_retry_after_s)
        self._chance = chance

    def judge(
        self, ask: Ask, tenant: Tenant, service_class: ServiceClass, output_tokens: int, now_s: float
    ) -> tuple[Refusal | None, float]:
        """Why the request may not come in, or None; and until when it may wait."""
        gate, tokens = self._gate, ask.prompt_tokens + output_tokens
        if not gate.kv_fits(tokens):
            text = f"the KV cache of {tokens} tokens is larger than all that streams may keep"
            return Refusal(Reason.KV_EXHAUSTED, text, self.options.gate.max_retry_after_s), now_s
        ahead = self._queue.ahead(tenant, service_class, now_s)
        slot_s = self._slot_wait_s(ahead, now_s)
        ready_s = self._ready_s(tenant, tokens, now_s)
        kv_full = not gate.kv_fits(self._permits.kv_tokens + tokens)
        held = HeldBack(max(slot_s, ready_s), tenant.quota(tokens, now_s) if ready_s else None, kv_full)
        waits = ready_s > 0 or kv_full or ahead.requests >= self.free()
        if waits and (full := self._queue.full_for(tenant, tokens)):
            return self._refusal(held.reason(self._full_reason()), full, held, held.wait_s, now_s), now_s
        under_way = 0.0 if slot_s else self._permits.prefill_tokens + ahead.prompt_tokens
        service_s = gate.service_s(under_way + ask.prompt_tokens)
        budget_s = gate.budget_s(service_class, ask.prompt_tokens)
        left_s = math.inf if ask.deadline_s is None else ask.deadline_s - now_s
        may_wait_s = max(0.0, min(_PATIENCE * budget_s, left_s) - service_s)
        expires_s = now_s + min(self.options.queue.ttl_s, may_wait_s)
        return self._too_late(held, service_s, budget_s, left_s, now_s), expires_s

    def _too_late(
        self, held: HeldBack, service_s: float, budget_s: float, left_s: float, now_s: float
    ) -> Refusal | None:
        """Refuses a request whose first token is predicted later than it may be."""
        predicted_s = held.wait_s + service_s
        if held.quota is not None:
            late = predicted_s > min(budget_s, left_s, self.options.queue.ttl_s)
        elif not len(self._permits):
            late = False  # There is room, whatever was measured once; and only so it is measured anew.
        else:
            # A class's target refuses nobody below the floor of the limit.
            busy = len(self._permits) + len(self._queue) >= self.options.limits.min_streams
            late = predicted_s > left_s or (busy and predicted_s > _CAUTION * budget_s)
        if not late:
            return None
        which = "the caller's deadline" if left_s < budget_s else "the target of its class"
        allowed_s = min(left_s, budget_s)
        text = f"the first token is expected after {predicted_s:.2f} s, {which} allows {allowed_s:.2f} s"
        if held.quota is not None:
            text = f"{held.quota.subject}: {held.quota.description}"
        reason = held.reason(Reason.WOULD_MISS_DEADLINE)
        return self._refusal(reason, text, held, max(0.0, predicted_s - budget_s), now_s)

    def hopeless(self, ticket: Ticket, wait_s: float, now_s: float) -> bool:
        """Whether one who waits will be far too late, now and the last time. wait_s: until its start, as
        predicted now.
        """
        allowed_s = self._gate.budget_s(ticket.service_class, ticket.ask.prompt_tokens)
        if ticket.ask.deadline_s is not None:
            allowed_s = min(allowed_s, ticket.ask.deadline_s - ticket.since_s)
        service_s = self._gate.service_s(ticket.ask.prompt_tokens)
        late = now_s - ticket.since_s + wait_s + service_s > _HOPELESS * allowed_s
        # Once may be a moment in which many streams have just begun.
        twice, ticket.doubtful = late and ticket.doubtful, late
        return twice

    def expired(self, entry: Entry, now_s: float) -> Refusal:
        """Why one who waited is not admitted any more."""
        waited_s = now_s - entry.since_s
        ready_s = self._ready_s(entry.tenant, entry.tokens, now_s)
        held = HeldBack(ready_s, entry.tenant.quota(entry.tokens, now_s) if ready_s else None, False)
        out_of_time = waited_s >= self.options.queue.ttl_s
        if held.quota is not None:
            why = f"{held.quota.subject}: {held.quota.description}"
        else:
            why = "as long as a request may" if out_of_time else "the first token would come too late now"
        reason = held.reason(Reason.QUEUE_TIMEOUT if out_of_time else Reason.WOULD_MISS_DEADLINE)
        return self._refusal(reason, f"waited for {waited_s:.2f} s; {why}", held, self.drain_s(now_s), now_s)

    def outlook(self, order: Iterable[Entry], now_s: float) -> dict[Ticket, Outlook]:
        """When those who wait may start; order: as they would be popped."""
        left_s = self._permits.left_s(self._gate, now_s)
        hold_s, spread = self._hold_s(self._everyone()), self._gate.holds.spread
        room = self._room()
        return {
            entry: Outlook(place, slot_wait_s(place - room, left_s, hold_s, spread))
            for place, entry in enumerate(order, start=1)
            if isinstance(entry, Ticket)
        }

    def drain_s(self, now_s: float) -> float:
        """Until all who wait now have started."""
        return self._slot_wait_s(self._everyone(), now_s) if len(self._queue) else 0.0

    def _full_reason(self) -> Reason:
        return Reason.QUEUE_FULL if self.options.queue.max_requests else Reason.TOO_MANY_STREAMS

    def _refusal(self, reason: Reason, text: str, held: HeldBack, wait_s: float, now_s: float) -> Refusal:
        """wait_s: until there may be room."""
        if held.quota is not None:  # Its own quota is free then, whoever else comes.
            own_s = max(held.wait_s, _LEAST_RETRY_S)
            return Refusal(reason, text, self._retries.without_slot(own_s, self._chance()), held.quota)
        hold_s = self._gate.hold_s(self._gate.holds.output.value or 0.0)
        slot_s = hold_s / self._limiter.limit or _FIRST_SLOT_S
        after_s = self._retries.take(max(wait_s, _LEAST_RETRY_S), slot_s, self._chance(), now_s)
        return Refusal(reason, text, after_s)

    def _ready_s(self, tenant: Tenant, tokens: int, now_s: float) -> float:
        """Until the tenant's quotas allow another stream."""
        ready_s = max(0.0, tenant.ready_at(tokens, now_s) - now_s)
        if math.isfinite(ready_s):
            return ready_s
        # It has as many streams as it may: one of them must end, and those of its own who wait come first.
        hold_s = self._gate.hold_s(self._gate.holds.output.value or 0.0)
        return max(_LEAST_RETRY_S, hold_s * (tenant.queued + 1) / tenant.max_streams)

    def _slot_wait_s(self, ahead: Ahead, now_s: float) -> float:
        place = ahead.requests + 1 - self._room()
        if place <= 0:
            return 0.0
        left_s = self._permits.left_s(self._gate, now_s)
        return slot_wait_s(place, left_s, self._hold_s(ahead), self._gate.holds.spread)

    def _hold_s(self, ahead: Ahead) -> float:
        """For how long those in flight and those ahead hold their permits, on average."""
        count = max(1, len(self._permits) + ahead.requests)
        output_tokens = (self._permits.output_tokens + ahead.output_tokens) / count
        return self._gate.service_s(ahead.prompt_tokens / count) + self._gate.hold_s(output_tokens)

    def _everyone(self) -> Ahead:
        """All who wait, their tokens taken for output."""
        return Ahead(len(self._queue), 0.0, self._queue.tokens)

    def _room(self) -> int:
        """Streams more that the limit and the engine's batch have room for; when negative, as many in flight
        must end, or wait in the engine, before there is any.
        """
        limit, places = self._limiter.limit, self._permits.places.count
        return (limit if places is None else min(limit, places)) - len(self._permits)

    def free(self) -> int:
        """Permits that may be given now; when negative, as many must come back before there is one.

        Those who wait here wait in the order of class and tenant, and those who wait in the engine do not.
        A few wait there all the same, so that places which come free together are taken at once.
        """
        limit, places = self._limiter.limit, self._permits.places.count
        if places is not None:
            limit = min(limit, places + max(1, int(places * _READY_SHARE)))
        return limit - len(self._permits)
