"""Whatever subscribers do, each one gets the output of its request, and as few rows run as can."""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from engine.events import Event, Failed, Finished, Token
from engine.requests import TextInput
from flowcontrol.reasons import Reason
from tests.engine.coalescing_subjects import TOKENS, Caller, Coalescing, is_in_order, unbroken
from tests.engine.requests import generation

REQUESTS = [
    generation(TextInput(text), max_tokens=TOKENS, temperature=temperature, seed=9)
    for text in ("Once", "The fox")
    for temperature in (0.0, 1.0)
]


class Subscriber(Caller):
    """asked: index of its request. pauses_at, cancels_at: tokens after which its sink does so."""

    def __init__(self, subject: Coalescing, asked: int, pauses_at: set[int], cancels_at: int) -> None:
        super().__init__(self.act)
        self.subject = subject
        self.asked = asked
        self.pauses_at = pauses_at
        self.cancels_at = cancels_at
        self.paused = False
        self.cancelled = False
        self.tokens_at_pause = 0
        self.row = 0
        """Number of the row that it must be on."""

    def act(self, event: Event) -> None:
        assert not self.cancelled, "an event after cancel"
        if not isinstance(event, Token):
            return
        assert not self.paused, "a token while paused"
        if len(self.ids) == self.cancels_at:
            self.cancel()
        elif len(self.ids) in self.pauses_at:
            self.pause()

    def pause(self) -> None:
        self.paused = True
        self.subject.engine.pause(self.number)

    def resume(self) -> None:
        self.paused = False
        self.subject.engine.resume(self.number)

    def cancel(self) -> None:
        self.cancelled = True
        self.subject.engine.cancel(self.number)

    @property
    def open(self) -> bool:
        return not self.cancelled and not self.ended.is_set()


class CoalescingMachine(RuleBasedStateMachine):
    """rows: of each request, the number of the row in flight, if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.subject = Coalescing()
        asyncio.run(self.subject.engine.start())
        self.callers: list[Subscriber] = []

    def on_row(self, row: int) -> list[Subscriber]:
        return [caller for caller in self.callers if caller.row == row and not caller.cancelled]

    def in_flight(self, row: int) -> bool:
        """Whether the row runs: nobody was told of its end, and somebody wants it."""
        return row in self.subject.inner._rows

    @property
    def open(self) -> list[Subscriber]:
        return [caller for caller in self.callers if caller.open]

    @rule(
        asked=st.integers(0, len(REQUESTS) - 1),
        pauses_at=st.sets(st.integers(1, TOKENS), max_size=4),
        cancels_at=st.sampled_from([0, 0, 0, 1, 5, TOKENS]),
    )
    def submit(self, asked: int, pauses_at: set[int], cancels_at: int) -> None:
        rows = {caller.row for caller in self.callers if caller.asked == asked}
        joinable = [row for row in rows if self.in_flight(row)]
        before = len(self.subject.inner.submitted)
        caller = Subscriber(self.subject, asked, pauses_at, cancels_at)
        caller.number = self.subject.engine.submit(REQUESTS[asked], caller)
        assert caller.events == []
        assert len(joinable) <= 1
        assert len(self.subject.inner.submitted) == before + (not joinable)
        caller.row = joinable[0] if joinable else max(self.subject.inner.submitted)
        self.callers.append(caller)

    @rule(steps=st.integers(1, 8))
    def step(self, steps: int) -> None:
        self.subject.step(steps)

    @rule()
    def turn(self) -> None:
        self.subject.turn()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.open)).pause()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        caller = data.draw(st.sampled_from(self.open))
        before = len(caller.events)
        caller.resume()
        assert len(caller.events) == before

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.open)).cancel()

    @precondition(lambda self: self.subject.inner._rows)
    @rule(data=st.data(), fails=st.booleans())
    def lose(self, data: st.DataObject, fails: bool) -> None:
        row = data.draw(st.sampled_from(sorted(self.subject.inner._rows)))
        if fails:
            self.subject.inner.fail(row, Reason.STEP_FAILED, "the model raised")
        else:
            self.subject.inner.interrupt(row)

    @invariant()
    def each_has_a_beginning_of_its_own_output(self) -> None:
        for caller in self.callers:
            assert caller.ids == unbroken(REQUESTS[caller.asked])[: len(caller.ids)]
            assert is_in_order(caller)

    @invariant()
    def a_row_runs_while_somebody_wants_it(self) -> None:
        for row, scripted in self.subject.inner._rows.items():
            present = self.on_row(row)
            assert present
            assert scripted.paused == all(caller.paused for caller in present)

    @invariant()
    def nobody_who_is_not_paused_is_behind(self) -> None:
        if self.subject.due:
            return  # Those who joined or resumed get theirs in the next turn.
        for row, scripted in self.subject.inner._rows.items():
            for caller in self.on_row(row):
                assert caller.paused or len(caller.ids) == scripted.generated
                assert caller.open

    def teardown(self) -> None:
        """All that are left go on, and get all that there is."""
        for _ in range(200):
            for caller in self.open:
                caller.pauses_at = set()
                if caller.paused:
                    caller.resume()
            self.subject.step()
            self.subject.turn()
        assert not self.open
        for caller in self.callers:
            if caller.cancelled:
                continue
            assert isinstance(caller.end, Finished | Failed)
            assert caller.has_all or isinstance(caller.end, Failed)
            same = [other for other in self.on_row(caller.row) if not other.cancelled]
            assert all(type(other.end) is type(caller.end) for other in same)
            assert all(other.ids == caller.ids for other in same)
        assert self.subject.rows == 0


def test_coalescing_machine() -> None:
    run_state_machine_as_test(
        CoalescingMachine, settings=settings(max_examples=80, stateful_step_count=40, deadline=None)
    )
