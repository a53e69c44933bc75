"""Breaches that last are told once, their ends once; a reference looks at the whole history each time."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcontrol.sustained import News, SustainedBreach, SustainedBreaches

LOOKS = st.lists(
    st.tuples(st.sampled_from(["ttft", "refusals"]), st.booleans(), st.integers(0, 4)), max_size=30
)


def expected(history: list[tuple[bool, int]], sustained_s: int) -> SustainedBreach | None:
    """What the last look at one name tells, found from all looks at it."""
    *before, (breached, now_s) = history
    run: list[int] = []
    for seen, at_s in before:
        run = [*run, at_s] if seen else []
    was_told = bool(run) and run[-1] - run[0] >= sustained_s
    if breached:
        since_s = run[0] if run else now_s
        tells = now_s - since_s >= sustained_s and not was_told
        return SustainedBreach("ttft", News.BREACH, now_s - since_s) if tells else None
    return SustainedBreach("ttft", News.BREACH_ENDED, now_s - run[0]) if was_told else None


@given(looks=LOOKS, sustained_s=st.integers(0, 6))
def test_each_look_tells_what_the_history_says(looks: list[tuple[str, bool, int]], sustained_s: int) -> None:
    breaches, now_s = SustainedBreaches(sustained_s), 0
    histories: dict[str, list[tuple[bool, int]]] = {"ttft": [], "refusals": []}
    for name, breached, after_s in looks:
        now_s += after_s
        histories[name].append((breached, now_s))
        told = breaches.look(name, breached=breached, now_s=now_s)
        should = expected(histories[name], sustained_s)
        assert told == (should and SustainedBreach(name, should.news, should.lasted_s))


@given(looks=LOOKS, sustained_s=st.integers(0, 6))
def test_breaches_and_their_ends_take_turns(looks: list[tuple[str, bool, int]], sustained_s: int) -> None:
    breaches, now_s = SustainedBreaches(sustained_s), 0
    lasting: set[str] = set()
    for name, breached, after_s in looks:
        now_s += after_s
        told = breaches.look(name, breached=breached, now_s=now_s)
        if told and told.news is News.BREACH:
            assert name not in lasting
            lasting.add(name)
        elif told:
            lasting.remove(name)


def test_a_breach_is_told_when_it_has_lasted_and_its_end_at_once() -> None:
    breaches = SustainedBreaches(30.0)
    told = [breaches.look("ttft", breached=at_s < 60, now_s=at_s) for at_s in range(0, 90, 10)]
    assert [each and (each.news, each.lasted_s) for each in told] == [
        *(None, None, None),
        (News.BREACH, 30),
        *(None, None),
        (News.BREACH_ENDED, 60),
        *(None, None),
    ]


def test_a_breach_that_comes_and_goes_is_not_told() -> None:
    breaches = SustainedBreaches(30.0)
    for at_s in range(0, 1000, 10):
        assert breaches.look("ttft", breached=at_s % 30 != 0, now_s=at_s) is None


def test_without_a_time_to_last_the_first_look_tells() -> None:
    assert SustainedBreaches(0.0).look("ttft", breached=True, now_s=5.0) == SustainedBreach(
        "ttft", News.BREACH, 0.0
    )


@pytest.mark.parametrize("sustained_s", [-1.0, math.nan])
def test_a_time_that_is_none_is_refused(sustained_s: float) -> None:
    with pytest.raises(ValueError, match="sustained_s must not be negative"):
        SustainedBreaches(sustained_s)
