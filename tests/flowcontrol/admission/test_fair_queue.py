"""What the order of the queue is for: shares, ageing, reserves, bounds."""

import gc
import weakref

import pytest

from flowcontrol.admission.ask import ServiceClass
from flowcontrol.admission.fair_queue import Ahead
from tests.flowcontrol.admission.queues import make_entry, make_queue, make_tenant, pop, push

BULK, DEFAULT, INTERACTIVE, SYSTEM = ServiceClass


def test_higher_classes_go_first() -> None:
    queue = make_queue()
    tenant = make_tenant()
    entries = {c: make_entry(tenant, c) for c in ServiceClass}
    push(queue, *entries.values())
    assert [pop(queue) for _ in range(4)] == [entries[c] for c in (SYSTEM, INTERACTIVE, DEFAULT, BULK)]


def test_bulk_is_not_starved_by_endless_interactive_requests() -> None:
    """One slot a second, one interactive request a second: bulk moves only by ageing."""
    queue = make_queue(ageing_s=10)
    bulk, interactive = make_tenant("bulk"), make_tenant("interactive")
    waiting = make_entry(bulk, BULK)
    push(queue, waiting, *(make_entry(interactive, INTERACTIVE) for _ in range(3)))
    for now_s in range(1, 60):
        queue.push(make_entry(interactive, INTERACTIVE, since_s=now_s))
        if pop(queue, now_s) is waiting:
            break
    # Level with interactive ones after twice the time, above those that are younger than ten seconds.
    assert now_s == 20


def test_ageing_raises_one_class_at_a_time_and_keeps_the_order_of_arrival() -> None:
    queue = make_queue(ageing_s=10)
    tenant = make_tenant()
    bulk = make_entry(tenant, BULK, since_s=0)
    first, second = make_entry(tenant, since_s=5), make_entry(tenant, since_s=9)
    push(queue, bulk, first, second)
    assert queue.order(9, limit=1, in_flight={}) == [first, second, bulk]
    assert queue.order(10, limit=1, in_flight={}) == [bulk, first, second]
    assert queue.order(15, limit=1, in_flight={}) == [first, bulk, second]
    # What a request asked for stays what is counted.
    assert queue.queued() == {BULK: 1, DEFAULT: 2, INTERACTIVE: 0, SYSTEM: 0}
    assert queue.order(1000, limit=1, in_flight={}) == [bulk, first, second]


@pytest.mark.parametrize(
    ("in_flight", "first"),
    [
        ({}, DEFAULT),
        ({DEFAULT: 2}, DEFAULT),
        ({DEFAULT: 3}, BULK),
        ({DEFAULT: 3, BULK: 1}, INTERACTIVE),
        ({BULK: 1}, DEFAULT),
        ({DEFAULT: 8, BULK: 2}, INTERACTIVE),
    ],
)
def test_a_class_below_its_reserved_share_goes_first(
    in_flight: dict[ServiceClass, int], first: ServiceClass
) -> None:
    """Of a limit of ten."""
    queue = make_queue(reserved={DEFAULT: 0.25, BULK: 0.1, SYSTEM: 0})
    tenant = make_tenant()
    push(queue, *(make_entry(tenant, c) for c in (INTERACTIVE, DEFAULT, BULK)))
    entry = pop(queue, in_flight=in_flight)
    assert entry is not None
    assert entry.service_class == first


def test_a_reserved_share_keeps_no_slot_empty() -> None:
    queue = make_queue(reserved={BULK: 0.5})
    bulk, other = make_tenant(), make_tenant()
    waiting = make_entry(bulk, BULK)
    entries = [make_entry(other) for _ in range(2)]
    push(queue, waiting, *entries)
    assert [pop(queue, held_back=(bulk,)) for _ in range(2)] == entries


def test_the_order_counts_who_would_have_started_towards_the_shares() -> None:
    queue = make_queue(reserved={BULK: 0.2})
    tenant = make_tenant()
    push(queue, *(make_entry(tenant, c) for c in (DEFAULT, BULK) for _ in range(3)))
    order = queue.order(0, limit=10, in_flight={BULK: 1})
    assert [entry.service_class for entry in order] == [BULK, DEFAULT, DEFAULT, DEFAULT, BULK, BULK]


