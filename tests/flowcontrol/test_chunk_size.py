"""The rule for the size of a chunk: its ends, its line, and that it never leaves its bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcontrol.chunk_size import HIGH_FILL, LOW_FILL, ChunkSizeRule


@st.composite
def rules(draw: st.DrawFn) -> ChunkSizeRule:
    least = draw(st.integers(1, 100))
    return ChunkSizeRule(least=least, most=least + draw(st.integers(0, 4096)))


@pytest.mark.parametrize(
    ("fill", "tokens"),
    [
        (0.0, 2),
        (0.09, 2),
        (0.10, 2),
        (0.23, 3),
        (0.25, 4),
        (0.46, 7),
        (0.79, 11),
        (0.80, 12),
        (0.81, 12),
        (1.0, 12),
        (3.5, 12),
    ],
)
def test_table(fill: float, tokens: int) -> None:
    """Between the ends 10 tokens more over 0.70 of the window: one for each 0.07, rounded down."""
    assert ChunkSizeRule(least=2, most=12).tokens(fill) == tokens


@given(rule=rules(), fill=st.floats(0, 10))
def test_the_ends_are_flat_and_the_middle_is_a_line(rule: ChunkSizeRule, fill: float) -> None:
    tokens = rule.tokens(fill)
    assert rule.least <= tokens <= rule.most
    if fill < LOW_FILL:
        assert tokens == rule.least
    elif fill > HIGH_FILL:
        assert tokens == rule.most
    else:
        exact = rule.least + (rule.most - rule.least) * (fill - LOW_FILL) / (HIGH_FILL - LOW_FILL)
        assert exact - 1 - 1e-6 < tokens <= exact + 1e-6


@given(rule=rules(), fills=st.tuples(st.floats(0, 2), st.floats(0, 2)))
def test_a_fuller_window_never_makes_chunks_smaller(rule: ChunkSizeRule, fills: tuple[float, float]) -> None:
    assert rule.tokens(min(fills)) <= rule.tokens(max(fills))


@pytest.mark.parametrize(("least", "most"), [(0, 1), (2, 1), (-1, 5)])
def test_bounds_that_cannot_work_are_refused_by_name(least: int, most: int) -> None:
    with pytest.raises(ValueError, match=f"got least {least} and most {most}"):
        ChunkSizeRule(least=least, most=most)
