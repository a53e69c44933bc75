"""Shares of tenants in the fair queue."""

from collections import Counter

import pytest

from flowcontrol.admission.ask import ServiceClass
from flowcontrol.admission.entry import Entry
from flowcontrol.admission.fair_queue import FairQueue
from flowcontrol.admission.tenants import Tenant
from tests.flowcontrol.admission.queues import make_entry, make_queue, make_tenant, pop, push

BULK, DEFAULT, INTERACTIVE, SYSTEM = ServiceClass


def test_nine_tenants_keep_their_share_beside_one_that_asks_ten_times_as_much() -> None:
    queue = make_queue(max_requests=500)
    tenants = [make_tenant(f"t{i}") for i in range(10)]
    greedy, others = tenants[0], tenants[1:]
    popped: Counter[Tenant] = Counter()
    for _ in range(200):
        for tenant in (*[greedy] * 10, *others):
            if not queue.full_for(tenant, 100):
                queue.push(make_entry(tenant))
        # Half of what the nine ask for, so they are backlogged.
        for _ in range(5):
            entry = pop(queue)
            assert entry is not None
            popped[entry.tenant] += entry.tokens
    fair = sum(popped.values()) / len(tenants)
    assert all(tenant.queued for tenant in tenants)
    assert min(popped[tenant] for tenant in others) >= 0.9 * fair
    # The slots are not left empty for it: nobody had less than all that there was.
    assert sum(popped.values()) == 200 * 5 * 100


def test_shares_are_of_tokens_not_of_requests() -> None:
    queue = make_queue()
    small, large = make_tenant(), make_tenant()
    push(queue, *(make_entry(small, output_tokens=50) for _ in range(200)))
    push(queue, *(make_entry(large, output_tokens=350) for _ in range(200)))
    popped = Counter(entry.tenant for _ in range(100) if (entry := pop(queue)) is not None)
    assert popped == {small: 80, large: 20}


def test_weights_of_three_to_one_give_three_to_one() -> None:
    queue = make_queue()
    heavy, light = make_tenant(weight=3), make_tenant(weight=1)
    push(queue, *(make_entry(tenant) for tenant in (heavy, light) for _ in range(200)))
    popped = Counter(entry.tenant for _ in range(100) if (entry := pop(queue)) is not None)
    assert popped == {heavy: 75, light: 25}


def test_a_tenant_that_comes_late_shares_from_then_on_and_catches_nothing_up() -> None:
    queue = make_queue()
    early, late = make_tenant(), make_tenant()
    push(queue, *(make_entry(early) for _ in range(200)))
    for _ in range(100):
        assert pop(queue) is not None
    push(queue, *(make_entry(late) for _ in range(100)))
    popped = Counter(entry.tenant for _ in range(20) if (entry := pop(queue)) is not None)
    assert popped == {early: 10, late: 10}


def test_what_was_used_while_nobody_waited_is_not_held_against_a_tenant() -> None:
    """Between two of its requests the queue is empty, so there is nobody to compare with."""
    queue = make_queue()
    early, late = make_tenant(), make_tenant()
    for _ in range(100):
        queue.push(make_entry(early))
        assert pop(queue) is not None
    push(queue, *(make_entry(late) for _ in range(20)), *(make_entry(early) for _ in range(20)))
    popped = Counter(entry.tenant for _ in range(20) if (entry := pop(queue)) is not None)
    assert popped == {early: 10, late: 10}


def test_a_starved_request_in_a_lower_class_gives_nobody_an_advantage_in_a_higher_one() -> None:
    queue = make_queue()
    starved, busy, late = make_tenant("starved"), make_tenant("busy"), make_tenant("late")
    push(queue, make_entry(starved, BULK), *(make_entry(busy, INTERACTIVE) for _ in range(200)))
    for _ in range(100):
        assert pop(queue) is not None
    for tenant in (starved, late):
        push(queue, *(make_entry(tenant, INTERACTIVE) for _ in range(50)))
    popped = Counter(entry.tenant for _ in range(30) if (entry := pop(queue)) is not None)
    assert popped == {starved: 10, busy: 10, late: 10}


def test_a_request_in_a_higher_class_costs_no_turns_in_a_lower_one() -> None:
    """What it is lifted by in the class where it is new does not count where it was waiting."""
    queue = make_queue()
    busy, both, bulk = make_tenant("busy"), make_tenant("both"), make_tenant("bulk")
    push(queue, *(make_entry(busy, INTERACTIVE) for _ in range(100)))
    for tenant in (both, bulk):
        push(queue, *(make_entry(tenant, BULK) for _ in range(50)))
    for _ in range(99):
        assert pop(queue) is not None
    push(queue, make_entry(both, INTERACTIVE))
    assert {entry.tenant for _ in range(2) if (entry := pop(queue)) is not None} == {busy, both}
    popped = Counter(entry.tenant for _ in range(20) if (entry := pop(queue)) is not None)
    # Its own request in the higher class counts, and no more than that.
    assert popped[both] >= 9


