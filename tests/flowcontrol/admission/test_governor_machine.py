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
        self.limit = limit
        self.tickets: list[Ticket] = []
        self.told: set[Ticket] = set()
        self.refused = 0
        self.subject = governor(
            initial_streams=limit,
            limits={"min_streams": limit, "max_streams": limit},
            queue={"max_requests": MAX_QUEUED},
            tenants={"named": {"limited": replace(FREE, max_streams=2)}},
        )

    def in_state(self, state: TicketState) -> list[Ticket]:
        return [ticket for ticket in self.tickets if ticket.state is state]

    def check_admissions(self, before: int) -> None:
        """Whoever was admitted, was so within the limit of now."""
        after = len(self.in_state(TicketState.ADMITTED))
        assert after <= max(self.limit, before), "admitted beyond the limit"

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
        before = len(self.in_state(TicketState.ADMITTED))
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

    @rule(limit=st.integers(1, 8))
    def set_limit(self, limit: int) -> None:
        self.limit = limit
        limits = replace(OPTIONS.limits, min_streams=limit, max_streams=limit)
        self.subject.configure(limits, target_ttft_s=1.0, target_latency_s=0.1, now_s=self.now_s)
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
        before = len(self.in_state(TicketState.ADMITTED))
        for ticket in self.subject.decide(self.now_s):
            assert ticket not in self.told, "told twice"
            self.told.add(ticket)
            assert ticket.state in (TicketState.ADMITTED, TicketState.REFUSED)
            assert (ticket.refusal is not None) == (ticket.state is TicketState.REFUSED)
            if ticket.state is TicketState.REFUSED:
                self.refused += 1
        self.check_admissions(before)

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
