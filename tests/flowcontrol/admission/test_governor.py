"""Who starts, who waits and who is refused."""

from dataclasses import replace
from itertools import pairwise

import pytest

from flowcontrol.admission.ask import Outcome, Refusal, ServiceClass
from flowcontrol.admission.ticket import Ticket, TicketState
from flowcontrol.limits.contract import LimitReason
from flowcontrol.reasons import Reason
from tests.flowcontrol.admission.governors import FREE, OPTIONS, ask, governor, taught, ticket


def refusal(given: object) -> Refusal:
    assert isinstance(given, Refusal), given
    return given


def test_who_comes_first_starts_and_the_rest_waits_in_order() -> None:
    subject = governor(initial_streams=2)
    tickets = [ticket(subject.ask(ask(), 0.0)) for _ in range(4)]
    assert [t.state for t in tickets] == [TicketState.ADMITTED] * 2 + [TicketState.WAITING] * 2
    assert [outlook.position for outlook in subject.outlook(0.0).values()] == [1, 2]
    tickets[0].end(Outcome.SUCCESS, 10, 1.0)
    assert subject.decide(1.0) == [tickets[2]]
    assert subject.decide(1.0) == []
    assert tickets[2].state is TicketState.ADMITTED


def test_a_permit_ends_once() -> None:
    subject = governor(initial_streams=1)
    first, second = (ticket(subject.ask(ask(), 0.0)) for _ in range(2))
    first.end(Outcome.SUCCESS, 1, 1.0)
    first.end(Outcome.SUCCESS, 1, 1.0)
    assert subject.decide(1.0) == [second]
    assert sum(subject.snapshot(1.0).in_flight.values()) == 1


def test_what_is_told_of_a_stream_that_has_ended_changes_nothing() -> None:
    subject = governor(initial_streams=1, gate={"max_kv_bytes": 1000})
    subject.describe_model(kv_bytes_per_token=1.0, full_batch_step_s=0.0)
    stream = ticket(subject.ask(ask(), 0.0))
    stream.end(Outcome.IGNORED, 0, 1.0)
    stream.prompt_known(500)
    stream.first_token(2.0)
    shown = subject.snapshot(2.0).estimates
    assert (shown.kv_bytes, shown.first_token_s) == (0, None)


def test_who_leaves_the_queue_is_not_admitted() -> None:
    subject = governor(initial_streams=1)
    first, second, third = (ticket(subject.ask(ask(), 0.0)) for _ in range(3))
    second.end(Outcome.IGNORED, 0, 0.5)
    first.end(Outcome.SUCCESS, 1, 1.0)
    assert subject.decide(1.0) == [third]


def test_one_that_leaves_between_decision_and_telling_is_not_told() -> None:
    subject = governor(initial_streams=1)
    first, second = (ticket(subject.ask(ask(), 0.0)) for _ in range(2))
    first.end(Outcome.SUCCESS, 1, 1.0)
    third = ticket(subject.ask(ask(), 1.0))  # Asking gives the free permit to the second.
    assert (second.state, third.state) == (TicketState.ADMITTED, TicketState.WAITING)
    second.end(Outcome.IGNORED, 0, 1.0)
    assert subject.decide(1.0) == [third]


def test_a_raised_limit_wakes_as_many_as_there_is_room_for() -> None:
    subject = governor(initial_streams=1)
    assert subject.last_good_limit == 1
    tickets = [ticket(subject.ask(ask(), 0.0)) for _ in range(6)]
    for bounds in (2, 1, 4):  # Lowered in between: differences would let six in.
        limits = replace(OPTIONS.limits, min_streams=bounds, max_streams=bounds)
        subject.configure(limits, target_ttft_s=1.0, target_latency_s=0.1, now_s=1.0)
        subject.decide(1.0)
    assert [t.state for t in tickets].count(TicketState.ADMITTED) == 4
    assert subject.snapshot(1.0).limit.reason is LimitReason.SET


