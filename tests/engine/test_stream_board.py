"""Streams of a pool, and a poison one among them, whatever happens in whatever order."""

from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.affinity import Affinity, block_keys
from engine.requests import ModelInput, PartsInput, TextInput
from engine.routing import RoutingRule
from engine.stream_board import StreamBoard
from engine.stream_record import StreamRecord
from engine.suspects import CRASH_STRIKES, KILL_STRIKES, RESTART_STRIKES
from tests.engine.requests import PROMPT, Sink, generation

ROWS = 3


def board(workers: int = 2, *, rows: int = ROWS) -> StreamBoard:
    return StreamBoard(workers=workers, rule=RoutingRule(rows, 1, 2), affinity=Affinity(100))


def record(number: int, model_input: ModelInput = PROMPT) -> StreamRecord:
    request = generation(model_input)
    return StreamRecord(number, request, Sink(), block_keys(request), 0.0)


def filled(board: StreamBoard, count: int) -> list[StreamRecord]:
    records = [record(number) for number in range(1, count + 1)]
    for each in records:
        board.add(each)
    return records


def numbers(records: Any) -> list[int]:
    return [each.number for each in records]


def test_streams_are_given_in_order_to_the_least_loaded() -> None:
    pool = board()
    records = filled(pool, 8)
    assert numbers(pool.dispatch([0, 1])) == [1, 2, 3, 4, 5, 6]
    assert [each.worker for each in records] == [0, 1, 0, 1, 0, 1, None, None]
    assert numbers(pool.waiting) == [7, 8]
    pool.remove(2)
    assert numbers(pool.dispatch([0, 1])) == [7]
    assert records[6].worker == 1


def test_no_stream_goes_to_a_worker_that_is_not_ready() -> None:
    pool = board()
    filled(pool, 4)
    assert pool.dispatch([]) == []
    assert {each.worker for each in pool.dispatch([1])} == {1}


def test_a_prompt_goes_where_its_beginning_was() -> None:
    pool = board()
    story, other = TextInput("x" * 600), TextInput("y" * 600)
    first, second = record(1, story), record(2, other)
    pool.add(first)
    pool.add(second)
    pool.dispatch([0, 1])
    pool.remove(1)
    again = record(3, other)
    pool.add(again)
    pool.dispatch([0, 1])
    assert (second.worker, again.worker) == (1, 1)
    pool.lose(1, strikes=CRASH_STRIKES)
    pool.dispatch([0])
    assert (second.worker, again.worker) == (0, 0)


def test_what_a_lost_worker_had_met_counts_no_more() -> None:
    pool = board()
    first, story = record(1), record(2, TextInput("x" * 600))
    for each in (first, story):
        pool.add(each)
    pool.dispatch([0, 1])
    assert story.worker == 1
    pool.lose(1, strikes=CRASH_STRIKES)
    for each in (first, story):
        pool.remove(each.number)
    again = record(3, TextInput("x" * 600))
    pool.add(again)
    pool.dispatch([0, 1])
    assert again.worker == 0


def test_paused_streams_leave_their_room_to_others_and_rest_when_their_worker_is_lost() -> None:
    pool = board(1)
    records = filled(pool, 4)
    pool.dispatch([0])
    pool.pause(records[1])
    assert numbers(pool.dispatch([0])) == [4]
    assert numbers(pool.lose(0, strikes=CRASH_STRIKES).going_on) == [1, 2, 3, 4]
    assert numbers(pool.waiting) == [1, 3, 4]
    pool.resume(records[1])
    assert numbers(pool.waiting) == [1, 2, 3, 4]
    pool.pause(records[0])
    pool.remove(1)
    assert numbers(pool.dispatch([0])) == [2, 3, 4]


def test_lost_streams_come_before_those_that_waited() -> None:
    pool = board(1)
    filled(pool, 5)
    pool.dispatch([0])
    pool.lose(0, strikes=CRASH_STRIKES)
    assert numbers(pool.waiting) == [1, 2, 3, 4, 5]
    assert numbers(pool.dispatch([0])) == [1, 2, 3]


