"""Who may start now, who waits and who is refused: limit, gate, queue and tenants put together."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from flowcontrol.admission.ask import Ask, Outcome, Quota, Refusal, ServiceClass
from flowcontrol.admission.entry import Entry
from flowcontrol.admission.estimates import RetrySlots
from flowcontrol.admission.fair_queue import Ahead, FairQueue, QueueOptions
from flowcontrol.admission.gate import Gate, GateOptions
from flowcontrol.admission.permits import Permits, slot_wait_s
from flowcontrol.admission.snapshot import EstimateSnapshot, GovernorSnapshot, LimitSnapshot
from flowcontrol.admission.tenants import Tenant, TenantOptions, TenantTable
from flowcontrol.admission.ticket import Ticket, TicketState
from flowcontrol.limits.contract import LimitOptions
from flowcontrol.limits.controller import AdaptiveLimit
from flowcontrol.reasons import Reason

# How often one looks at who waits for a quota or for memory: they come free with time, not with an event.
_LOOK_S = 0.05
_LEAST_RETRY_S = 0.05
# Share of its budget up to which a request is let in: it is given up when all of it has passed, so who is let
# in seldom hears no after waiting, though predictions err.
_CAUTION = 0.7
# Times the budget from which on waiting is given up before all of it has passed.
_HOPELESS = 1.3


@dataclass(frozen=True, slots=True)
class GovernorOptions:
    """initial_streams: where the limit begins."""

    initial_streams: int
    limits: LimitOptions
    gate: GateOptions
    queue: QueueOptions
    tenants: TenantOptions


@dataclass(frozen=True, slots=True)
class Outlook:
    """position: 1 is next. wait_s: until the start, 0 when nothing is known of it."""

    position: int
    wait_s: float


class Governor:
    """Gives permits to streams. Decides only; the owner acts on what `ask` and `decide` return.

    All times are of one monotonic clock, in seconds.
    """

    def __init__(
        self,
        options: GovernorOptions,
        *,
        now_s: float,
        chance: Callable[[], float],
        limiter: AdaptiveLimit | None = None,
    ) -> None:
        """chance: gives numbers in [0, 1), by which retry delays differ. limiter: in place of our own."""
        self.options = options
        self._limiter = limiter or AdaptiveLimit(options.limits, initial=options.initial_streams, now_s=now_s)
        self._gate = Gate(options.gate)
        self._queue = FairQueue(options.queue)
        self._tenants = TenantTable(options.tenants, now_s)
        self._permits = Permits()
        self._retries = RetrySlots(options.gate.max_retry_after_s)
        self._chance = chance
        self._draining = False
        self._decided_s = now_s
        self._decided: list[Ticket] = []
        self._admitted = 0
        self._refused: Counter[Reason] = Counter()

    def ask(self, ask: Ask, now_s: float) -> Ticket | Refusal:
        """A ticket, admitted or waiting, or why not. It is counted from here on."""
        if self._draining:
            self._refused[Reason.DRAINING] += 1
            return Refusal(
                Reason.DRAINING, "the server is shutting down", self.options.gate.max_retry_after_s
            )
        tenant = self._tenants.enter(ask.tenant, now_s)
        service_class = min(ask.service_class, tenant.limits.max_class)
        output_tokens = self._gate.holds.expected_output(ask.max_tokens)
        refusal, expires_s = self._judge(ask, tenant, service_class, output_tokens, now_s)
        if refusal is not None:
            tenant.refused += 1
            self._refused[refusal.reason] += 1
            return refusal
        ticket = Ticket(
            self,
            ask,
            tenant,
            service_class=service_class,
            output_tokens=output_tokens,
            since_s=now_s,
            expires_s=expires_s,
        )
        self._queue.push(ticket)
        self._fill(now_s)
        if ticket.state is TicketState.ADMITTED:
            self._decided.remove(ticket)
        self._note_occupancy()
        return ticket

    def decide(self, now_s: float) -> list[Ticket]:
        """Those whose waiting is over, admitted or refused, each told once. Moves the limit when due."""
        if self._limiter.next_deadline() <= now_s:
            self._limiter.latency(self._gate.latency_load())
            self._limiter.adjust(now_s)
            self._give_up_hopeless(now_s)
        for entry in self._queue.expired(now_s):
            self._expire(entry, now_s)
        self._fill(now_s)
        self._note_occupancy()
        self._decided_s = now_s
        decided, self._decided = self._decided, []
        return decided

    def next_deadline(self) -> float:
        """When `decide` must be called at the latest; and after every Ticket.end."""
        expiry_s = self._queue.next_deadline()
        look_s = self._decided_s + _LOOK_S
        held_back = len(self._queue) > 0 and self._free() > 0
        return min(
            self._limiter.next_deadline(),
            math.inf if expiry_s is None else expiry_s,
            look_s if held_back else math.inf,
        )

    def observe(self, decode_steps: int, running_rows: int, now_s: float) -> None:
        """The engine's counters, a few times a second: steps since it started, rows in its batch."""
        self._gate.steps.observe(decode_steps, running_rows > 0 and self._permits.decoding > 0, now_s)

    def outlook(self, now_s: float) -> dict[Ticket, Outlook]:
        """When everyone who waits may start, as things stand."""
        order = self._queue.order(now_s, limit=self._limiter.limit, in_flight=self._permits.by_class)
        left_s = self._permits.left_s(self._gate, now_s)
        hold_s = self._hold_s(self._everyone())
        free = self._free()
        return {
            entry: Outlook(place, slot_wait_s(place - free, left_s, hold_s, self._gate.holds.spread))
            for place, entry in enumerate(order, start=1)
            if isinstance(entry, Ticket)
        }

    def set_kv_bytes_per_token(self, kv_bytes: float) -> None:
        """What one token of a stream keeps in the model's KV cache; 0 when it is not known."""
        self._gate.kv_bytes_per_token = kv_bytes

    def drain(self) -> None:
        """Refuse who asks from now on. Who waits goes on."""
        self._draining = True

    def configure(
        self, limits: LimitOptions, *, target_ttft_s: float, target_latency_s: float, now_s: float
    ) -> None:
        """Change strategy, bounds and targets. Afterwards `decide` says who may start now."""
        gate = replace(self.options.gate, target_ttft_s=target_ttft_s, target_latency_s=target_latency_s)
        self.options = replace(self.options, limits=limits, gate=gate)
        self._gate.options = gate
        self._limiter.configure(limits, now_s)

    def configure_tenants(self, options: TenantOptions, now_s: float) -> None:
        """Change the tenants' limits. Nobody who was admitted or waits loses anything."""
        self.options = replace(self.options, tenants=options)
        self._tenants.configure(options, now_s)

    # What tickets tell.

    def prompt_known(self, ticket: Ticket, tokens: int) -> None:
        if ticket.state is TicketState.ADMITTED:
            self._permits.prompt_known(ticket, tokens)

    def place_known(self, ticket: Ticket, has_place: bool) -> None:
        if ticket.state is TicketState.ADMITTED and ticket.first_token_s is None:
            self._permits.place_known(ticket, has_place)

    def first_token(self, ticket: Ticket, now_s: float) -> None:
        if ticket.state is not TicketState.ADMITTED or ticket.first_token_s is not None:
            return
        self._permits.first_token(ticket, now_s)
        service_s = now_s - ticket.admitted_s
        if ticket.waited_in_engine:
            # The time says nothing of prompts, and prompts do not excuse it.
            load = self._gate.ttft_load(service_s, ticket.prompt_tokens)
        else:
            self._gate.first_token.add(ticket.prefill_tokens, service_s)
            load = self._gate.ttft_load(service_s, ticket.prefill_tokens)
        self._limiter.sample(load, admitted_s=ticket.admitted_s)

    def ended(self, ticket: Ticket, outcome: Outcome, output_tokens: int, now_s: float) -> None:
        before, ticket.state = ticket.state, TicketState.ENDED
        if before is TicketState.WAITING:
            self._queue.remove(ticket)
        elif before is TicketState.ADMITTED:
            self._permits.remove(ticket)
            more = ticket.prompt_tokens + output_tokens - ticket.tokens
            ticket.tenant.end(more, now_s)
            self._queue.settle(ticket.tenant, more)
            if outcome is Outcome.DROPPED:
                self._limiter.dropped()
            elif outcome is Outcome.SUCCESS and ticket.first_token_s is not None:
                held_s = now_s - ticket.first_token_s
                expected_s = self._gate.hold_s(ticket.output_tokens)
                self._gate.holds.ended(expected_s, output_tokens, held_s, self._gate.steps.value_s)
        if ticket in self._decided:
            self._decided.remove(ticket)

    def snapshot(self, now_s: float) -> GovernorSnapshot:
        return GovernorSnapshot(
            limit=self._limit_snapshot(),
            estimates=self._estimate_snapshot(now_s),
            in_flight=dict(self._permits.by_class),
            queued=self._queue.queued(),
            queued_tokens=self._queue.tokens,
            max_queued_requests=self.options.queue.max_requests,
            max_queued_tokens=self.options.queue.max_tokens,
            admitted=self._admitted,
            refused=dict(self._refused),
            tenants=self._tenants.snapshot(),
        )

    # Decisions.

    def _judge(
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
        held = _HeldBack(max(slot_s, ready_s), tenant.quota(tokens, now_s) if ready_s else None, kv_full)
        waits = ready_s > 0 or kv_full or ahead.requests >= self._free()
        if waits and (full := self._queue.full_for(tenant, tokens)):
            return self._refusal(held.reason(self._full_reason()), full, held, held.wait_s, now_s), now_s
        under_way = 0.0 if slot_s else self._permits.prefill_tokens + ahead.prompt_tokens
        service_s = gate.service_s(under_way + ask.prompt_tokens)
        budget_s = gate.budget_s(service_class, ask.prompt_tokens)
        left_s = math.inf if ask.deadline_s is None else ask.deadline_s - now_s
        may_wait_s = max(0.0, min(budget_s, left_s) - service_s)
        expires_s = now_s + min(self.options.queue.ttl_s, may_wait_s)
        return self._too_late(held, service_s, budget_s, left_s, now_s), expires_s

    def _too_late(
        self, held: "_HeldBack", service_s: float, budget_s: float, left_s: float, now_s: float
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

    def _full_reason(self) -> Reason:
        return Reason.QUEUE_FULL if self.options.queue.max_requests else Reason.TOO_MANY_STREAMS

    def _refusal(self, reason: Reason, text: str, held: "_HeldBack", wait_s: float, now_s: float) -> Refusal:
        """wait_s: until there may be room."""
        if held.quota is not None:  # Its own quota is free then, whoever else comes.
            wait_s, slot_s = held.wait_s, 0.0
        else:
            hold_s = self._gate.hold_s(self._gate.holds.output.value or 0.0)
            slot_s = hold_s / max(1, self._limiter.limit)
        after_s = self._retries.take(max(wait_s, _LEAST_RETRY_S), slot_s, self._chance(), now_s)
        return Refusal(reason, text, after_s, held.quota)

    def _ready_s(self, tenant: Tenant, tokens: int, now_s: float) -> float:
        """Until the tenant's quotas allow another stream."""
        ready_s = max(0.0, tenant.ready_at(tokens, now_s) - now_s)
        if math.isfinite(ready_s):
            return ready_s
        # It has as many streams as it may: one of them must end, and those of its own who wait come first.
        hold_s = self._gate.hold_s(self._gate.holds.output.value or 0.0)
        return max(_LOOK_S, hold_s * (tenant.queued + 1) / tenant.limits.max_streams)

    def _slot_wait_s(self, ahead: Ahead, now_s: float) -> float:
        place = ahead.requests + 1 - self._free()
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

    def _free(self) -> int:
        """Permits that may be given now; when negative, as many must come back before there is one.

        None while the engine has no place for a stream that it was given: those who wait here wait in the
        order of class and tenant, and those who wait there do not.
        """
        free, without_place = self._limiter.limit - len(self._permits), self._permits.without_place
        return min(free, 0) - without_place if without_place else free

    def _fill(self, now_s: float) -> None:
        """Give permits from the state as it is: while there are free ones and somebody may have one."""

        def ready(entry: Entry) -> bool:
            return entry.tenant.ready_at(entry.tokens, now_s) <= now_s and self._gate.kv_fits(
                self._permits.kv_tokens + entry.tokens
            )

        while len(self._queue) and self._free() > 0:
            entry = self._queue.pop(
                now_s, limit=self._limiter.limit, in_flight=self._permits.by_class, ready=ready
            )
            if not isinstance(entry, Ticket):
                return
            entry.state = TicketState.ADMITTED
            entry.tenant.start(entry.tokens, now_s)
            self._permits.add(entry, now_s)
            self._admitted += 1
            self._decided.append(entry)

    def _give_up_hopeless(self, now_s: float) -> None:
        """Refuse those who waited on a prediction that has turned out to be far too good."""
        for ticket, outlook in self.outlook(now_s).items():
            allowed_s = self._gate.budget_s(ticket.service_class, ticket.ask.prompt_tokens)
            if ticket.ask.deadline_s is not None:
                allowed_s = min(allowed_s, ticket.ask.deadline_s - ticket.since_s)
            service_s = self._gate.service_s(ticket.ask.prompt_tokens)
            if now_s - ticket.since_s + outlook.wait_s + service_s > _HOPELESS * allowed_s:
                self._queue.remove(ticket)
                self._expire(ticket, now_s)

    def _expire(self, entry: Entry, now_s: float) -> None:
        """Refuse one whose time to wait is over; it is out of the queue already."""
        assert isinstance(entry, Ticket)
        waited_s = now_s - entry.since_s
        ready_s = self._ready_s(entry.tenant, entry.tokens, now_s)
        held = _HeldBack(ready_s, entry.tenant.quota(entry.tokens, now_s) if ready_s else None, False)
        if held.quota is not None:
            text = f"waited for {waited_s:.2f} s; {held.quota.subject}: {held.quota.description}"
        elif waited_s >= self.options.queue.ttl_s:
            text = f"waited for {waited_s:.2f} s, as long as a request may"
        else:
            text = f"waited for {waited_s:.2f} s; the first token would come too late now"
        timeout = Reason.QUEUE_TIMEOUT if waited_s >= self.options.queue.ttl_s else Reason.WOULD_MISS_DEADLINE
        reason = held.reason(timeout)
        entry.state = TicketState.REFUSED
        entry.refusal = self._refusal(reason, text, held, 0.0, now_s)
        entry.tenant.refused += 1
        self._refused[reason] += 1
        self._decided.append(entry)

    def _note_occupancy(self) -> None:
        in_flight = len(self._permits)
        self._limiter.occupancy(in_flight, waiting=len(self._queue) > 0 and in_flight >= self._limiter.limit)

    def _limit_snapshot(self) -> LimitSnapshot:
        limiter, limits, gate = self._limiter, self.options.limits, self.options.gate
        return LimitSnapshot(
            strategy=limits.strategy,
            limit=limiter.limit,
            min_streams=limits.min_streams,
            max_streams=limits.max_streams,
            target_ttft_s=gate.target_ttft_s,
            target_latency_s=gate.target_latency_s,
            reason=limiter.reason,
            changed_s=limiter.changed_s,
            last_change=limiter.last_change,
            ttft_load=limiter.ttft_load,
            latency_load=limiter.latency_load,
        )

    def _estimate_snapshot(self, now_s: float) -> EstimateSnapshot:
        gate = self._gate
        slope = gate.first_token.slope
        return EstimateSnapshot(
            prefill_tokens_per_s=1 / slope if slope else None,
            first_token_s=gate.first_token.base_s if gate.first_token.known else None,
            step_s=gate.steps.value_s,
            output_tokens=gate.holds.output.value,
            kv_bytes=gate.kv_bytes(self._permits.kv_tokens),
            max_kv_bytes=self.options.gate.max_kv_bytes,
            drain_s=self._slot_wait_s(self._everyone(), now_s) if len(self._queue) else 0.0,
        )


@dataclass(frozen=True, slots=True)
class _HeldBack:
    """What a request would wait for. quota: of its tenant, when that holds it back."""

    wait_s: float
    quota: Quota | None
    kv_full: bool

    def reason(self, otherwise: Reason) -> Reason:
        if self.quota is not None:
            return Reason.TENANT_LIMIT
        return Reason.KV_EXHAUSTED if self.kv_full else otherwise