def test_a_burst_never_overshoots_the_bound_of_the_queue() -> None:
    subject = governor(initial_streams=3, queue={"max_requests": 20})
    given = [subject.ask(ask(tenant=f"t{n % 20}"), 0.0) for n in range(200)]
    waiting = [g for g in given if isinstance(g, Ticket) and g.state is TicketState.WAITING]
    assert len(waiting) == sum(subject.snapshot(0.0).queued.values()) == 20
    refused = [g for g in given if isinstance(g, Refusal)]
    assert len(refused) == 200 - 20 - 3
    assert {r.reason for r in refused} == {Reason.QUEUE_FULL}
    assert all(r.retry_after_s > 0 for r in refused)


def test_without_a_queue_nobody_waits() -> None:
    subject = governor(initial_streams=1, queue={"max_requests": 0})
    ticket(subject.ask(ask(), 0.0))
    assert refusal(subject.ask(ask(), 0.0)).reason is Reason.TOO_MANY_STREAMS


def test_what_cannot_meet_its_deadline_is_refused_at_once() -> None:
    subject = governor(initial_streams=1)
    now_s = taught(subject, first_token_s=0.1, step_s=0.05, output_tokens=10)
    ticket(subject.ask(ask(), now_s))  # Holds the permit for about 0.6 s.
    late = refusal(subject.ask(ask(deadline_s=now_s + 0.4), now_s))
    assert late.reason is Reason.WOULD_MISS_DEADLINE
    assert "the caller's deadline allows 0.40 s" in late.message
    assert ticket(subject.ask(ask(deadline_s=now_s + 0.9), now_s)).state is TicketState.WAITING


def test_what_would_miss_the_target_of_its_class_is_refused_at_once() -> None:
    subject = governor(initial_streams=1)
    now_s = taught(subject, first_token_s=0.1, step_s=0.1, output_tokens=10)
    ticket(subject.ask(ask(), now_s))
    interactive = ask(service_class=ServiceClass.INTERACTIVE)
    late = refusal(subject.ask(interactive, now_s))  # After 1.1 s and 0.1 s: the target is 1 s.
    assert late.reason is Reason.WOULD_MISS_DEADLINE
    assert "the target of its class allows 1.00 s" in late.message
    for patient in (ServiceClass.DEFAULT, ServiceClass.BULK):
        assert ticket(subject.ask(ask(service_class=patient), now_s)).state is TicketState.WAITING


def test_a_class_without_a_target_waits_as_long_as_one_may() -> None:
    subject = governor(initial_streams=1)
    now_s = taught(subject, first_token_s=0.1, step_s=10.0)
    running = ticket(subject.ask(ask(max_tokens=10_000), now_s))
    waiting = ticket(subject.ask(ask(service_class=ServiceClass.SYSTEM), now_s))
    assert subject.decide(now_s + 59.9) == []
    assert subject.decide(now_s + 60.0) == [waiting]
    assert waiting.refusal is not None
    assert (waiting.state, waiting.refusal.reason) == (TicketState.REFUSED, Reason.QUEUE_TIMEOUT)
    running.end(Outcome.SUCCESS, 10, now_s + 61)
    assert subject.decide(now_s + 61) == []


def test_the_target_of_a_class_refuses_nobody_below_the_floor() -> None:
    subject = governor(initial_streams=4, limits={"min_streams": 3})
    now_s = taught(subject, first_token_s=5.0, step_s=0.1)  # Every prediction is beyond 1 s.
    interactive = ask(service_class=ServiceClass.INTERACTIVE)
    for _ in range(3):
        assert ticket(subject.ask(interactive, now_s)).state is TicketState.ADMITTED
    assert refusal(subject.ask(interactive, now_s)).reason is Reason.WOULD_MISS_DEADLINE


def test_an_idle_server_admits_whatever_it_measured_once() -> None:
    subject = governor(initial_streams=1)
    now_s = taught(subject, first_token_s=50.0, step_s=0.1)
    given = subject.ask(ask(deadline_s=now_s + 0.1), now_s)
    assert ticket(given).state is TicketState.ADMITTED


