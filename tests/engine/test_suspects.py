"""Which stream is refused when a worker is lost."""

from hypothesis import given
from hypothesis import strategies as st

from engine.suspects import CRASH_STRIKES, Suspect, judge

suspects = st.lists(
    st.builds(Suspect, stream=st.integers(1, 99), strikes=st.integers(1, 8), proven=st.booleans()),
    unique_by=lambda suspect: suspect.stream,
)


def test_the_first_loss_accuses_nobody() -> None:
    for count in (1, 2, 5):
        verdict = judge(Suspect(stream, strikes=CRASH_STRIKES, proven=False) for stream in range(count))
        assert (verdict.refused, verdict.on_trial) == (frozenset(), frozenset())


def test_the_second_in_a_row_refuses_the_only_one_that_may_have_caused_it() -> None:
    proven = [Suspect(stream, strikes=2, proven=True) for stream in range(1, 5)]
    verdict = judge([*proven, Suspect(9, strikes=4, proven=False)])
    assert (set(verdict.refused), set(verdict.on_trial)) == ({9}, set())


def test_several_that_may_have_caused_it_go_on_trial() -> None:
    verdict = judge([Suspect(1, 4, proven=False), Suspect(2, 6, proven=False), Suspect(3, 2, proven=False)])
    assert (set(verdict.refused), set(verdict.on_trial)) == (set(), {1, 2})


@given(suspects)
def test_nobody_is_refused_because_of_a_neighbour(lost: list[Suspect]) -> None:
    verdict = judge(lost)
    accused = {each.stream for each in lost if each.strikes >= 2 * CRASH_STRIKES and not each.proven}
    assert verdict.refused | verdict.on_trial == accused
    unproven = [each for each in lost if not each.proven]
    assert verdict.refused == (accused if len(unproven) == 1 else set())
    assert not (verdict.refused and verdict.on_trial)
