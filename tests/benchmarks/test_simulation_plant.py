"""The plant: what its turns cost, and who is in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.simulation.plant import Plant, PlantModel, Row

MODEL = PlantModel(
    prefill_tokens_per_s=1_000, step_s=0.01, row_s=0.001, max_batch_rows=2, slice_tokens=100, kv_tokens=10_000
)


class Driven:
    """A plant whose turns follow each other; times of what happened, by row."""

    def __init__(self, model: PlantModel) -> None:
        self.plant = Plant(model)
        self.now_s = 0.0
        self.first_s: dict[Row, float] = {}
        self.finished_s: dict[Row, float] = {}
        self.paused: list[Row] = []

    def turn(self) -> bool:
        takes_s = self.plant.begin()
        if takes_s is None:
            return False
        self.now_s += takes_s
        turn = self.plant.finish()
        self.first_s.update(dict.fromkeys(turn.first_tokens, self.now_s))
        self.finished_s.update(dict.fromkeys(turn.finished, self.now_s))
        self.paused += turn.paused
        return True

    def run(self) -> None:
        while self.turn():
            pass


def with_rows(*rows: Row, model: PlantModel = MODEL) -> Driven:
    driven = Driven(model)
    for row in rows:
        driven.plant.submit(row)
    return driven


def test_one_row_alone() -> None:
    row = Row(250, 11)
    driven = with_rows(row)
    driven.run()
    assert driven.first_s[row] == pytest.approx(0.25)
    assert driven.finished_s[row] == pytest.approx(0.25 + 10 * 0.011)
    assert driven.plant.kv_tokens == 0
    assert driven.plant.decode_steps == 10


def test_a_turn_has_one_slice_of_prompts_and_one_step_of_those_that_decode() -> None:
    first, second = Row(50, 100), Row(250, 2)
    driven = with_rows(first, second)
    driven.turn()
    assert driven.now_s == pytest.approx(0.1)
    assert list(driven.first_s) == [first]
    driven.turn()
    assert driven.now_s == pytest.approx(0.1 + 0.1 + 0.011)
    driven.turn()
    assert driven.first_s[second] == pytest.approx(0.211 + 0.1 + 0.011)
    driven.turn()
    assert driven.finished_s[second] == pytest.approx(0.322 + 0.012)


def test_rows_beyond_the_batch_wait_in_their_order() -> None:
    rows = [Row(100, 3) for _ in range(4)]
    driven = with_rows(*rows)
    driven.turn()
    assert driven.plant.waiting_rows == 2
    driven.run()
    assert list(driven.first_s) == rows
    assert driven.first_s[rows[2]] > driven.finished_s[rows[0]]


def test_half_speed_takes_twice_the_time() -> None:
    row = Row(250, 11)
    driven = with_rows(row)
    driven.plant.speed = 0.5
    driven.run()
    assert driven.finished_s[row] == pytest.approx(2 * (0.25 + 10 * 0.011))


def test_a_slow_reader_leaves_the_batch_after_each_of_its_windows() -> None:
    row, other = Row(10, 10, pause_tokens=4), Row(10, 30)
    driven = with_rows(row, other)
    driven.run()
    assert driven.paused == [row]
    assert other in driven.finished_s
    assert driven.plant.kv_tokens == 10 + 4
    driven.plant.resume(row)
    driven.run()
    assert driven.paused == [row, row]
    assert row not in driven.finished_s
    driven.plant.resume(row)
    driven.run()
    assert row in driven.finished_s
    assert driven.paused == [row, row]
    assert driven.plant.kv_tokens == 0


def test_beyond_the_budget_the_newest_row_is_prefilled_again() -> None:
    model = PlantModel(1_000, 0.01, 0.001, 8, 100, 60)
    old, new = Row(20, 25), Row(20, 25)
    driven = with_rows(old, new, model=model)
    driven.run()
    assert driven.plant.evictions == 1
    assert driven.finished_s[old] < driven.finished_s[new]
    # Its first token is not told twice.
    assert list(driven.first_s) == [old, new]
    assert driven.plant.kv_tokens == 0


def test_a_row_larger_than_the_budget_runs_alone() -> None:
    model = PlantModel(1_000, 0.01, 0.001, 8, 100, 60)
    row = Row(200, 5)
    driven = with_rows(row, Row(10, 5), model=model)
    driven.run()
    assert len(driven.finished_s) == 2


ROWS = st.lists(
    st.tuples(st.integers(1, 300), st.integers(1, 40), st.integers(0, 9)), min_size=1, max_size=25
)


@given(rows=ROWS, kv_tokens=st.integers(50, 2_000), batch=st.integers(1, 10))
def test_every_row_ends_with_its_tokens_and_nothing_stays_behind(
    rows: list[tuple[int, int, int]], kv_tokens: int, batch: int
) -> None:
    model = PlantModel(1_000, 0.01, 0.001, batch, 100, kv_tokens)
    streams = [Row(*row) for row in rows]
    driven = with_rows(*streams, model=model)
    while driven.turn() or driven.paused:
        for row in driven.paused:
            driven.plant.resume(row)
        driven.paused.clear()
        assert driven.plant.decoding_rows <= batch
    assert set(driven.finished_s) == set(driven.first_s) == set(streams)
    assert all(row.made == row.output_tokens for row in streams)
    assert driven.plant.kv_tokens == driven.plant.decoding_rows == driven.plant.waiting_rows == 0


def test_capacity_is_what_the_plant_serves_in_a_steady_state() -> None:
    model = PlantModel(4_000, 0.012, 0.0008, 20, 512, 1_000_000)
    driven = with_rows(*(Row(300, 50 + n % 100) for n in range(2_000)), model=model)
    driven.run()
    assert len(driven.finished_s) / driven.now_s == pytest.approx(
        model.streams_per_s(20, 300, 99.5), rel=0.05
    )


def test_rows_within_a_latency_have_that_latency() -> None:
    model = PlantModel(4_000, 0.012, 0.0008, 1_000, 512, 1_000_000)
    rows = model.rows_within(0.1, 400, 120)
    assert rows / (model.streams_per_s(rows, 400, 120) * 120) == pytest.approx(0.1)