def test_a_deadline_that_passes_in_the_queue_is_dropped_and_not_run() -> None:
    subject = governor(initial_streams=1)  # Nothing is known yet, so nothing is predicted.
    running = ticket(subject.ask(ask(), 0.0))
    waiting = ticket(subject.ask(ask(deadline_s=0.5), 0.0))
    assert subject.next_deadline() == 0.5
    running.end(Outcome.SUCCESS, 5, 0.6)
    assert subject.decide(0.6) == [waiting]
    assert waiting.refusal is not None
    assert waiting.refusal.reason is Reason.WOULD_MISS_DEADLINE
    assert sum(subject.snapshot(0.6).in_flight.values()) == 0


def test_who_waits_on_a_prediction_that_proves_far_too_good_hears_so_early() -> None:
    subject = governor(initial_streams=1)
    # Nothing is known yet, so everybody may wait; then a stream turns out to take 2 s, and 4 s are 2 x 2 s.
    running = ticket(subject.ask(ask(), 0.0))
    waiting = [ticket(subject.ask(ask(), 0.0)) for _ in range(5)]
    impatient = ticket(subject.ask(ask(deadline_s=1.0), 0.0))
    running.first_token(0.1)
    subject.observe(0, 1, 0.1)
    subject.observe(1, 1, 0.1)
    subject.observe(5, 1, 0.9)
    given_up = subject.decide(1.0) + subject.decide(2.0)
    assert impatient in given_up
    assert waiting[4] in given_up
    assert waiting[0].state is waiting[1].state is TicketState.WAITING
    for ticket_ in given_up:
        assert ticket_.refusal is not None
        assert ticket_.refusal.reason is Reason.WOULD_MISS_DEADLINE


def test_the_first_burst_is_judged_by_what_the_engine_measured_itself() -> None:
    subject = governor(initial_streams=2)
    subject.describe_model(kv_bytes_per_token=0.0, full_batch_step_s=0.1)
    interactive = ask(service_class=ServiceClass.INTERACTIVE)  # 10 tokens: 1 s each, two at a time.
    for _ in range(2):
        assert ticket(subject.ask(interactive, 0.0)).state is TicketState.ADMITTED
    assert refusal(subject.ask(interactive, 0.0)).reason is Reason.WOULD_MISS_DEADLINE
    subject.describe_model(kv_bytes_per_token=0.0, full_batch_step_s=9.0)
    assert subject.snapshot(0.0).estimates.step_s == 0.1  # It is said at the start, and only then.


def test_a_request_larger_than_the_kv_budget_never_comes_in() -> None:
    subject = governor(gate={"max_kv_bytes": 1000})
    subject.describe_model(kv_bytes_per_token=10.0, full_batch_step_s=0.0)
    assert refusal(subject.ask(ask(prompt_tokens=95, max_tokens=10), 0.0)).reason is Reason.KV_EXHAUSTED


def test_a_request_waits_for_kv_that_others_hold() -> None:
    subject = governor(initial_streams=4, gate={"max_kv_bytes": 1000})
    subject.describe_model(kv_bytes_per_token=10.0, full_batch_step_s=0.0)
    first = ticket(subject.ask(ask(prompt_tokens=60, max_tokens=10), 0.0))
    second = ticket(subject.ask(ask(prompt_tokens=30, max_tokens=10), 0.0))
    assert second.state is TicketState.WAITING
    assert subject.snapshot(0.0).estimates.kv_bytes == 700
    first.prompt_known(50)  # Fewer than was estimated: the other one fits now.
    assert subject.decide(0.1) == [second]


def test_who_would_wait_too_long_for_kv_hears_that_reason() -> None:
    subject = governor(initial_streams=1, gate={"max_kv_bytes": 300})
    subject.describe_model(kv_bytes_per_token=10.0, full_batch_step_s=0.0)
    now_s = taught(subject, first_token_s=0.1, step_s=0.2)
    interactive = ask(service_class=ServiceClass.INTERACTIVE)
    ticket(subject.ask(interactive, now_s))
    assert refusal(subject.ask(interactive, now_s)).reason is Reason.KV_EXHAUSTED