def test_a_tenant_that_its_quota_holds_back_saves_up_no_turns() -> None:
    queue = make_queue()
    held, free = make_tenant(), make_tenant()
    push(queue, *(make_entry(tenant) for tenant in (held, free) for _ in range(200)))
    for _ in range(100):
        entry = pop(queue, held_back=(held,))
        assert entry is not None
        assert entry.tenant is free
    popped = Counter(entry.tenant for _ in range(20) if (entry := pop(queue)) is not None)
    # It starts at most one turn ahead.
    assert popped == {held: 11, free: 9}


def test_a_tenant_that_is_not_ready_holds_back_only_itself() -> None:
    queue = make_queue()
    tenants = [make_tenant(f"t{i}") for i in range(3)]
    entries = [make_entry(tenant, c) for c in (INTERACTIVE, BULK) for tenant in tenants]
    push(queue, *entries)
    popped = [pop(queue, held_back=(tenants[0], tenants[1])) for _ in range(3)]
    assert popped == [entries[2], entries[5], None]
    assert pop(queue) is entries[0]
    assert len(queue) == 3


def test_only_the_first_of_a_tenant_is_asked_whether_it_is_ready() -> None:
    queue = make_queue()
    tenant = make_tenant()
    entries = [make_entry(tenant) for _ in range(5)]
    push(queue, *entries)
    asked: list[Entry] = []
    assert queue.pop(0, limit=1, in_flight={}, ready=asked.append) is None  # type: ignore[arg-type]
    assert asked == [entries[0]]


def test_what_a_stream_really_used_decides_whose_turn_is_next() -> None:
    queue = make_queue()
    short, long = make_tenant(), make_tenant()
    push(queue, *(make_entry(tenant) for _ in range(20) for tenant in (short, long)))
    popped: Counter[Tenant] = Counter()
    for _ in range(20):
        entry = pop(queue)
        assert entry is not None
        popped[entry.tenant] += 1
        queue.settle(entry.tenant, -75 if entry.tenant is short else 0)
    assert popped == {short: 16, long: 4}


def test_a_correction_counts_at_once() -> None:
    queue = make_queue()
    tenants = [make_tenant(name) for name in "abc"]
    push(queue, *(make_entry(tenant) for _ in range(3) for tenant in tenants))
    for _ in range(4):
        assert pop(queue) is not None
    queue.settle(tenants[2], -90)
    entry = pop(queue)
    assert entry is not None
    assert entry.tenant is tenants[2]


def tenants_with_a_hog(credit_s: float) -> tuple[FairQueue, Tenant, Tenant]:
    """A queue in which one tenant alone was served for ten seconds, and waits for more; and a quiet one."""
    queue, hog, quiet = make_queue(credit_s=credit_s), make_tenant("hog"), make_tenant("quiet")
    push(queue, make_entry(quiet))
    assert pop(queue, 0.0) is not None
    for second in range(10):
        push(queue, make_entry(hog, since_s=second))
        assert pop(queue, second) is not None
    push(queue, *(make_entry(hog, since_s=10) for _ in range(5)))
    return queue, hog, quiet


def test_a_tenant_that_asked_for_less_than_its_share_goes_first_until_it_has_caught_up() -> None:
    queue, hog, quiet = tenants_with_a_hog(credit_s=10)
    push(queue, *(make_entry(quiet, since_s=10) for _ in range(8)))
    order = [entry.tenant for entry in queue.order(10, limit=10, in_flight={})]
    # Both were served within ten seconds: half of what was served is its share.
    assert order[:3] == [quiet] * 3
    assert hog in order[3:6]


def test_without_credit_what_was_not_asked_for_in_time_is_lost() -> None:
    queue, hog, quiet = tenants_with_a_hog(credit_s=0)
    push(queue, *(make_entry(quiet, since_s=10) for _ in range(8)))
    assert {entry.tenant for entry in queue.order(10, limit=10, in_flight={})[:2]} == {hog, quiet}


def test_credit_is_for_what_was_served_lately() -> None:
    queue, hog, quiet = tenants_with_a_hog(credit_s=10)
    push(queue, *(make_entry(quiet, since_s=100) for _ in range(8)))
    assert {entry.tenant for entry in queue.order(100, limit=10, in_flight={})[:2]} == {hog, quiet}


def test_a_tenant_that_others_overtake_has_more_ahead_than_what_waits_now() -> None:
    queue, hog, quiet = make_queue(credit_s=10), make_tenant("hog"), make_tenant("quiet")
    for second in range(8):  # The others got three quarters of what was served.
        push(queue, make_entry(hog if second % 4 == 0 else quiet, since_s=second))
        assert pop(queue, second) is not None
    push(queue, make_entry(hog, since_s=8), make_entry(hog, since_s=8))
    ahead = queue.ahead(hog, DEFAULT, 8)
    assert 6 <= ahead.requests <= 10
    assert ahead.prompt_tokens == ahead.output_tokens == pytest.approx(50 * ahead.requests, rel=0.1)
    assert queue.ahead(quiet, DEFAULT, 8).requests <= 2
    assert queue.ahead(make_tenant("new"), DEFAULT, 8).requests <= 2