@pytest.mark.parametrize(("max_requests", "max_tokens"), [(8, 10**6), (1000, 800)])
def test_while_more_than_half_full_a_tenants_newest_goes_first(max_requests: int, max_tokens: int) -> None:
    queue = make_queue(max_requests=max_requests, max_tokens=max_tokens, newest_first=True)
    tenants = make_tenant("a"), make_tenant("b")
    entries = [make_entry(tenant) for _ in range(3) for tenant in tenants]
    push(queue, *entries)
    expected = [entries[i] for i in (5, 4, 0, 1, 2, 3)]
    assert queue.order(0, limit=1, in_flight={}) == expected
    assert [pop(queue) for _ in range(6)] == expected


def test_the_newest_go_first_only_when_that_is_chosen() -> None:
    queue = make_queue(max_requests=4)
    tenant = make_tenant()
    entries = [make_entry(tenant) for _ in range(4)]
    push(queue, *entries)
    assert [pop(queue) for _ in range(4)] == entries


def test_a_burst_of_two_hundred_stays_within_both_bounds() -> None:
    queue = make_queue(max_requests=100, max_tokens=6000)
    refused = 0
    for i in range(200):
        tenant = make_tenant(f"t{i}")
        entry = make_entry(tenant, output_tokens=i % 100)
        if queue.full_for(tenant, entry.tokens):
            refused += 1
        else:
            queue.push(entry)
    assert len(queue) == 200 - refused
    assert len(queue) <= 100
    assert 5900 <= queue.tokens <= 6000


def test_one_tenant_never_fills_the_queue() -> None:
    queue = make_queue(max_requests=100)
    greedy, other = make_tenant("greedy"), make_tenant("other")
    while not queue.full_for(greedy, 100):
        queue.push(make_entry(greedy))
    assert greedy.queued == 50
    assert queue.full_for(greedy, 100) == (
        "50 requests of this tenant wait, as many as one may have of what is free"
    )
    while not queue.full_for(other, 100):
        queue.push(make_entry(other))
    assert other.queued == 25
    # And one of each further tenant, as long as there is any room.
    for i in range(25):
        tenant = make_tenant(f"t{i}")
        assert queue.full_for(tenant, 100) == ""
        queue.push(make_entry(tenant))
    assert queue.full_for(make_tenant(), 100) == "100 requests wait, as many as may"


def test_one_tenant_never_fills_the_queue_with_tokens() -> None:
    queue = make_queue(max_tokens=1000)
    greedy = make_tenant()
    assert queue.full_for(greedy, 900) == ""
    push(queue, *(make_entry(greedy) for _ in range(3)))
    assert queue.full_for(greedy, 400) == ""
    assert queue.full_for(greedy, 401) == "300 tokens of this tenant wait, and 700 more fit"
    other = make_tenant()
    assert queue.full_for(other, 700) == ""
    assert queue.full_for(other, 701) == "300 tokens wait, and 701 more would be over 1000"


def test_nothing_waits_in_a_queue_without_places() -> None:
    assert make_queue(max_requests=0).full_for(make_tenant(), 1) == "0 requests wait, as many as may"


def test_an_entry_leaves_at_its_expiry_or_deadline_whichever_comes_first() -> None:
    queue = make_queue()
    tenant = make_tenant()
    first = make_entry(tenant, expires_s=20)
    second = make_entry(tenant, BULK, expires_s=30, deadline_s=10)
    third = make_entry(tenant, expires_s=15, deadline_s=40)
    push(queue, first, second, third, make_entry(tenant, expires_s=50))
    assert queue.next_deadline() == 10
    assert queue.expired(9.9) == []
    assert queue.expired(10) == [second]
    assert queue.next_deadline() == 15
    # The oldest first, not the first to expire.
    assert queue.expired(20) == [first, third]
    assert (len(queue), tenant.queued, queue.tokens) == (1, 1, 100)


def test_who_has_left_expires_no_more() -> None:
    queue = make_queue()
    tenant = make_tenant()
    removed, popped = make_entry(tenant, expires_s=1), make_entry(tenant, expires_s=2)
    push(queue, removed, popped)
    queue.remove(removed)
    assert pop(queue) is popped
    assert queue.next_deadline() is None
    assert queue.expired(10) == []


def test_removing_twice_counts_once() -> None:
    queue = make_queue()
    tenant = make_tenant()
    entry, other = make_entry(tenant), make_entry(tenant)
    push(queue, entry, other)
    for _ in range(2):
        queue.remove(entry)
        assert (len(queue), queue.tokens, tenant.queued, tenant.queued_tokens) == (1, 100, 1, 100)
    assert pop(queue) is other
    # One that left may wait again.
    queue.push(entry)
    assert pop(queue) is entry


