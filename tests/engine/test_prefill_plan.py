"""How a step's budget is shared out among prompts, and which of them share a pass."""

from hypothesis import given
from hypothesis import strategies as st

from engine.mlx_worker.prefill_plan import Slice, passes, share_out

remaining = st.lists(st.integers(1, 3000), min_size=1, max_size=20)
budgets = st.integers(1, 2048)


@given(remaining, budgets)
def test_the_budget_is_kept_and_used(lengths: list[int], budget: int) -> None:
    shares = share_out(lengths, budget)
    assert all(0 < tokens <= lengths[place] for place, tokens in shares.items())
    assert sum(shares.values()) <= budget
    # What is left over goes to the oldest, unless it is done.
    assert sum(shares.values()) == budget or shares[0] == lengths[0]


@given(remaining, budgets)
def test_the_longest_waiting_moves_on_by_a_quarter_of_the_budget(lengths: list[int], budget: int) -> None:
    assert share_out(lengths, budget)[0] >= min(lengths[0], max(1, budget // 4))


@given(remaining, budgets)
def test_of_the_others_the_shortest_go_first(lengths: list[int], budget: int) -> None:
    shares = share_out(lengths, budget)
    served = [lengths[place] for place in shares if place]
    passed_over = [length for place, length in enumerate(lengths) if place not in shares]
    assert max(served, default=0) <= min(passed_over, default=10**9)
    assert sum(shares[place] < lengths[place] for place in shares if place) <= 1


def test_a_prompt_alone_gets_everything() -> None:
    assert share_out([5000], 512) == {0: 512}
    assert share_out([], 512) == {}


def test_short_prompts_overtake_a_long_one_that_moves_on_all_the_same() -> None:
    assert share_out([5000, 30, 40], 512) == {0: 442, 1: 30, 2: 40}
    assert share_out([5000, 300, 200], 512) == {0: 128, 2: 200, 1: 184}


def test_a_slice_that_finishes_nothing_is_not_too_small() -> None:
    assert share_out([5000, 370, 1000], 512) == {0: 142, 1: 370}


def lengths_of(groups: list[list[Slice]]) -> list[list[int]]:
    return [[each.tokens for each in group] for group in groups]


def joining(*lengths: int, covered: int = 0) -> list[Slice]:
    return [Slice(place, tokens, covered, joins=True) for place, tokens in enumerate(lengths)]


def test_slices_of_similar_length_share_a_pass() -> None:
    assert lengths_of(passes(joining(10, 90, 18, 50, 20, 400), 8, padded=True)) == [
        [10, 18, 20],
        [50, 90],
        [400],
    ]


def test_without_padding_only_slices_of_one_length_share_a_pass() -> None:
    assert lengths_of(passes(joining(10, 12, 10, 12, 11), 8, padded=False)) == [[10, 10], [11], [12, 12]]


def test_a_pass_has_so_many_rows_at_most() -> None:
    assert lengths_of(passes(joining(*[30] * 7), 3, padded=True)) == [[30] * 3, [30] * 3, [30]]


def test_what_is_not_finished_goes_alone() -> None:
    slices = [Slice(0, 128, 256, joins=False), *joining(100, 100)]
    assert lengths_of(passes(slices, 8, padded=True)) == [[100, 100], [128]]


def test_a_long_history_is_not_padded_for() -> None:
    assert lengths_of(passes([*joining(30), *joining(30, covered=4000)], 8, padded=True)) == [[30], [30]]


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 4000), st.booleans())), st.integers(1, 8))
def test_every_slice_is_in_one_pass_and_padding_is_bounded(
    drawn: list[tuple[int, int, bool]], max_rows: int
) -> None:
    slices = [Slice(place, *each) for place, each in enumerate(drawn)]
    groups = passes(slices, max_rows, padded=True)
    assert sorted((each for group in groups for each in group), key=lambda each: each.prompt) == slices
    for group in groups:
        assert len(group) <= max_rows
        if len(group) > 1:
            assert all(each.joins for each in group)
            assert max(each.tokens for each in group) <= 2 * min(each.tokens for each in group)