def test_a_draining_server_refuses_newcomers_and_keeps_who_waits() -> None:
    subject = governor(initial_streams=1)
    running, waiting = (ticket(subject.ask(ask(), 0.0)) for _ in range(2))
    subject.drain()
    assert refusal(subject.ask(ask(), 0.1)).reason is Reason.DRAINING
    running.end(Outcome.SUCCESS, 1, 0.2)
    assert subject.decide(0.2) == [waiting]


def test_a_tenant_over_its_streams_waits_first_and_is_refused_second() -> None:
    limits = replace(FREE, max_streams=1)
    tenants = {"named": {"a": limits}}
    subject = governor(initial_streams=8, tenants=tenants, queue={"max_requests": 4})
    first = ticket(subject.ask(ask("a"), 0.0))
    waiting = [ticket(subject.ask(ask("a"), 0.0)) for _ in range(2)]
    assert {w.state for w in waiting} == {TicketState.WAITING}
    assert ticket(subject.ask(ask("b"), 0.0)).state is TicketState.ADMITTED  # Nobody else is held up.
    full = refusal(subject.ask(ask("a"), 0.0))
    assert full.reason is Reason.TENANT_LIMIT
    assert full.quota is not None
    assert full.quota.subject == "tenant:a"
    first.end(Outcome.SUCCESS, 1, 0.5)
    assert subject.decide(0.5) == [waiting[0]]
    assert waiting[1].state is TicketState.WAITING


def test_a_tenant_over_its_rate_starts_when_its_bucket_allows() -> None:
    subject = governor(initial_streams=8, tenants={"named": {"a": replace(FREE, requests_per_s=2.0)}})
    states = [ticket(subject.ask(ask("a"), 0.0)).state for _ in range(3)]
    assert states == [TicketState.ADMITTED] * 2 + [TicketState.WAITING]
    assert subject.decide(0.1) == []
    assert subject.next_deadline() == pytest.approx(0.15)
    assert len(subject.decide(0.5)) == 1


def test_a_tenant_whose_bucket_takes_too_long_hears_how_long() -> None:
    slow = replace(FREE, requests_per_s=0.1)
    subject = governor(initial_streams=8, tenants={"named": {"a": slow}})
    ticket(subject.ask(ask("a"), 0.0))
    late = refusal(subject.ask(ask("a"), 0.0))
    assert late.reason is Reason.TENANT_LIMIT
    assert late.retry_after_s == pytest.approx(10.0)


def test_one_that_waited_for_its_quota_in_vain_hears_that_reason() -> None:
    subject = governor(initial_streams=8, tenants={"named": {"a": replace(FREE, max_streams=1)}})
    ticket(subject.ask(ask("a"), 0.0))
    waiting = ticket(subject.ask(ask("a", ServiceClass.INTERACTIVE), 0.0))
    assert subject.decide(1.0) == [waiting]
    assert waiting.refusal is not None
    assert waiting.refusal.reason is Reason.TENANT_LIMIT
    assert waiting.refusal.quota is not None


def test_the_maximum_class_of_a_tenant_clamps_what_it_asks_for() -> None:
    tenants = {"default": replace(FREE, max_class=ServiceClass.DEFAULT)}
    subject = governor(tenants=tenants)
    given = ticket(subject.ask(ask(service_class=ServiceClass.SYSTEM), 0.0))
    assert given.service_class is ServiceClass.DEFAULT


def test_tenants_that_are_configured_anew_lose_nothing() -> None:
    subject = governor(initial_streams=4)
    given = [ticket(subject.ask(ask("a"), 0.0)) for _ in range(3)]
    options = replace(OPTIONS.tenants, named={"a": replace(FREE, max_streams=1)})
    subject.configure_tenants(options, 0.5)
    assert subject.options.tenants is options
    assert {g.state for g in given} == {TicketState.ADMITTED}
    assert ticket(subject.ask(ask("a"), 0.5)).state is TicketState.WAITING


def test_refused_callers_are_told_different_times_one_slot_apart() -> None:
    subject = governor(initial_streams=1)
    now_s = taught(subject, first_token_s=0.1, step_s=0.1, output_tokens=10)
    interactive = ask(service_class=ServiceClass.INTERACTIVE)
    ticket(subject.ask(interactive, now_s))
    delays = [refusal(subject.ask(interactive, now_s)).retry_after_s for _ in range(5)]
    gaps = [after - before for before, after in pairwise(delays)]
    assert gaps == pytest.approx([1.0] * 4)  # One stream takes 10 tokens of 0.1 s.


