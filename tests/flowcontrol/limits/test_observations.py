"""What is seen under one limit: means and percentiles that forget, and what does not count."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcontrol.limits.contract import Window
from flowcontrol.limits.observations import DROPPED_LOAD, MEMORY, Observations

LIMIT = 20.0


def closed(
    seen: Observations,
    *loads: float,
    latency: float | None = None,
    dropped: int = 0,
    in_flight: int = 15,
    waiting: bool = False,
    limit: float = LIMIT,
) -> Window:
    """One interval. Unless told, the limit holds nobody back in it. At its end all are gone."""
    seen.occupancy(in_flight, waiting=waiting)
    for load in loads:
        seen.sample(load)
    for _ in range(dropped):
        seen.dropped()
    seen.latency(latency)
    seen.occupancy(0, waiting=False)
    return seen.close_interval(limit)


class TestLatency:
    def test_it_is_the_mean_of_the_intervals(self) -> None:
        seen = Observations(5)
        means = [closed(seen, latency=load).latency_load for load in (1.0, 2.0, 6.0, 0.0)]
        assert means == pytest.approx([1.0, 1.5, 3.0, 2.25])

    def test_it_forgets(self) -> None:
        seen = Observations(5)
        for _ in range(10 * MEMORY):
            closed(seen, latency=1.0)
        # As much as after MEMORY intervals, not as little as after all of them.
        assert closed(seen, latency=2.0).latency_load == pytest.approx(1 + 1 / MEMORY)
        for _ in range(4 * MEMORY):
            window = closed(seen, latency=2.0)
        assert window.latency_load == pytest.approx(2.0, abs=0.02)

    def test_not_before_memory_intervals(self) -> None:
        seen = Observations(5)
        for _ in range(MEMORY - 1):
            closed(seen, latency=1.0)
        assert closed(seen, latency=1.0 + MEMORY).latency_load == pytest.approx(2.0)
        assert closed(seen, latency=2.0 + MEMORY).latency_load == pytest.approx(3.0)

    def test_an_interval_without_any_changes_nothing(self) -> None:
        seen = Observations(5)
        assert closed(seen).latency_load is None
        assert closed(seen, latency=1.0).latency_load == 1.0
        assert closed(seen).latency_load == 1.0
        assert closed(seen, latency=2.0).latency_load == 1.5

    def test_the_last_call_of_an_interval_counts(self) -> None:
        seen = Observations(5)
        seen.latency(9.0)
        assert closed(seen, latency=1.0).latency_load == 1.0
        seen.latency(9.0)
        assert closed(seen, latency=None).latency_load == 1.0

    def test_and_no_call_says_nothing(self) -> None:
        seen = Observations(5)
        closed(seen, latency=9.0)
        seen.close_interval(LIMIT)
        assert seen.last_latency is None

    def test_that_of_the_last_interval_is_kept_apart(self) -> None:
        seen = Observations(5)
        assert seen.last_latency is None
        closed(seen, latency=1.0)
        closed(seen, latency=2.0)
        assert seen.last_latency == 2.0
        closed(seen)
        assert seen.last_latency is None


class TestMoreInFlightThanTheLimitAllows:
    def test_latency_is_not_that_of_the_limit(self) -> None:
        seen = Observations(5)
        closed(seen, latency=1.0)
        window = closed(seen, latency=9.0, in_flight=21)
        assert (window.latency_load, seen.last_latency) == (1.0, None)
        # Nor is it counted in the mean.
        assert closed(seen, latency=2.0, in_flight=20).latency_load == 1.5

    def test_nor_are_drops(self) -> None:
        seen = Observations(5)
        window = closed(seen, dropped=2, in_flight=21)
        assert (window.dropped, window.ttft_load) == (0, None)
        # Nor are they kept for later.
        window = closed(seen, in_flight=20)
        assert (window.dropped, window.ttft_load) == (0, None)

    def test_first_tokens_are(self) -> None:
        """They are of streams that the limit admitted itself."""
        assert closed(Observations(5), *[3.0] * 5, in_flight=21).ttft_load == 3.0
        assert closed(Observations(5), *[0.2] * 5, dropped=1, in_flight=21).ttft_load == 0.2

    def test_a_fraction_of_a_stream_allows_nobody(self) -> None:
        seen = Observations(5)
        window = closed(seen, latency=9.0, dropped=1, in_flight=21, limit=20.9)
        assert (window.latency_load, window.dropped, window.ttft_load) == (None, 0, None)
        window = closed(seen, latency=9.0, dropped=1, in_flight=20, limit=20.9)
        assert (window.latency_load, window.dropped, window.ttft_load) == (9.0, 1, DROPPED_LOAD)

    def test_the_most_of_the_interval_counts(self) -> None:
        seen = Observations(5)
        seen.occupancy(21, waiting=False)
        assert closed(seen, latency=9.0, in_flight=10).latency_load is None


class TestFirstTokens:
    @pytest.mark.parametrize(("count", "rank"), [(5, 5), (9, 9), (10, 9), (11, 10), (20, 18), (21, 19)])
    def test_the_90th_percentile_is_a_sample(self, count: int, rank: int) -> None:
        window = closed(Observations(5), *(float(n) for n in range(count, 0, -1)))
        assert (window.ttft_load, window.samples) == (rank, count)

    def test_it_is_taken_over_the_last_intervals(self) -> None:
        seen = Observations(1)
        assert closed(seen, 3.0).ttft_load == 3.0
        for _ in range(MEMORY - 1):
            window = closed(seen, 1.0)
        assert (window.ttft_load, window.samples) == (3.0, MEMORY)
        window = closed(seen, 1.0)
        assert (window.ttft_load, window.samples) == (1.0, MEMORY)

    def test_too_few_say_nothing(self) -> None:
        seen = Observations(5)
        window = closed(seen, *[3.0] * 4)
        assert (window.ttft_load, window.samples) == (None, 4)
        assert closed(seen, 3.0).ttft_load == 3.0

    @pytest.mark.parametrize(("in_flight", "waiting"), [(20, False), (10, True)])
    def test_the_last_call_is_after_memory_intervals(self, in_flight: int, waiting: bool) -> None:
        """A limit of one stream gives few samples; it would stay for ever."""
        seen = Observations(5)
        for _ in range(MEMORY - 1):
            assert closed(seen, in_flight=in_flight, waiting=waiting).ttft_load is None
        assert closed(seen, 0.2, in_flight=in_flight, waiting=waiting).ttft_load == 0.2
        # And from then on.
        assert closed(seen, in_flight=in_flight, waiting=waiting).ttft_load == 0.2

    @pytest.mark.parametrize("interval", range(MEMORY - 1))
    def test_and_not_before(self, interval: int) -> None:
        seen = Observations(5)
        for _ in range(interval):
            closed(seen, in_flight=20, waiting=True)
        assert closed(seen, 0.2, in_flight=20, waiting=True).ttft_load is None

    @pytest.mark.parametrize(("in_flight", "waiting"), [(19, False), (9, True)])
    def test_nor_where_the_limit_holds_nobody_back(self, in_flight: int, waiting: bool) -> None:
        seen = Observations(5)
        for _ in range(2 * MEMORY):
            window = closed(seen, 0.2 if seen.intervals % 2 else 0.3, in_flight=20)
        assert window.ttft_load == 0.3
        for _ in range(MEMORY):
            closed(seen)
        window = closed(seen, 0.2, in_flight=in_flight, waiting=waiting)
        assert (window.ttft_load, window.samples) == (None, 1)

    def test_nothing_is_still_nothing_at_the_last_call(self) -> None:
        seen = Observations(5)
        for _ in range(3 * MEMORY):
            assert closed(seen, in_flight=20, waiting=True).ttft_load is None

    def test_a_drop_is_at_least_a_load(self) -> None:
        assert closed(Observations(5), dropped=1).ttft_load == DROPPED_LOAD
        assert closed(Observations(5), *[0.1] * 5, dropped=1).ttft_load == DROPPED_LOAD
        assert closed(Observations(5), *[1.7] * 5, dropped=3).ttft_load == 1.7

    def test_it_counts_in_its_interval(self) -> None:
        seen = Observations(5)
        assert closed(seen, dropped=2).dropped == 2
        window = closed(seen, *[0.1] * 5)
        assert (window.dropped, window.ttft_load) == (0, 0.1)


class TestOccupancy:
    @pytest.mark.parametrize(
        ("in_flight", "waiting", "limit", "holds"),
        [
            (20, False, 20.0, True),
            (20, False, 20.9, True),
            (19, False, 20.0, False),
            (10, True, 20.0, True),
            # They wait for something else.
            (9, True, 20.0, False),
            (0, True, 20.0, False),
            (1, False, 1.9, True),
            (0, True, 1.0, False),
        ],
    )
    def test_who_is_held_back(self, in_flight: int, waiting: bool, limit: float, holds: bool) -> None:
        seen = Observations(5)
        seen.occupancy(in_flight, waiting=waiting)
        seen.occupancy(0, waiting=False)
        assert seen.holds_back(limit) is holds

    def test_the_most_of_an_interval_and_what_is_there_at_its_beginning(self) -> None:
        seen = Observations(5)
        seen.occupancy(12, waiting=False)
        seen.occupancy(7, waiting=True)
        window = seen.close_interval(LIMIT)
        assert (window.limit, window.in_flight, window.waited) == (LIMIT, 12, True)
        seen.occupancy(3, waiting=False)
        window = seen.close_interval(LIMIT)
        assert (window.in_flight, window.waited) == (7, True)
        window = seen.close_interval(LIMIT)
        assert (window.in_flight, window.waited) == (3, False)


class TestBegin:
    def test_what_was_seen_is_forgotten(self) -> None:
        seen = Observations(5)
        for _ in range(MEMORY):
            closed(seen, *[3.0] * 4, latency=3.0)
        seen.begin()
        assert seen.intervals == 0
        window = closed(seen, *[1.0] * 4)
        assert (window.ttft_load, window.latency_load, window.samples) == (None, None, 4)
        assert (closed(seen, latency=1.0).latency_load, seen.intervals) == (1.0, 2)
        # The mean does not take the first for one of many.
        assert closed(seen, latency=2.0).latency_load == 1.5

    def test_and_the_last_call_is_as_far_off_as_ever(self) -> None:
        seen = Observations(5)
        for _ in range(MEMORY):
            closed(seen)
        seen.begin()
        assert closed(seen, 1.0, in_flight=20).ttft_load is None

    def test_the_streams_are_still_there(self) -> None:
        seen = Observations(5)
        seen.occupancy(12, waiting=True)
        seen.close_interval(LIMIT)
        seen.begin()
        window = seen.close_interval(LIMIT)
        assert (window.in_flight, window.waited) == (12, True)


class TestCarry:
    def test_the_mean_is_corrected_and_of_a_few_intervals(self) -> None:
        seen = Observations(5)
        for _ in range(2 * MEMORY):
            closed(seen, latency=1.0)
        seen.carry(1.25)
        assert seen.intervals == 4
        assert closed(seen).latency_load == pytest.approx(1.2)
        # One of five from here on.
        assert closed(seen, latency=2.2).latency_load == pytest.approx(1.4)
        assert seen.intervals == 6

    def test_less_than_that_is_not_made_more(self) -> None:
        seen = Observations(5)
        closed(seen, latency=1.0)
        seen.carry(1.25)
        assert seen.intervals == 1
        assert closed(seen, latency=2.2).latency_load == pytest.approx(1.7)

    def test_without_latency_there_is_still_none(self) -> None:
        seen = Observations(5)
        closed(seen)
        seen.carry(1.25)
        assert closed(seen).latency_load is None

    def test_the_last_first_tokens_are_kept_for_as_long_as_new_ones(self) -> None:
        seen = Observations(5)
        closed(seen, *[9.0] * 3)
        closed(seen, 1.0, 2.0, 3.0, 4.0, 5.0)
        seen.carry(1.25)
        for _ in range(MEMORY):
            window = closed(seen)
            assert (window.samples, window.ttft_load) == (5, 5.0)
        assert closed(seen).samples == 0


@dataclass(frozen=True, slots=True)
class Happens:
    loads: list[float]
    latency: float | None
    over: bool
    begins: bool


HAPPENINGS = st.lists(
    st.builds(
        Happens,
        loads=st.lists(st.floats(0, 10), max_size=4),
        latency=st.none() | st.floats(0, 10),
        over=st.sampled_from([False, False, True]),
        begins=st.sampled_from([False] * 5 + [True]),
    ),
    max_size=40,
)


@given(happenings=HAPPENINGS, min_samples=st.integers(1, 8))
def test_it_says_what_a_look_at_everything_would(happenings: list[Happens], min_samples: int) -> None:
    seen = Observations(min_samples)
    since: list[Happens] = []
    for happens in happenings:
        if happens.begins:
            seen.begin()
            since = []
        since.append(happens)
        window = closed(seen, *happens.loads, latency=happens.latency, in_flight=21 if happens.over else 15)
        loads = sorted(load for one in since[-MEMORY:] for load in one.loads)
        assert window.samples == len(loads)
        # Those over the limit hold others back.
        enough = len(loads) >= min_samples or (loads and happens.over and len(since) >= MEMORY)
        if enough:
            assert window.ttft_load is not None
            assert sum(load <= window.ttft_load for load in loads) >= 0.9 * len(loads)
            assert sum(load < window.ttft_load for load in loads) < 0.9 * len(loads)
        else:
            assert window.ttft_load is None
        latencies = [one.latency for one in since if one.latency is not None and not one.over]
        if not latencies:
            assert window.latency_load is None
            continue
        assert window.latency_load is not None
        assert min(latencies) - 1e-9 <= window.latency_load <= max(latencies) + 1e-9
        if len(latencies) <= MEMORY:
            assert window.latency_load == pytest.approx(sum(latencies) / len(latencies), abs=1e-9)
