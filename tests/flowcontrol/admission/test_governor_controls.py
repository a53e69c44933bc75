"""What a guard does to admission: holds the limit down, fixes it, throttles a tenant, and takes it back."""

from dataclasses import replace

import pytest

from flowcontrol.admission.ask import Outcome, Quota, Refusal
from flowcontrol.admission.governor import Governor
from flowcontrol.admission.snapshot import TenantSnapshot
from flowcontrol.admission.tenants import OTHERS
from flowcontrol.admission.ticket import Ticket, TicketState
from flowcontrol.limits.contract import LimitReason, StrategyName
from flowcontrol.reasons import Reason
from tests.flowcontrol.admission.governors import FREE, OPTIONS, ask, governor, governor_options, ticket


def admitted(subject: Governor, count: int, tenant: str = "") -> list[Ticket]:
    """So many tickets, all of them admitted."""
    given = [ticket(subject.ask(ask(tenant), 0.0)) for _ in range(count)]
    assert {each.state for each in given} <= {TicketState.ADMITTED}
    return given


def of(subject: Governor, tenant: str) -> TenantSnapshot:
    return next(each for each in subject.snapshot(0.0).tenants if each.name == tenant)


def test_a_cap_lets_fewer_in_and_ends_nobody() -> None:
    subject = governor(initial_streams=4)
    running = admitted(subject, 4)
    subject.cap_limit(2, 0.0)
    shown = subject.snapshot(0.0).limit
    assert (shown.limit, shown.cap, shown.reason, shown.last_good) == (2, 2, LimitReason.CAPPED, 4)
    assert (shown.changes, shown.raised, shown.lowered) == ({LimitReason.CAPPED: 1}, 0, 1)
    waiting = ticket(subject.ask(ask(), 0.0))
    for each in running[:2]:
        each.end(Outcome.SUCCESS, 1, 0.1)
        assert subject.decide(0.1) == []
    running[2].end(Outcome.SUCCESS, 1, 0.2)
    assert subject.decide(0.2) == [waiting]
    more = [ticket(subject.ask(ask(), 0.2)) for _ in range(2)]
    assert subject.decide(0.3) == []
    subject.cap_limit(None, 0.3)
    assert subject.decide(0.3) == more
    assert (subject.snapshot(0.3).limit.limit, subject.snapshot(0.3).limit.cap) == (4, None)


LIMITS = replace(OPTIONS.limits, strategy=StrategyName.PID)


def fixed() -> Governor:
    """Fixed by the guard at 6 streams, after it was lowered to 3."""
    subject = governor(initial_streams=6, limits={"strategy": StrategyName.PID})
    subject.cap_limit(3, 0.0)
    subject.cap_limit(None, 0.0)
    assert subject.fix_limit(1.0) is True
    return subject


def test_fixing_goes_to_the_last_good_limit_and_can_be_put_back() -> None:
    subject = fixed()
    shown = subject.snapshot(1.0).limit
    assert (shown.strategy, shown.limit, shown.fixed) == (StrategyName.FIXED, 6, True)
    assert shown.reason is LimitReason.CAPPED
    assert subject.options.limits == replace(LIMITS, strategy=StrategyName.FIXED)
    admitted(subject, 6)
    assert subject.fix_limit(1.5) is False
    assert subject.unfix_limit(2.0) is True
    shown = subject.snapshot(2.0).limit
    assert (shown.strategy, shown.limit, shown.fixed) == (StrategyName.PID, 6, False)
    assert shown.reason is LimitReason.RECOVERED
    assert subject.options.limits == LIMITS
    assert subject.unfix_limit(2.5) is False


@pytest.mark.parametrize("strategy", [StrategyName.GRADIENT, StrategyName.FIXED])
def test_an_operator_who_changes_limits_meanwhile_has_the_last_word(strategy: StrategyName) -> None:
    subject = fixed()
    chosen = replace(LIMITS, strategy=strategy, max_streams=5)
    subject.configure(chosen, target_ttft_s=2.0, target_latency_s=0.1, now_s=1.5)
    assert subject.snapshot(1.5).limit.fixed is False
    assert subject.unfix_limit(2.0) is False
    assert subject.options.limits == chosen
    assert subject.options.gate.target_ttft_s == 2.0
    assert subject.snapshot(2.0).limit.limit == 5


def test_tenants_that_are_read_again_are_no_such_change() -> None:
    subject = fixed()
    subject.configure_tenants(governor_options(tenants={"named": {"a": FREE}}).tenants, 1.5)
    assert subject.unfix_limit(2.0) is True
    assert subject.options.limits == LIMITS
    assert "a" in subject.options.tenants.named


def test_a_limit_that_is_fixed_already_is_left_alone() -> None:
    subject = governor(initial_streams=6)
    assert subject.fix_limit(0.0) is False
    assert subject.snapshot(0.0).limit.fixed is False
    assert subject.unfix_limit(0.0) is False
    assert subject.options.limits == OPTIONS.limits


