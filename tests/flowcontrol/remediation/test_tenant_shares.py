"""How much more than usual a tenant asks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcontrol.remediation.signals import TenantSignal
from flowcontrol.remediation.tenant_shares import WEIGHT, TenantShares


def tenants(**shares: float) -> tuple[TenantSignal, ...]:
    return tuple(TenantSignal(name, share, False) for name, share in shares.items())


def seen(*intervals: tuple[TenantSignal, ...]) -> TenantShares:
    shares = TenantShares()
    for each in intervals:
        shares.observe(each)
    return shares


def growth(shares: TenantShares, share: float) -> float:
    return shares.growth(TenantSignal("a", share, False))


def test_growth_is_against_the_others() -> None:
    shares = seen(*[tenants(a=0.5, b=0.5)] * 3)
    assert growth(shares, 0.5) == pytest.approx(1)
    assert growth(shares, 0.75) == pytest.approx(3)
    assert growth(shares, 1.0) > 1e6


def test_an_interval_without_demand_says_nothing() -> None:
    assert growth(seen(tenants(a=0.5, b=0.5), (), tenants(a=0.0)), 0.5) == pytest.approx(1)


def test_who_is_not_known_asked_for_nothing() -> None:
    assert growth(seen(tenants(b=1.0)), 0.5) == pytest.approx(99)


def test_who_always_asks_for_nearly_all_can_flood_the_others() -> None:
    shares = seen(*[tenants(a=0.99, b=0.01)] * 3)
    assert growth(shares, 0.8) == pytest.approx(1)
    assert growth(shares, 0.9) > 2


def test_the_mean_forgets() -> None:
    long_ago = [tenants(a=0.2, b=0.8)] * 100
    now = [tenants(a=0.6, b=0.4)] * int(5 / WEIGHT)
    assert growth(seen(*long_ago, *now), 0.6) == pytest.approx(1, rel=0.02)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=300, unique=True))
def test_memory_is_bounded(names: list[int]) -> None:
    shares = TenantShares()
    for name in names:
        shares.observe((TenantSignal(str(name), 1.0, False),))
    known = [each for each in names if shares.growth(TenantSignal(str(each), 0.5, False)) < 99]
    assert str(names[-1]) in map(str, known)
    assert len(known) <= 100