def test_the_only_one_that_ended_two_workers_is_refused() -> None:
    pool = board(1)
    records = filled(pool, 3)
    pool.dispatch([0])
    assert pool.lose(0, strikes=CRASH_STRIKES).refused == []
    pool.dispatch([0])
    for each in records[:2]:
        each.take_token(5, 0.0)
    loss = pool.lose(0, strikes=CRASH_STRIKES)
    assert (numbers(loss.refused), numbers(loss.going_on)) == ([3], [1, 2])
    assert pool.find(3) is None


def test_workers_that_are_killed_from_outside_say_less_of_their_streams() -> None:
    pool = board(1)
    filled(pool, 1)
    for _ in range(3):
        pool.dispatch([0])
        assert pool.lose(0, strikes=KILL_STRIKES).refused == []
    pool.dispatch([0])
    assert numbers(pool.lose(0, strikes=KILL_STRIKES).refused) == [1]


def test_a_worker_that_we_restart_says_nothing_of_its_streams_not_even_of_one_on_trial() -> None:
    pool = board(workers=1)
    records = filled(pool, 2)
    for _ in range(2):
        pool.dispatch([0])
        assert pool.lose(0, strikes=CRASH_STRIKES).refused == []
    assert [each.on_trial for each in records] == [True, True]
    for _ in range(5):
        assert numbers(pool.dispatch([0])) == [1]
        loss = pool.lose(0, strikes=RESTART_STRIKES)
        assert (numbers(loss.going_on), loss.refused) == ([1], [])
    # It is on trial still: one crash more, and it is found.
    pool.dispatch([0])
    assert numbers(pool.lose(0, strikes=CRASH_STRIKES).refused) == [1]


def test_on_trial_each_is_alone_until_its_next_token() -> None:
    pool = board(1, rows=8)
    records = filled(pool, 4)
    for _ in range(2):
        pool.dispatch([0])
        pool.lose(0, strikes=CRASH_STRIKES)
    newcomer = record(9)
    pool.add(newcomer)
    for each in records:
        assert pool.dispatch([0]) == [each]
        each.take_token(5, 0.0)
    assert pool.dispatch([0]) == [newcomer]


def test_others_do_not_keep_one_on_trial_waiting_for_ever() -> None:
    """The one worker gets no others until the one that it has is proven."""
    pool = board(1, rows=8)
    first, on_trial = record(5), record(7)
    on_trial.on_trial = True
    pool.add(first)
    assert pool.dispatch([0]) == [first]
    pool.add(on_trial)
    pool.add(record(8))
    assert pool.dispatch([0]) == []
    first.take_token(5, 0.0)
    assert pool.dispatch([0]) == [on_trial]


def test_one_on_trial_does_not_wait_for_a_prompt_that_is_not_whole() -> None:
    pool = board(1)
    slow, on_trial = record(1, PartsInput()), record(2)
    on_trial.on_trial = True
    pool.add(slow)
    pool.add(on_trial)
    assert pool.dispatch([0]) == [slow, on_trial]


def test_on_trial_with_a_prompt_that_is_not_whole_holds_up_nobody() -> None:
    pool = board(1)
    slow, other = record(1, PartsInput()), record(2)
    slow.on_trial = True
    pool.add(slow)
    pool.add(other)
    assert pool.dispatch([0]) == [other]
    other.take_token(5, 0.0)
    slow.add_piece("Once", last=True)
    assert pool.dispatch([0]) == [slow]


