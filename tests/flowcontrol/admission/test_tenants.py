"""Tenants: what each may have, and who has a place in the table."""

import math
from collections.abc import Mapping

import pytest

from flowcontrol.admission.ask import Quota, ServiceClass
from flowcontrol.admission.snapshot import TenantSnapshot
from flowcontrol.admission.tenants import OTHERS, Tenant, TenantLimits, TenantOptions, TenantTable, Throttle


def limits(
    *, weight: float = 1, max_streams: int = 0, requests_per_s: float = 0, tokens_per_s: float = 0
) -> TenantLimits:
    return TenantLimits(weight, max_streams, requests_per_s, tokens_per_s, ServiceClass.SYSTEM)


def options(
    default: TenantLimits | None = None,
    *,
    named: Mapping[str, TenantLimits] | None = None,
    max_tenants: int = 3,
    burst_s: float = 2,
) -> TenantOptions:
    return TenantOptions(default or limits(), named or {}, max_tenants, idle_s=10, burst_s=burst_s)


def tenant_with(own: TenantLimits, *, burst_s: float = 2) -> Tenant:
    return TenantTable(options(own, burst_s=burst_s), 0).enter("acme", 0)


def names(table: TenantTable) -> list[str]:
    return [tenant.name for tenant in table.snapshot()]


def test_a_tenant_without_limits_is_always_ready() -> None:
    tenant = tenant_with(limits())
    for _ in range(100):
        tenant.start(10**6, 0)
    assert tenant.ready_at(10**6, 0) <= 0
    assert tenant.quota(10**6, 0) is None


def test_streams_in_flight_are_bounded_until_one_ends() -> None:
    tenant = tenant_with(limits(max_streams=2))
    tenant.start(1, 0)
    assert tenant.ready_at(1, 0) <= 0
    tenant.start(1, 0)
    assert tenant.ready_at(1, 0) == math.inf
    assert tenant.quota(1, 0) == Quota("tenant:acme", "2 streams in flight, as many as it may have")
    tenant.end(0, 1)
    assert tenant.ready_at(1, 1) <= 1
    assert tenant.quota(1, 1) is None


def test_requests_are_bounded_by_their_rate_over_the_burst_time() -> None:
    tenant = tenant_with(limits(requests_per_s=4), burst_s=0.5)
    for _ in range(2):
        assert tenant.ready_at(1, 0) <= 0
        tenant.start(1, 0)
    assert tenant.ready_at(1, 0) == 0.25
    assert tenant.quota(1, 0) == Quota("tenant:acme", "more than 4 requests per second")
    assert tenant.quota(1, 0.25) is None


def test_a_rate_below_one_request_in_the_burst_time_lets_one_through() -> None:
    tenant = tenant_with(limits(requests_per_s=0.1), burst_s=1)
    assert tenant.ready_at(1, 0) <= 0
    tenant.start(1, 0)
    assert tenant.ready_at(1, 0) == 10


def test_tokens_are_bounded_by_their_rate_over_the_burst_time() -> None:
    tenant = tenant_with(limits(tokens_per_s=100))
    assert tenant.ready_at(200, 0) <= 0
    tenant.start(150, 0)
    assert tenant.ready_at(50, 0) <= 0
    assert tenant.ready_at(100, 0) == 0.5
    assert tenant.quota(50, 0) is None
    assert tenant.quota(100, 0) == Quota("tenant:acme", "more than 100 tokens per second")


def test_the_later_of_both_rates_counts() -> None:
    tenant = tenant_with(limits(requests_per_s=0.5, tokens_per_s=100))
    tenant.start(300, 0)
    assert tenant.ready_at(100, 0) == 2
    assert tenant.ready_at(200, 0) == 3


@pytest.mark.parametrize(("diff", "ready_s"), [(-100, 0), (100, 2), (0, 1)])
def test_an_end_corrects_what_the_start_charged(diff: int, ready_s: float) -> None:
    tenant = tenant_with(limits(tokens_per_s=100))
    tenant.start(200, 0)
    tenant.end(diff, 0)
    assert tenant.ready_at(100, 0) == ready_s
    assert tenant.tokens == 200 + diff
    assert (tenant.in_flight, tenant.started) == (0, 1)


def test_an_end_without_a_start_is_refused_and_changes_nothing() -> None:
    tenant = tenant_with(limits(tokens_per_s=100))
    with pytest.raises(RuntimeError, match="tenant 'acme' has no stream in flight"):
        tenant.end(100, 0)
    assert (tenant.in_flight, tenant.tokens) == (0, 0)
    assert tenant.ready_at(200, 0) <= 0


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf])
def test_a_weight_that_cannot_work_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight must be finite and above 0"):
        limits(weight=weight)


def test_negative_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="max_streams must not be negative"):
        limits(max_streams=-1)
    with pytest.raises(ValueError, match="rate_per_s and burst must be finite and not negative"):
        tenant_with(limits(tokens_per_s=-1))


def test_a_name_is_one_tenant_with_its_own_limits_or_the_default_ones() -> None:
    table = TenantTable(options(limits(weight=1), named={"gold": limits(weight=3)}), 0)
    gold, plain = table.enter("gold", 0), table.enter("plain", 0)
    assert table.enter("gold", 1) is gold
    assert (gold.limits.weight, plain.limits.weight) == (3, 1)
    assert names(table) == ["gold", "plain"]


