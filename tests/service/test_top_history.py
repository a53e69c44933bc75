"""What `penstock top` remembers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.top.history import History, Sample
from tests.service.top_statuses import add_guard, status


def test_rates_come_from_differences_of_counters() -> None:
    history = History()
    history.add(status(10.0, tokens=1000, steps=100, refused={"QUEUE_FULL": 5}))
    assert history.latest.tokens_per_s is None
    assert history.refused_per_s == {}
    history.add(status(12.0, tokens=1600, steps=150, refused={"QUEUE_FULL": 6, "TENANT_LIMIT": 4}))
    assert history.latest.tokens_per_s == 300
    assert history.refused_per_s == {"TENANT_LIMIT": 2.0, "QUEUE_FULL": 0.5}
    assert history.latest.refused_per_s == 2.5
    rates = history.workers["tiny", 0]
    assert rates.tokens_per_s == 300
    assert rates.step_ms == pytest.approx(24)
    assert rates.busy == pytest.approx(0.6)
    assert history.interval_s == 2.0


def test_a_rate_is_of_the_last_seconds_only() -> None:
    history = History()
    for second, tokens in enumerate((0, 1000, 1000, 1000, 1000, 1000)):
        history.add(status(float(second), tokens=tokens))
    assert history.latest.tokens_per_s == 0


def test_frequent_samples_are_not_torn_by_heartbeats() -> None:
    """Counters of a worker arrive four times a second; samples taken more often must not show that."""
    history = History()
    for tick in range(60):
        history.add(status(tick / 10, tokens=tick // 5 * 50))
    assert history.latest.tokens_per_s == pytest.approx(100, rel=0.2)


def test_a_worker_that_started_again_counts_from_0() -> None:
    history = History()
    history.add(status(10.0, tokens=1000, steps=100, pid=1))
    history.add(status(12.0, tokens=100, steps=10, pid=2))
    assert history.latest.tokens_per_s == 50
    assert history.workers["tiny", 0].step_ms == pytest.approx(24)


def test_a_server_that_started_again_has_no_rates_at_first() -> None:
    history = History()
    history.add(status(1000.0, tokens=5000, refused={"QUEUE_FULL": 50}))
    history.add(status(1.0, tokens=10, refused={"QUEUE_FULL": 1}))
    assert history.latest.tokens_per_s is None
    assert history.refused_per_s == {}
    history.add(status(2.0, tokens=30, refused={"QUEUE_FULL": 1}))
    assert history.latest.tokens_per_s == 20


def test_nothing_heard_leaves_a_gap_and_the_latest_values() -> None:
    history = History()
    history.gap()
    assert not history.samples
    history.add(status(1.0))
    history.gap()
    history.gap()
    assert history.samples == (history.latest, Sample())
    assert history.latest.limit == 8
    history.add(status(60.0, tokens=10_000))
    assert history.latest.tokens_per_s is None


def test_only_so_many_samples_are_kept() -> None:
    history = History(samples=3)
    for second in range(5):
        history.add(status(float(second)))
    assert len(history.samples) == 3


def test_objectives_are_remembered_by_name() -> None:
    history, now = History(), status()
    add_guard(now)
    history.add(now)
    assert history.latest.objectives == {"ttft_p50": 210, "ttft_p95": 6200}


@given(
    st.lists(
        st.tuples(
            st.floats(allow_nan=True, allow_infinity=True),
            st.integers(0, 2**64 - 1),
            st.integers(0, 2**64 - 1),
            st.integers(0, 3),
        ),
        max_size=20,
    )
)
def test_rates_are_never_below_0_nor_more_than_is_there(
    heard: list[tuple[float, int, int, int]],
) -> None:
    history = History()
    for uptime_s, tokens, steps, pid in heard:
        history.add(status(uptime_s, tokens=tokens, steps=steps, pid=pid, refused={"QUEUE_FULL": tokens}))
        for rates in history.workers.values():
            assert rates.tokens_per_s is None or rates.tokens_per_s >= 0
            assert rates.busy is None or 0 <= rates.busy <= 1
        assert all(rate > 0 for rate in history.refused_per_s.values())