@given(
    st.integers(1, 3),
    st.integers(1, 16),
    st.integers(1, 16),
    st.integers(1, 16),
    st.randoms(use_true_random=False),
)
def test_a_poison_stream_is_refused_and_none_of_its_neighbours(
    workers: int, rows: int, count: int, poison: int, random: Random
) -> None:
    """A worker that has it dies before or after giving the others there a token."""
    pool = board(workers, rows=rows)
    records = filled(pool, count)
    poison = min(poison, count)
    refused: list[int] = []
    losses = 0
    for _ in range(10 * count):
        pool.dispatch(range(workers))
        for each in [each for each in records if each.worker is not None]:
            if each.number != poison and random.random() < 0.5:
                each.take_token(5, 0.0)
        killer = records[poison - 1].worker
        if killer is not None and not refused:
            losses += 1
            refused += numbers(pool.lose(killer, strikes=CRASH_STRIKES).refused)
        for each in [each for each in records if len(each.delivered) > 2]:
            pool.remove(each.number)
    assert refused == [poison]
    assert 2 <= losses <= 3
    assert all(each.delivered for each in records if each.number != poison)


class Machine(RuleBasedStateMachine):
    """Workers die at any moment; a worker with the poison stream unproven dies as soon as it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.board = board(3)
        self.ready: set[int] = {0, 1, 2}
        self.live: dict[int, StreamRecord] = {}
        self.number = 0
        self.refused: list[int] = []

    def some(self, data: st.DataObject) -> StreamRecord:
        return self.live[data.draw(st.sampled_from(sorted(self.live)))]

    @rule(parts=st.booleans())
    def add(self, parts: bool) -> None:
        self.number += 1
        self.live[self.number] = record(self.number, PartsInput() if parts else PROMPT)
        self.board.add(self.live[self.number])

    @rule()
    def dispatch(self) -> None:
        waiting = list(self.board.waiting)
        given = self.board.dispatch(sorted(self.ready))
        assert numbers(given) == sorted(numbers(given))
        for each in given:
            assert each in waiting
            assert each.worker in self.ready
            assert self.board.unpaused(each.worker) <= ROWS
            if each.on_trial:
                others = (other for other in self.live.values() if other.worker == each.worker)
                assert [o for o in others if o.unproven and o.whole and not o.paused] == [each]

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def token(self, data: st.DataObject) -> None:
        each = self.some(data)
        if each.worker is not None and each.whole and not each.paused:
            each.take_token(5, 0.0)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        each = self.some(data)
        if not each.whole:
            each.add_piece("x", last=True)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), resume=st.booleans())
    def pause_or_resume(self, data: st.DataObject, resume: bool) -> None:
        (self.board.resume if resume else self.board.pause)(self.some(data))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        each = self.some(data)
        assert self.board.remove(each.number) is each
        assert self.board.remove(each.number) is None
        del self.live[each.number]

    @rule(worker=st.integers(0, 2), strikes=st.sampled_from((CRASH_STRIKES, KILL_STRIKES)))
    def lose(self, worker: int, strikes: int) -> None:
        there = {n: each.unproven for n, each in self.live.items() if each.worker == worker}
        loss = self.board.lose(worker, strikes=strikes)
        self.ready.discard(worker)
        assert numbers(loss.going_on) + numbers(loss.refused) == sorted(there) or loss.refused
        assert {*numbers(loss.going_on), *numbers(loss.refused)} == set(there)
        for each in loss.refused:
            assert each.strikes >= 2 * CRASH_STRIKES
            assert [n for n, unproven in there.items() if unproven] == [each.number]
            del self.live[each.number]

    @rule(worker=st.integers(0, 2))
    def restart(self, worker: int) -> None:
        self.ready.add(worker)

    @invariant()
    def each_is_in_one_place(self) -> None:
        waiting = numbers(self.board.waiting)
        assert waiting == sorted(n for n, e in self.live.items() if e.worker is None and not e.paused)
        for worker in range(3):
            assigned = [n for n, each in self.live.items() if each.worker == worker]
            assert self.board.assigned(worker) == len(assigned)
            assert all(self.board.find_on(number, worker) is self.live[number] for number in assigned)

    def teardown(self) -> None:
        assert numbers(self.board.clear()) == sorted(self.live)
        assert not self.board.waiting


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
