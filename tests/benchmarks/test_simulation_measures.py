"""What runs are judged by: measures of a run, the oracle's band, and the historic rules."""

import math
from collections.abc import Sequence

import pytest

from benchmarks.simulation.historic import Heuristic, HistoricLimit, MillisecondPid
from benchmarks.simulation.measures import (
    Band,
    between_tokens_percentile,
    course,
    fairness,
    goodput,
    in_slo,
    max_min_shares,
    percentile,
    refused_after_idle,
    second_storm,
    ttft_percentile,
    turns,
)
from benchmarks.simulation.options import limit_options
from benchmarks.simulation.oracle import Goodputs, fine_grid, make_oracle
from benchmarks.simulation.run import Record, Sample, Stream
from benchmarks.simulation.scenarios import SCENARIOS, Phase
from benchmarks.simulation.workload import Request
from flowcontrol.admission.ask import ServiceClass
from flowcontrol.limits.contract import StrategyName

STEP = SCENARIOS["step"]


def stream(
    asked_s: float = 0.0,
    first_s: float | None = None,
    ended_s: float | None = None,
    *,
    prompt_tokens: int = 100,
    output_tokens: int = 11,
    paused_s: float = 0.0,
    refused_s: float | None = None,
    tenant: str = "",
) -> Stream:
    request = Request(
        tenant, ServiceClass.INTERACTIVE, prompt_tokens, prompt_tokens, output_tokens, 400, 0, 0.0
    )
    return Stream(
        request,
        asked_s,
        solo_s=STEP.plant.solo_ttft_s(prompt_tokens),
        admitted_s=None if refused_s is not None else asked_s,
        first_s=first_s,
        ended_s=ended_s,
        paused_s=paused_s,
        refused_s=refused_s,
    )


@pytest.mark.parametrize(
    ("one", "meets"),
    [
        (stream(0, 1.0, 2.0), True),
        (stream(0, 1.01, 2.0), False),
        (stream(0, 1.0, 2.01), False),
        # A pause of its reader is not the server's time.
        (stream(0, 1.0, 4.0, paused_s=2.0), True),
        # 4,000 tokens take 1 s alone: 2 s are allowed.
        (stream(0, 1.9, 2.0, prompt_tokens=4_000), True),
        (stream(0, 2.1, 2.2, prompt_tokens=4_000), False),
        (stream(0, 1.0, None), False),
        (stream(0, refused_s=0.0), False),
        # One token has no time between tokens.
        (stream(0, 1.0, 1.0, output_tokens=1), True),
    ],
)
def test_in_slo(one: Stream, meets: bool) -> None:
    assert in_slo(STEP, one) is meets


def test_goodput_counts_tokens_in_slo_of_streams_asked_for_in_the_phase() -> None:
    record = Record(
        [stream(9.0, 9.5, 10), stream(10.0, 10.5, 11), stream(19.9, 20.5, 21), stream(20.0, 20.5, 21)]
    )
    record.streams.append(stream(15.0, 17.0, 18.0))
    assert goodput(STEP, record, Phase("", 10, 20)) == pytest.approx(2 * 11 / 10)


def test_percentiles_leave_out_prompts_too_long_for_the_target_and_keep_streams_without_a_token() -> None:
    record = Record([stream(0, 0.5, 1), stream(0, 1.9, 3, prompt_tokens=4_000)])
    assert ttft_percentile(STEP, record, 0.95) == 0.5
    record.streams.append(stream(0))
    assert math.isinf(ttft_percentile(STEP, record, 0.95))
    assert between_tokens_percentile(record, 1.0) == pytest.approx(0.11)


def test_a_percentile_is_a_value_that_occurs() -> None:
    values = [4.0, 1.0, 3.0, 2.0]
    assert [percentile(values, share) for share in (0.25, 0.5, 0.75, 0.95, 1.0)] == [1, 2, 3, 4, 4]
    assert math.isnan(percentile([], 0.5))


def samples(limits: Sequence[int]) -> list[Sample]:
    return [Sample(float(at_s), limit, 0, 0, 0) for at_s, limit in enumerate(limits)]


PHASE = Phase("", 0.0, 20.0)
BAND = Band(best=42, low=40, high=50, bounded=True)


def test_a_limit_settles_when_it_is_near_the_band_to_stay() -> None:
    settled = course(samples([20, 30, 36, 35, *[40] * 16]), PHASE, BAND)
    assert settled.settled_s == 3
    assert settled.below_s == 2
    assert settled.steady_range == 0
    assert settled.overshoot == 0
    never = course(samples([40] * 19 + [30]), PHASE, BAND)
    assert math.isinf(never.settled_s)
    assert never.steady_range == 10


def test_overshoot_counts_from_the_first_time_in_the_band() -> None:
    """What a phase begins with is the phase's before it."""
    assert course(samples([90, 70, 50, 60, *[45] * 16]), PHASE, BAND).overshoot == pytest.approx(0.2)
    unbounded = Band(42, 40, 64, bounded=False)
    assert course(samples([64] * 20), PHASE, unbounded).overshoot is None