def test_when_all_are_busy_further_names_share_one_tenant() -> None:
    table = TenantTable(options(limits(max_streams=1), max_tenants=2), 0)
    running, waiting = table.enter("running", 0), table.enter("waiting", 0)
    running.start(1, 0)
    waiting.queued += 1
    others = table.enter("third", 1000)
    assert others.name == OTHERS
    assert others.limits == limits(max_streams=1)
    assert table.enter("fourth", 1000) is others
    # Who has a place keeps it.
    assert table.enter("running", 1000) is running
    assert table.enter("waiting", 1000) is waiting
    assert names(table) == ["running", "waiting", OTHERS]


def test_the_longest_idle_makes_room_once_it_was_idle_long_enough() -> None:
    table = TenantTable(options(max_tenants=2), 0)
    first = table.enter("first", 0)
    table.enter("second", 1)
    first.start(1, 2)
    first.end(0, 3)
    assert table.enter("third", 10.5).name == OTHERS
    assert table.enter("third", 11).name == "third"
    assert names(table) == ["first", "third", OTHERS]
    # It comes back as a new one, into the place of the first, which was idle since its stream ended.
    assert table.enter("second", 12.5).name == OTHERS
    assert table.enter("second", 13).name == "second"
    assert names(table) == ["second", "third", OTHERS]


def test_asking_again_keeps_a_place() -> None:
    table = TenantTable(options(max_tenants=1), 0)
    table.enter("a", 0)
    table.enter("a", 5)
    assert table.enter("b", 14).name == OTHERS
    assert table.enter("b", 15).name == "b"


def test_names_with_limits_of_their_own_always_have_a_place_and_take_none() -> None:
    table = TenantTable(options(named={"gold": limits(), "silver": limits()}, max_tenants=1), 0)
    table.enter("gold", 0)
    table.enter("plain", 0).start(1, 0)
    assert table.enter("silver", 0).name == "silver"
    # They are not evicted either, however long idle.
    assert table.enter("more", 1000).name == OTHERS
    assert names(table) == ["gold", "plain", "silver", OTHERS]


def test_new_limits_hold_for_tenants_in_the_table_and_nobody_loses_a_stream() -> None:
    table = TenantTable(options(limits(tokens_per_s=100), max_tenants=1), 0)
    tenant = table.enter("acme", 0)
    others = table.enter("third", 0)
    for each in (tenant, others):
        each.start(200, 0)
        each.start(0, 0)
    new = limits(max_streams=1, tokens_per_s=10)
    table.configure(options(new, named={"acme": limits(weight=2, requests_per_s=1)}, max_tenants=1), 1)
    assert (tenant.in_flight, others.in_flight) == (2, 2)
    assert tenant.ready_at(10**6, 1) <= 1
    assert tenant.limits.weight == 2
    assert others.ready_at(1, 1) == math.inf
    others.end(0, 1)
    others.end(0, 1)
    # A hundred were in the bucket, of which the new burst keeps twenty.
    assert others.ready_at(20, 1) <= 1
    others.start(20, 1)
    others.end(0, 1)
    assert others.ready_at(20, 1) == 3


def test_new_rates_of_requests_hold_at_once() -> None:
    table = TenantTable(options(), 0)
    tenant = table.enter("acme", 0)
    table.configure(options(limits(requests_per_s=1), burst_s=1), 0)
    tenant.start(1, 0)
    assert tenant.ready_at(1, 0) == 1


def test_after_fewer_max_tenants_the_table_shrinks_as_tenants_idle() -> None:
    table = TenantTable(options(max_tenants=3), 0)
    for at_s, name in enumerate("abc"):
        table.enter(name, at_s)
    table.configure(options(max_tenants=1), 3)
    assert names(table) == ["a", "b", "c"]
    assert table.enter("d", 50).name == OTHERS
    assert names(table) == ["b", "c", OTHERS]
    assert table.enter("d", 50).name == OTHERS
    assert table.enter("d", 50).name == "d"
    assert names(table) == ["d", OTHERS]


def test_the_snapshot_has_every_number() -> None:
    table = TenantTable(options(named={"gold": limits(weight=3)}), 0)
    gold, plain = table.enter("gold", 0), table.enter("plain", 0)
    gold.start(70, 0)
    gold.start(30, 0)
    gold.end(-5, 1)
    gold.queued = 4
    gold.asked_tokens = 130
    table.throttle("gold", Throttle(0.25, lambda: 8))
    plain.refused += 2
    assert table.snapshot() == (
        TenantSnapshot(
            name="gold",
            named=True,
            weight=3,
            in_flight=1,
            queued=4,
            started=2,
            refused=0,
            tokens=95,
            asked_tokens=130,
            throttle=0.25,
        ),
        TenantSnapshot(
            name="plain",
            named=False,
            weight=1,
            in_flight=0,
            queued=0,
            started=0,
            refused=2,
            tokens=0,
            asked_tokens=0,
            throttle=None,
        ),
    )


def test_virtual_time_counts_tokens_by_weight_and_is_lifted_in_one_class_only() -> None:
    tenant = tenant_with(limits(weight=2))
    tenant.charge(100)
    tenant.lift(ServiceClass.BULK, 80)
    # Never down.
    tenant.lift(ServiceClass.BULK, 60)
    tenant.charge(-20)
    assert tenant.virtual_tokens == 40
    assert tenant.virtual_time(ServiceClass.BULK) == 70
    assert tenant.virtual_time(ServiceClass.DEFAULT) == 40


def test_a_shadow_moves_alone() -> None:
    tenant = tenant_with(limits())
    tenant.lift(ServiceClass.BULK, 10)
    shadow = tenant.shadow()
    shadow.charge(5)
    shadow.lift(ServiceClass.BULK, 50)
    assert shadow.virtual_time(ServiceClass.BULK) == 50
    assert tenant.virtual_time(ServiceClass.BULK) == 10
