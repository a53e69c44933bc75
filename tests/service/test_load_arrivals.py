"""Arrivals and requests are functions of the seed, and have the rates that were asked for."""

import itertools
import math
from random import Random
from statistics import fmean, pstdev

import pytest

from service.load.arrivals import arrivals, bursts, constant, expected, poisson
from service.load.options import ArrivalKind, BurstShape
from service.load.requests import SAMPLE, WORDS, Requests, words_for
from tests.service.load_runs import load_options

OPEN = [ArrivalKind.POISSON, ArrivalKind.BURST, ArrivalKind.CONSTANT]
WAVE = BurstShape(factor=10.0, burst_s=1.0, period_s=5.0)


def within_4_sigma(count: int, mean: float) -> bool:
    """Whether a Poisson count is one that a right rate gives, but in 1 of 16,000 cases."""
    return abs(count - mean) <= 4 * math.sqrt(mean)


@pytest.mark.parametrize("kind", OPEN)
def test_the_same_seed_gives_the_same_times(kind: ArrivalKind) -> None:
    options = load_options(arrivals=kind, duration_s=50.0)
    times = list(arrivals(options))
    assert times == list(arrivals(options))
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] < 50.0


@pytest.mark.parametrize("kind", [ArrivalKind.POISSON, ArrivalKind.BURST])
def test_another_seed_gives_other_times(kind: ArrivalKind) -> None:
    seeds = (load_options(arrivals=kind, seed=seed) for seed in (1, 2))
    first, second = (list(arrivals(options)) for options in seeds)
    assert first[:5] != second[:5]


def test_a_closed_loop_has_no_times() -> None:
    with pytest.raises(ValueError, match="closed"):
        arrivals(load_options(arrivals=ArrivalKind.CLOSED))


def test_constant() -> None:
    assert list(constant(4.0, 1.0)) == [0.0, 0.25, 0.5, 0.75]
    assert len(list(constant(0.1, 600.0))) == 60


def test_poisson_has_its_rate_and_exponential_gaps() -> None:
    times = list(poisson(20.0, 500.0, Random(1)))
    assert within_4_sigma(len(times), 10_000)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    # Mean and deviation of an exponential are the same, and 1/e of it is longer than the mean.
    assert fmean(gaps) == pytest.approx(0.05, rel=0.05)
    assert pstdev(gaps) == pytest.approx(0.05, rel=0.05)
    assert sum(gap > 0.05 for gap in gaps) / len(gaps) == pytest.approx(1 / math.e, abs=0.02)


def test_a_wave_is_calm_and_then_bursts() -> None:
    times = list(bursts(20.0, 500.0, WAVE, Random(1)))
    calm = [time_s for time_s in times if time_s % 5.0 < 4.0]
    assert within_4_sigma(len(calm), 20 * 400)
    assert within_4_sigma(len(times) - len(calm), 200 * 100)
    # The rate does not change within either part.
    assert within_4_sigma(sum(time_s % 5.0 < 2.0 for time_s in calm), 20 * 200)
    assert within_4_sigma(sum(time_s % 5.0 > 4.5 for time_s in times), 200 * 50)


@pytest.mark.parametrize(
    ("duration_s", "mean"), [(4.0, 40.0), (5.0, 140.0), (9.5, 230.0), (4.5, 90.0), (10.0, 280.0)]
)
def test_expected_number_in_a_wave(duration_s: float, mean: float) -> None:
    options = load_options(arrivals=ArrivalKind.BURST, burst=WAVE, rate_per_s=10.0, duration_s=duration_s)
    assert expected(options) == pytest.approx(mean)


def test_expected_number_of_an_even_rate() -> None:
    assert expected(load_options(rate_per_s=4.0, duration_s=2.5)) == 10.0


def test_requests_are_functions_of_seed_and_number() -> None:
    tenants = {"a": 1.0, "b": 10.0}
    requests = Requests(7, tenants, prompt_words=6)
    assert requests.get(3) == Requests(7, tenants, prompt_words=6).get(3)
    assert requests.get(3) != Requests(8, tenants, prompt_words=6).get(3)


def test_prompts_are_distinct_and_as_long_as_asked_for() -> None:
    prompts = [Requests(7, {}, prompt_words=1).get(number).prompt for number in range(1, 2000)]
    assert len(set(prompts)) == len(prompts)
    number, *words = Requests(7, {}, prompt_words=9).get(12).prompt.split()
    assert number == "12."
    assert len(words) == 9
    assert set(words) <= set(WORDS)


def test_tenants_get_their_shares() -> None:
    requests = Requests(7, {"a": 1.0, "b": 9.0}, prompt_words=1)
    names = [requests.get(number).tenant for number in range(1, 2001)]
    assert within_4_sigma(names.count("a"), 200)
    assert names.count("a") + names.count("b") == 2000
    assert Requests(7, {}, prompt_words=1).get(1).tenant == ""


def test_words_for_a_prompt() -> None:
    words = len(SAMPLE.split())
    assert words_for(100, sample_tokens=words) == 100
    assert words_for(100, sample_tokens=2 * words) == 50
    assert words_for(1, sample_tokens=10 * words) == 1
