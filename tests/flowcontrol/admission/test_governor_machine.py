"""Random asks, ends, raises and lowers: the governor's promises hold after every step."""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flowcontrol.admission.ask import Outcome, Refusal, ServiceClass
from flowcontrol.admission.ticket import Ticket, TicketState
from flowcontrol.reasons import Reason
from tests.flowcontrol.admission.governors import FREE, OPTIONS, ask, governor

TENANTS = ("", "a", "b", "limited")
MAX_QUEUED = 6


class GovernorMachine(RuleBasedStateMachine):
    @initialize(limit=st.integers(1, 5))
    def begin(self, limit: int) -> None:
        self.now_s = 0.0
        self.configured = limit
        self.cap: int | None = None
        self.throttled: dict[str, float] = {}
        self.tickets: list[Ticket] = []
        self.told: set[Ticket] = set()
        self.refused = 0
        self.subject = governor(
            initial_streams=limit,
            limits={"min_streams": 1, "max_streams": limit},
            queue={"max_requests": MAX_QUEUED},
            tenants={"named": {"limited": replace(FREE, max_streams=2)}},
        )

    def in_state(self, state: TicketState) -> list[Ticket]:
        return [ticket for ticket in self.tickets if ticket.state is state]

    def check_admissions(self, before: int) -> None:
        """Whoever was admitted, was so within the limit of now."""
        after = len(self.in_state(TicketState.ADMITTED))
        assert after <= max(self.limit, before), "admitted beyond the limit"

    def held(self) -> dict[str, int]:
        """Streams in flight of each tenant."""
        running = self.in_state(TicketState.ADMITTED)
        return {name: sum(ticket.tenant.name == name for ticket in running) for name in TENANTS}

    def check_throttles(self, before: dict[str, int]) -> None:
        for name, streams in self.held().items():
            share = self.throttled.get(name)
            most = max(1, int(share * self.limit)) if share is not None else streams
            assert streams <= max(most, before[name]), "admitted beyond a throttle"

    @property
    def limit(self) -> int:
        """What must be in force."""
        return self.configured if self.cap is None else min(self.cap, self.configured)

    @rule(
        tenant=st.sampled_from(TENANTS),
        service_class=st.sampled_from(ServiceClass),
        prompt=st.integers(1, 500),
        output=st.integers(1, 500),
        left_s=st.none() | st.floats(0.1, 50),
    )
    def ask(
        self, tenant: str, service_class: ServiceClass, prompt: int, output: int, left_s: float | None
    ) -> None:
        before, held = len(self.in_state(TicketState.ADMITTED)), self.held()
        deadline_s = None if left_s is None else self.now_s + left_s
        given = self.subject.ask(ask(tenant, service_class, prompt, output, deadline_s), self.now_s)
        if isinstance(given, Refusal):
            self.refused += 1
            assert 0 < given.retry_after_s <= OPTIONS.gate.max_retry_after_s
            assert (given.reason is Reason.TENANT_LIMIT) == (given.quota is not None)
            assert before or given.quota or self.in_state(TicketState.WAITING), "refused while idle"
        else:
            self.tickets.append(given)
            if given.state is TicketState.ADMITTED:
                self.told.add(given)
        self.check_admissions(before)
        self.check_throttles(held)

    @rule(limit=st.integers(1, 8))
    def set_limit(self, limit: int) -> None:
        self.configured = limit
        for least in (limit, 1):  # To get it there, and to leave room for a cap.
            limits = replace(OPTIONS.limits, min_streams=least, max_streams=limit)
            self.subject.configure(limits, target_ttft_s=1.0, target_latency_s=0.1, now_s=self.now_s)
        self.subject.cap_limit(None, self.now_s)
        self.cap = None
        self.decide(0.0)

    @rule(cap=st.none() | st.integers(1, 8))
    def set_cap(self, cap: int | None) -> None:
        self.cap = cap
        self.subject.cap_limit(cap, self.now_s)
        assert self.subject.snapshot(self.now_s).limit.limit == self.limit
        self.decide(0.0)

    @rule(tenant=st.sampled_from(TENANTS), share=st.none() | st.floats(0.01, 1))
    def throttle(self, tenant: str, share: float | None) -> None:
        self.throttled.pop(tenant, None)
        if share is not None:
            self.throttled[tenant] = share
        self.subject.throttle(tenant, share)
        self.decide(0.0)

    @rule(pick=st.integers(0, 100), tokens=st.integers(1, 600))
    def first_token(self, pick: int, tokens: int) -> None:
        running = self.in_state(TicketState.ADMITTED)
        if running:
            running[pick % len(running)].prompt_known(tokens)
            running[pick % len(running)].first_token(self.now_s)

    @rule(pick=st.integers(0, 100), outcome=st.sampled_from(Outcome), tokens=st.integers(0, 500))
    def end(self, pick: int, outcome: Outcome, tokens: int) -> None:
        if self.tickets:
            self.tickets[pick % len(self.tickets)].end(outcome, tokens, self.now_s)
            self.decide(0.0)

    @rule(passed_s=st.floats(0.01, 5))
    def decide(self, passed_s: float) -> None:
        self.now_s += passed_s
        self.subject.observe(round(self.now_s * 20), 1, self.now_s)
        before, held = len(self.in_state(TicketState.ADMITTED)), self.held()
        for ticket in self.subject.decide(self.now_s):
            assert ticket not in self.told, "told twice"
            self.told.add(ticket)
            assert ticket.state in (TicketState.ADMITTED, TicketState.REFUSED)
            assert (ticket.refusal is not None) == (ticket.state is TicketState.REFUSED)
            if ticket.state is TicketState.REFUSED:
                self.refused += 1
        self.check_admissions(before)
        self.check_throttles(held)

    @invariant()
    def counts_agree(self) -> None:
        shown = self.subject.snapshot(self.now_s)
        assert sum(shown.in_flight.values()) == len(self.in_state(TicketState.ADMITTED))
        waiting = self.in_state(TicketState.WAITING)
        assert sum(shown.queued.values()) == len(waiting) <= MAX_QUEUED
        assert shown.queued_tokens == sum(ticket.tokens for ticket in waiting)
        assert set(self.subject.outlook(self.now_s)) == set(waiting)
        assert sum(shown.refused.values()) == self.refused
        assert self.subject.next_deadline() >= 0

    def teardown(self) -> None:
        """In the end nobody waits for ever."""
        if not hasattr(self, "subject"):
            return
        for ticket in self.in_state(TicketState.ADMITTED):
            ticket.end(Outcome.SUCCESS, 1, self.now_s)
        self.decide(OPTIONS.queue.ttl_s + 1)
        assert not self.in_state(TicketState.WAITING)


TestGovernor = GovernorMachine.TestCase
TestGovernor.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