def test_pushing_an_entry_that_waits_is_refused_and_changes_nothing() -> None:
    queue = make_queue()
    tenant = make_tenant()
    entry = make_entry(tenant)
    queue.push(entry)
    with pytest.raises(ValueError, match="the entry is in the queue already"):
        queue.push(entry)
    assert (len(queue), queue.tokens, tenant.queued) == (1, 100, 1)


def test_counts_stay_exact_when_an_estimate_changes_while_its_entry_waits() -> None:
    queue = make_queue()
    tenant = make_tenant()
    entry = make_entry(tenant)
    queue.push(entry)
    entry.output_tokens = 1000
    assert pop(queue) is entry
    assert (queue.tokens, tenant.queued_tokens, tenant.virtual_tokens) == (0, 0, 100)


def test_those_that_have_left_do_not_stay_in_memory() -> None:
    queue = make_queue(ageing_s=3600)
    tenant = make_tenant()
    references = []
    for _ in range(1000):
        entry = make_entry(tenant, expires_s=3600)
        references.append(weakref.ref(entry))
        queue.push(entry)
        queue.remove(entry)
    del entry
    gc.collect()
    assert sum(reference() is not None for reference in references) <= 200


def test_nothing_is_ahead_in_an_empty_queue() -> None:
    assert make_queue().ahead(make_tenant(), DEFAULT, 0) == Ahead(0, 0, 0)


def test_higher_classes_are_ahead_and_lower_ones_are_not() -> None:
    queue = make_queue(ageing_s=10)
    tenant = make_tenant()
    push(
        queue,
        make_entry(make_tenant(), SYSTEM, prompt_tokens=1, output_tokens=2),
        make_entry(make_tenant(), INTERACTIVE, prompt_tokens=10, output_tokens=20),
        make_entry(make_tenant(), BULK, prompt_tokens=100, output_tokens=200),
    )
    assert queue.ahead(tenant, SYSTEM, 0) == Ahead(0, 0, 0)
    assert queue.ahead(tenant, INTERACTIVE, 0) == Ahead(1, 1, 2)
    assert queue.ahead(tenant, DEFAULT, 0) == Ahead(2, 11, 22)
    # By then the bulk request is an interactive one, and the interactive one is in the highest class.
    assert queue.ahead(tenant, DEFAULT, 20) == Ahead(3, 111, 222)


def test_of_other_tenants_as_much_is_ahead_as_keeps_the_shares() -> None:
    queue = make_queue()
    own, equal, heavy, small = make_tenant(), make_tenant(), make_tenant(weight=2), make_tenant()
    push(queue, *(make_entry(own, prompt_tokens=40, output_tokens=60) for _ in range(2)))
    for other in (equal, heavy):
        push(queue, *(make_entry(other, prompt_tokens=10, output_tokens=40) for _ in range(10)))
    queue.push(make_entry(small, prompt_tokens=10, output_tokens=20))
    # Own 200 tokens, 200 of its equal, 400 of the one with twice the weight, the 30 that the small one has.
    ahead = queue.ahead(own, DEFAULT, 0)
    assert ahead.requests == 2 + 4 + 8 + 1
    assert ahead.prompt_tokens == pytest.approx(80 + 40 + 80 + 10)
    assert ahead.output_tokens == pytest.approx(120 + 160 + 320 + 20)
    # Who has nothing waiting starts level with the first of the others.
    assert queue.ahead(make_tenant(), DEFAULT, 0) == Ahead(0, 0, 0)


def test_work_ahead_may_be_a_request_without_tokens() -> None:
    queue = make_queue()
    queue.push(make_entry(make_tenant(), prompt_tokens=0, output_tokens=0))
    assert queue.ahead(make_tenant(), DEFAULT, 0) == Ahead(0, 0, 0)


def test_asking_for_order_and_work_ahead_changes_nothing() -> None:
    queue = make_queue()
    tenants = make_tenant("a"), make_tenant("b")
    entries = [make_entry(tenant) for tenant in tenants for _ in range(3)]
    push(queue, *entries)
    expected = [entries[i] for i in (0, 3, 1, 4, 2, 5)]
    for _ in range(2):
        assert queue.order(0, limit=1, in_flight={}) == expected
        queue.ahead(tenants[0], DEFAULT, 0)
    assert [tenant.virtual_tokens for tenant in tenants] == [0, 0]
    assert [pop(queue) for _ in range(6)] == expected
