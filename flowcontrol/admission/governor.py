"""Who may start now, who waits and who is refused: limit, gate, queue and tenants put together."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from flowcontrol.admission.ask import Ask, Outcome, Refusal
from flowcontrol.admission.entry import Entry
from flowcontrol.admission.fair_queue import FairQueue
from flowcontrol.admission.gate import Gate
from flowcontrol.admission.judge import Judge, Outlook
from flowcontrol.admission.options import GovernorOptions
from flowcontrol.admission.permits import Permits
from flowcontrol.admission.snapshot import EstimateSnapshot, GovernorSnapshot, LimitSnapshot
from flowcontrol.admission.tenants import TenantOptions, TenantTable, Throttle
from flowcontrol.admission.ticket import Ticket, TicketState
from flowcontrol.limits.contract import LimitOptions, LimitReason, StrategyName
from flowcontrol.limits.controller import AdaptiveLimit
from flowcontrol.reasons import Reason

# How often one looks at who waits for a quota or for memory: they come free with time, not with an event.
_LOOK_S = 0.05


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
        self._judge = Judge(options, self._gate, self._queue, self._permits, self._limiter, chance)
        # What the guard has put aside to fix the limit.
        self._unfixed: LimitOptions | None = None
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
        tenant.asked_tokens += ask.prompt_tokens + output_tokens
        refusal, expires_s = self._judge.judge(ask, tenant, service_class, output_tokens, now_s)
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
            self._permits.next_interval()
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
        held_back = len(self._queue) > 0 and self._judge.free() > 0
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
        return self._judge.outlook(order, now_s)

    def describe_model(self, *, kv_bytes_per_token: float, full_batch_step_s: float) -> None:
        """What one token of a stream keeps in the KV cache; how long a decode step with a full batch takes,
        which is gone by until steps of streams are seen. 0 for what is not known.
        """
        self._gate.kv_bytes_per_token = kv_bytes_per_token
        self._gate.steps.assume(full_batch_step_s)

    def drain(self) -> None:
        """Refuse who asks from now on. Who waits goes on."""
        self._draining = True

    def configure(
        self, limits: LimitOptions, *, target_ttft_s: float, target_latency_s: float, now_s: float
    ) -> None:
        """Change strategy, bounds and targets. Afterwards `decide` says who may start now.

        An operator's word: a limit that was fixed by fix_limit is not any more, and nothing is put back.
        """
        self._unfixed = None
        gate = replace(self.options.gate, target_ttft_s=target_ttft_s, target_latency_s=target_latency_s)
        self._gate.options = gate
        self._judge.options = self.options = replace(self.options, limits=limits, gate=gate)
        self._limiter.configure(limits, now_s)

    @property
    def last_good_limit(self) -> int:
        """The last limit that stood under demand with load on target or below, in streams."""
        return self._limiter.last_good

    def configure_tenants(self, options: TenantOptions, now_s: float) -> None:
        """Change the tenants' limits. Nobody who was admitted or waits loses anything."""
        self._judge.options = self.options = replace(self.options, tenants=options)
        self._tenants.configure(options, now_s)

    # What the guard does. After each of these `decide` says who may start now.

    def cap_limit(self, cap: int | None, now_s: float) -> None:
        """Hold the limit down, whatever the strategy wants; None lets go. See AdaptiveLimit.hold_at."""
        self._limiter.hold_at(cap, now_s)

    def fix_limit(self, now_s: float) -> bool:
        """Let the limit be the last good one, and stay there, until `unfix_limit` or `configure`.

        False, and nothing is done, when the strategy is `fixed` already, by whomever.
        """
        before = self.options.limits
        if before.strategy is StrategyName.FIXED:
            return False
        fixed = replace(before, strategy=StrategyName.FIXED)
        self._set_limits(fixed, now_s, self._limiter.last_good, LimitReason.CAPPED)
        self._unfixed = before
        return True

    def unfix_limit(self, now_s: float) -> bool:
        """Put back what fix_limit put aside. False, and nothing is done, if `configure` came in between."""
        before, self._unfixed = self._unfixed, None
        if before is None:
            return False
        self._set_limits(before, now_s, None, LimitReason.RECOVERED)
        return True

    def throttle(self, tenant: str, share: float | None) -> None:
        """Hold a tenant's streams in flight to a share of the limit, but at least one; None lets go.

        What it has beyond that goes on; its further requests wait, and are refused with TENANT_LIMIT if
        they would wait too long. Raises ValueError unless 0 < share <= 1.
        """
        limit = self._limiter
        self._tenants.throttle(tenant, None if share is None else Throttle(share, lambda: limit.limit))

    # What tickets tell.

    def prompt_known(self, ticket: Ticket, tokens: int) -> None:
        if ticket.state is TicketState.ADMITTED:
            self._permits.prompt_known(ticket, tokens)

    def place_known(self, ticket: Ticket, has_place: bool) -> None:
        if ticket.state is TicketState.ADMITTED and ticket.first_token_s is None:
            self._permits.place_known(ticket, has_place)

    def left_engine(self, ticket: Ticket) -> None:
        if ticket.state is TicketState.ADMITTED:
            self._permits.left_engine(ticket)

    def first_token(self, ticket: Ticket, now_s: float) -> None:
        if ticket.state is not TicketState.ADMITTED or ticket.first_token_s is not None:
            return
        self._permits.first_token(ticket, now_s)
        if ticket.interrupted:
            return
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
            elif outcome is Outcome.SUCCESS and ticket.first_token_s is not None and not ticket.interrupted:
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

    def _set_limits(self, limits: LimitOptions, now_s: float, limit: int | None, reason: LimitReason) -> None:
        self._judge.options = self.options = replace(self.options, limits=limits)
        self._limiter.configure(limits, now_s, limit=limit, reason=reason)

    def _fill(self, now_s: float) -> None:
        """Give permits from the state as it is: while there are free ones and somebody may have one."""

        def ready(entry: Entry) -> bool:
            return entry.tenant.ready_at(entry.tokens, now_s) <= now_s and self._gate.kv_fits(
                self._permits.kv_tokens + entry.tokens
            )

        while len(self._queue) and self._judge.free() > 0:
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
            if self._judge.hopeless(ticket, outlook.wait_s, now_s):
                self._queue.remove(ticket)
                self._expire(ticket, now_s)

    def _expire(self, entry: Entry, now_s: float) -> None:
        """Refuse one whose time to wait is over; it is out of the queue already."""
        assert isinstance(entry, Ticket)
        entry.state = TicketState.REFUSED
        entry.refusal = self._judge.expired(entry, now_s)
        entry.tenant.refused += 1
        self._refused[entry.refusal.reason] += 1
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
            last_good=limiter.last_good,
            cap=limiter.cap,
            fixed=self._unfixed is not None,
            changes=limiter.changes,
            raised=limiter.raised,
            lowered=limiter.lowered,
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
            drain_s=self._judge.drain_s(now_s),
        )