def test_turns_are_changes_of_direction() -> None:
    assert turns([1, 2, 3, 3, 4]) == 0
    assert turns([1, 2, 2, 1, 1, 1, 2]) == 2
    steady = course(samples([42] * 10 + [42, 43] * 5), PHASE, BAND)
    assert steady.turns_per_min == pytest.approx(8 * 60 / 10)
    assert steady.steady_range == 1


def test_refused_after_idle_looks_at_the_first_ones_within_a_second() -> None:
    idle = SCENARIOS["idle"]
    assert idle.idle_until_s is not None
    at_s = idle.idle_until_s
    early = [
        stream(at_s - 1, refused_s=at_s - 1),
        stream(at_s, refused_s=at_s),
        stream(at_s, refused_s=at_s + 2),
    ]
    later = [stream(at_s + 0.5) for _ in range(3)]
    beyond_the_floor = [stream(at_s + 0.6, refused_s=at_s + 0.6)]
    assert refused_after_idle(idle, Record([*early, *later, *beyond_the_floor])) == 1
    assert refused_after_idle(STEP, Record(early)) is None


def test_a_second_storm_is_told_by_the_first() -> None:
    retries = SCENARIOS["retries"]
    start_s = retries.phases[-1].start_s
    times = [start_s + 0.1] * 10 + [start_s + 3.5] * 4 + [start_s + 9.9] * 3 + [start_s - 1] * 2
    assert second_storm(retries, Record([stream(at_s, refused_s=at_s) for at_s in times])) == pytest.approx(
        0.4
    )


def test_max_min_shares_leave_to_others_what_one_does_not_want() -> None:
    assert max_min_shares({"a": 10, "b": 50, "c": 90}, 100) == {"a": 10, "b": 45, "c": 45}
    assert max_min_shares({"a": 10, "b": 20}, 100) == {"a": 10, "b": 20}


def test_fairness_is_one_when_all_get_their_max_min_share() -> None:
    noisy = SCENARIOS["noisy-tenant"]
    fair = [stream(0, 0.5, 1, tenant=tenant) for tenant in ("a", "b", "noisy")]
    refused = [stream(0, refused_s=0.0, tenant="noisy") for _ in range(9)]
    assert fairness(noisy, Record([*fair, *refused])) == pytest.approx(1)
    greedy = [stream(0, 0.5, 1, tenant="noisy") for _ in range(9)]
    starved = [stream(0, refused_s=0.0, tenant=tenant) for tenant in ("a", "b")]
    assert fairness(noisy, Record([*greedy, *starved])) == pytest.approx(1 / 3)


def test_the_oracle_s_band_goes_from_the_least_to_the_largest_limit_nearly_as_good() -> None:
    goodputs = {10: 50.0, 20: 98.0, 25: 96.0, 30: 100.0, 40: 97.5, 50: 60.0}
    tried: dict[int, Goodputs] = {limit: (value, 0.0) for limit, value in goodputs.items()}
    oracle = make_oracle(tried)
    assert oracle.bands == (Band(30, 20, 40, bounded=True), None)
    assert oracle.limits() == (30, 30)
    assert set(fine_grid(tried)) == {13, 17, 22, 23, 27, 28, 33, 37, 43, 47}


def test_a_band_up_to_the_largest_limit_is_not_bounded() -> None:
    [band] = make_oracle({10: (50.0,), 20: (100.0,), 30: (99.0,)}).bands
    assert band == Band(20, 20, 30, bounded=False)


def test_the_heuristic_never_shrinks_for_slow_first_tokens() -> None:
    rule = Heuristic()
    assert rule.next_limit(40, 1.0, 9_000) == 40
    assert rule.next_limit(40, 1.0, 0) == 45
    assert rule.next_limit(48, 1.0, 0) == 50
    assert rule.next_limit(40, 0.2, 500) == 38
    assert rule.next_limit(6, 0.0, 0) == 5


def test_the_pid_in_milliseconds_swings_between_its_bounds() -> None:
    rule = MillisecondPid()
    assert rule.next_limit(32, 0.5, 0) == 80
    assert rule.next_limit(80, 1.0, 1_050) == 16


def test_a_historic_limit_takes_an_empty_window_for_0_ms() -> None:
    limit = HistoricLimit(limit_options(STEP, StrategyName.FIXED), Heuristic(), 32, next_s=5.0)
    limit.occupancy(32, waiting=True)
    assert not limit.adjust(4.9)
    limit.measured(3.0)
    assert not limit.adjust(5.0)
    assert limit.next_deadline() == 10
    assert limit.adjust(10.0)
    assert limit.limit == 37


def test_a_phase_alone_has_its_arrivals_and_its_speed() -> None:
    throttle = SCENARIOS["throttle"]
    phase = throttle.phases[1]
    alone = throttle.alone(phase)
    whole = [one for one in throttle.arrivals(1) if phase.start_s <= one.at_s < phase.end_s]
    assert [one.request for one in alone.arrivals(1)] == [one.request for one in whole]
    assert [one.at_s for one in alone.arrivals(1)] == [one.at_s - phase.start_s for one in whole]
    assert alone.speeds == ((0.0, 0.5),)
    assert throttle.alone(throttle.phases[0]).speeds == ()
    assert throttle.alone(throttle.phases[2]).speeds == ((0.0, 1.0),)