def test_first_tokens_move_the_limit_and_times_teach_the_gate() -> None:
    subject = governor(initial_streams=4, limits={"strategy": "pid", "max_streams": 50})
    streams = [ticket(subject.ask(ask(), 0.0)) for _ in range(8)]
    for stream in streams[:4]:
        stream.first_token(0.01)
        stream.first_token(5.0)  # The first one counts.
        stream.end(Outcome.SUCCESS, 10, 0.02)
    subject.decide(0.02)
    for stream in streams[4:]:
        stream.first_token(0.03)
    assert subject.next_deadline() == 1.0
    waiting = [ticket(subject.ask(ask(), 0.03)) for _ in range(3)]
    assert waiting[0].state is TicketState.WAITING
    subject.decide(1.0)
    snapshot = subject.snapshot(1.0)
    assert snapshot.limit.limit > 4
    assert snapshot.limit.reason is LimitReason.RAISED
    assert snapshot.limit.ttft_load == pytest.approx(0.02)
    assert snapshot.estimates.first_token_s == pytest.approx(0.01)


def test_a_stream_dropped_before_its_first_token_counts_against_the_limit() -> None:
    subject = governor(initial_streams=10, limits={"strategy": "pid"})
    for dropped in [ticket(subject.ask(ask(), 0.0)) for _ in range(10)]:
        dropped.end(Outcome.DROPPED, 0, 0.5)
    subject.decide(1.0)
    assert subject.snapshot(1.0).limit.reason is LimitReason.LOWERED_DROPS


def test_the_snapshot_counts() -> None:
    subject = governor(initial_streams=1, queue={"max_requests": 2})
    ticket(subject.ask(ask("a"), 0.0))
    ticket(subject.ask(ask("b", ServiceClass.BULK), 0.0))
    ticket(subject.ask(ask("c"), 0.0))
    subject.ask(ask("d"), 0.0)
    shown = subject.snapshot(0.0)
    assert shown.in_flight[ServiceClass.DEFAULT] == 1
    assert (shown.queued[ServiceClass.BULK], shown.queued[ServiceClass.DEFAULT]) == (1, 1)
    assert (shown.admitted, shown.refused, shown.queued_tokens) == (1, {Reason.QUEUE_FULL: 1}, 40)
    assert {t.name: t.refused for t in shown.tenants} == {"a": 0, "b": 0, "c": 0, "d": 1}
    assert (shown.estimates.prefill_tokens_per_s, shown.estimates.drain_s) == (None, 0.0)


def test_a_tenants_own_quota_delays_nobody_else() -> None:
    slow = replace(FREE, requests_per_s=0.05)
    subject = governor(initial_streams=1, tenants={"named": {"slow": slow}})
    now_s = taught(subject, first_token_s=0.1, step_s=0.1, output_tokens=10)
    interactive = ask(service_class=ServiceClass.INTERACTIVE)
    ticket(subject.ask(ask("slow"), now_s))
    own = refusal(subject.ask(ask("slow"), now_s))
    assert own.reason is Reason.TENANT_LIMIT
    assert own.retry_after_s == pytest.approx(20.0)
    assert refusal(subject.ask(interactive, now_s)).retry_after_s < 2.0


@pytest.mark.parametrize("interrupted", [False, True])
def test_nothing_is_learned_from_the_times_of_a_stream_that_lost_its_worker(interrupted: bool) -> None:
    subject = governor(initial_streams=4)
    before = subject.snapshot(0.0)
    for _ in range(20):
        stream = ticket(subject.ask(ask(), 0.0))
        stream.interrupted = interrupted
        stream.first_token(50.0)
        stream.end(Outcome.SUCCESS, 10, 90.0)
    after = subject.snapshot(0.0)
    assert (after.estimates == before.estimates) == interrupted
    assert after.in_flight == before.in_flight
