"""When a worker is started again, and when not any more."""

from hypothesis import given
from hypothesis import strategies as st

from engine.lives import Lives

MAX_CRASHES = 3
LONG_S = 10.0
Life = tuple[float, float | None, bool]

lives_lived = st.lists(
    st.tuples(
        st.floats(0.0, 30.0),
        st.none() | st.floats(0.0, 30.0),
        st.booleans(),
    ).map(lambda life: life if life[1] is not None else (life[0], None, False))
)


def make() -> Lives:
    return Lives(max_crashes=MAX_CRASHES, backoff_initial_s=0.5, backoff_max_s=LONG_S)


def test_waits_grow_with_short_lives_and_begin_again_after_a_long_one() -> None:
    lives = make()
    waits = [lives.ended(lived_s=1.0, ready_s=0.5, fruitful=True) for _ in range(7)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert lives.short == 7
    assert lives.ended(lived_s=LONG_S + 1, ready_s=LONG_S, fruitful=True) == 0.5
    assert lives.short == 1
    assert not lives.crash_loop


def test_lives_that_ended_before_the_model_was_ready_are_a_crash_loop_however_long_they_took() -> None:
    lives = make()
    for _ in range(MAX_CRASHES):
        assert not lives.crash_loop
        lives.ended(lived_s=100 * LONG_S, ready_s=None, fruitful=False)
    assert lives.crash_loop


@given(lives_lived)
def test_a_crash_loop_is_so_many_barren_lives_in_a_row(history: list[Life]) -> None:
    lives, barren = make(), 0
    for lived_s, ready_s, fruitful in history:
        wait_s = lives.ended(lived_s=lived_s, ready_s=ready_s, fruitful=fruitful)
        barren = barren + 1 if ready_s is None or (ready_s <= LONG_S and not fruitful) else 0
        assert lives.crash_loop == (barren >= MAX_CRASHES)
        assert 0.5 <= wait_s <= LONG_S