def test_a_cap_holds_a_fixed_limit_down_too() -> None:
    subject = fixed()
    subject.cap_limit(2, 1.5)
    assert subject.snapshot(1.5).limit.limit == 2
    subject.cap_limit(None, 2.0)
    assert subject.snapshot(2.0).limit.limit == 6
    subject.cap_limit(2, 2.5)
    assert subject.unfix_limit(3.0) is True
    assert subject.snapshot(3.0).limit.limit == 2


def test_a_throttled_tenant_waits_first_and_is_refused_second_and_holds_up_nobody() -> None:
    subject = governor(initial_streams=8, queue={"max_requests": 4})
    running = admitted(subject, 3, "flood")
    subject.throttle("flood", 0.25)
    assert (of(subject, "flood").throttle, of(subject, "flood").in_flight) == (0.25, 3)
    waiting = [ticket(subject.ask(ask("flood"), 0.0)) for _ in range(2)]
    assert {each.state for each in waiting} == {TicketState.WAITING}
    assert of(subject, "flood").queued == 2
    admitted(subject, 5, "other")
    refused = subject.ask(ask("flood"), 0.0)
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.TENANT_LIMIT
    assert refused.quota == Quota(
        "tenant:flood", "2 streams in flight, as many as it may have while it is throttled"
    )
    running[0].end(Outcome.SUCCESS, 1, 0.1)
    assert subject.decide(0.1) == []
    running[1].end(Outcome.SUCCESS, 1, 0.2)
    assert subject.decide(0.2) == waiting[:1]


def test_let_go_its_requests_start_at_once() -> None:
    subject = governor(initial_streams=8)
    subject.throttle("flood", 0.01)
    admitted(subject, 1, "flood")  # One always.
    waiting = [ticket(subject.ask(ask("flood"), 0.0)) for _ in range(3)]
    assert subject.decide(0.1) == []
    subject.throttle("flood", None)
    assert subject.decide(0.1) == waiting
    assert of(subject, "flood").throttle is None
    subject.throttle("flood", None)
    subject.throttle("never seen", None)


def test_the_share_is_of_the_limit_in_force() -> None:
    subject = governor(initial_streams=8)
    subject.throttle("flood", 0.5)
    running = admitted(subject, 4, "flood")
    waiting = ticket(subject.ask(ask("flood"), 0.0))
    subject.cap_limit(4, 0.0)
    for each in running[:2]:
        each.end(Outcome.SUCCESS, 1, 0.1)
        assert subject.decide(0.1) == []
    subject.cap_limit(None, 0.1)
    assert subject.decide(0.1) == [waiting]


def test_the_stricter_of_throttle_and_quota_counts_and_both_outlive_a_reload() -> None:
    strict, loose = replace(FREE, max_streams=1), replace(FREE, max_streams=7)
    subject = governor(initial_streams=8, tenants={"named": {"a": strict}})
    subject.throttle("a", 0.25)
    admitted(subject, 1, "a")
    assert ticket(subject.ask(ask("a"), 0.0)).state is TicketState.WAITING
    subject.configure_tenants(governor_options(tenants={"named": {"a": loose}}).tenants, 0.0)
    assert len(subject.decide(0.1)) == 1
    assert of(subject, "a").throttle == 0.25
    assert ticket(subject.ask(ask("a"), 0.0)).state is TicketState.WAITING


def test_a_tenant_is_throttled_whenever_it_comes_even_as_one_of_many() -> None:
    subject = governor(initial_streams=8, tenants={"max_tenants": 1, "idle_s": 0.0})
    subject.throttle("a", 0.25)
    subject.throttle(OTHERS, 0.125)
    first = admitted(subject, 2, "a")
    assert ticket(subject.ask(ask("b"), 0.0)).state is TicketState.ADMITTED
    assert ticket(subject.ask(ask("c"), 0.0)).state is TicketState.WAITING
    assert of(subject, OTHERS).throttle == 0.125
    for each in first:
        each.end(Outcome.SUCCESS, 1, 0.0)
    subject.ask(ask("d"), 1.0)
    assert {each.name for each in subject.snapshot(1.0).tenants} == {"d", OTHERS}
    subject.throttle(OTHERS, None)
    assert of(subject, OTHERS).throttle is None


@pytest.mark.parametrize("share", [0.0, -0.5, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    subject = governor()
    with pytest.raises(ValueError, match=f"share must be above 0 and at most 1, got {share}"):
        subject.throttle("a", share)


def test_what_a_tenant_asks_for_is_counted_whatever_becomes_of_it() -> None:
    subject = governor(initial_streams=1, queue={"max_requests": 1})
    first = ticket(subject.ask(ask("a", prompt_tokens=30, max_tokens=12), 0.0))
    subject.ask(ask("a", prompt_tokens=100, max_tokens=5), 0.0)
    assert isinstance(subject.ask(ask("a", prompt_tokens=1000, max_tokens=1), 0.0), Refusal)
    assert of(subject, "a").asked_tokens == 42 + 105 + 1001
    first.end(Outcome.SUCCESS, 3, 1.0)
    assert of(subject, "a").asked_tokens == 42 + 105 + 1001
