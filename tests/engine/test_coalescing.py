"""Equal requests in flight share one row, and nobody notices."""

import gc
import weakref
from typing import Any

import pytest
import pytest_asyncio

from engine.contract import EngineError
from engine.events import Assigned, Event, Failed, Interrupted, Token
from engine.requests import ChatInput, GenerationRequest, PartsInput, TextInput, TokenInput
from flowcontrol.reasons import Reason
from tests.engine.coalescing_subjects import TOKENS, Caller, Coalescing, unbroken
from tests.engine.requests import Sink, generation

REQUEST = generation(max_tokens=TOKENS)


@pytest_asyncio.fixture
async def subject() -> Coalescing:
    subject = Coalescing()
    await subject.engine.start()
    return subject


def sampled(**changes: Any) -> GenerationRequest:
    return generation(**{"temperature": 1.0, "seed": 3, **changes})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (generation(), generation()),
        (generation(seed=1), generation(seed=2)),
        (sampled(), sampled()),
        (sampled(logit_bias={1: 1.0, 2: 2.0}), sampled(logit_bias={2: 2.0, 1: 1.0})),
        (generation(TokenInput((1, 2))), generation(TokenInput((1, 2)))),
    ],
    ids=["greedy", "greedy whatever the seed", "one seed", "order of biases", "token ids"],
)
def test_what_shares(subject: Coalescing, one: GenerationRequest, other: GenerationRequest) -> None:
    subject.submit(one)
    subject.submit(other)
    assert subject.rows == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (sampled(), sampled(seed=4)),
        (generation(), generation(cache_salt="another tenant's")),
        (generation(), generation(TextInput("Another"))),
        (generation(), generation(ChatInput((("user", "Once upon a time there was"),)))),
        (generation(TextInput("1")), generation(TokenInput((1,)))),
        (generation(), generation(max_tokens=25)),
        (generation(), generation(stop_strings=("x",))),
        (generation(), generation(logprobs=0)),
        (generation(), generation(prefix_cache=False)),
        (generation(), generation(speculate=False)),
        (generation(), generation(resume_ids=(5,))),
        (generation(), generation(logit_bias={1: 1.0})),
        (generation(logit_bias={1: 1.0}), generation(logit_bias={1: 2.0})),
        (generation(), generation(repetition_penalty=1.1)),
        (generation(PartsInput()), generation(PartsInput())),
    ],
)
def test_what_does_not_share(subject: Coalescing, one: GenerationRequest, other: GenerationRequest) -> None:
    subject.submit(one)
    subject.submit(other)
    assert len(subject.inner.submitted) == 2


def test_one_that_joins_gets_all_from_the_beginning(subject: Coalescing) -> None:
    first = subject.submit(REQUEST)
    subject.step(5)
    late = subject.submit(REQUEST)
    assert late.events == []
    subject.turn()
    assert late.ids == first.ids == unbroken(REQUEST)[:5]
    assert len(late.prefills) == 1
    subject.step(TOKENS)
    assert late.ids == first.ids == unbroken(REQUEST)
    assert late.text == first.text
    assert {event.stream for event in late.events} == {late.number} != {first.number}
    assert subject.generated == TOKENS


def test_one_that_joins_may_get_its_first_events_with_the_next_of_the_row(subject: Coalescing) -> None:
    first = subject.submit(REQUEST)
    subject.step(5)
    late = subject.submit(REQUEST)
    subject.step()
    assert late.ids == first.ids == unbroken(REQUEST)[:6]
    subject.turn()
    assert len(late.ids) == 6


def test_the_row_stops_with_the_last_and_goes_on_with_the_first(subject: Coalescing) -> None:
    one, two = subject.submit(REQUEST), subject.submit(REQUEST)
    subject.step(3)
    subject.engine.pause(one.number)
    subject.step(3)
    assert (len(one.ids), len(two.ids)) == (3, 6)
    subject.engine.pause(two.number)
    subject.step(3)
    assert (len(two.ids), subject.generated, subject.paused_rows) == (6, 6, 1)
    subject.engine.resume(one.number)
    assert len(one.ids) == 3, "its sink was called within its own call"
    assert subject.paused_rows == 0
    subject.turn()
    assert one.ids == unbroken(REQUEST)[:6]
    subject.step(3)
    assert (len(one.ids), len(two.ids)) == (9, 6)


def test_one_that_joins_a_paused_row_wakes_it(subject: Coalescing) -> None:
    one = subject.submit(REQUEST)
    subject.step(3)
    subject.engine.pause(one.number)
    two = subject.submit(REQUEST)
    subject.step(3)
    assert (len(one.ids), len(two.ids)) == (3, 6)


def test_a_paused_one_gets_the_end_after_all_tokens(subject: Coalescing) -> None:
    one, two = subject.submit(REQUEST), subject.submit(REQUEST)
    subject.step(3)
    subject.engine.pause(one.number)
    subject.step(TOKENS)
    assert (two.has_all, len(one.events)) == (True, 4)
    subject.engine.resume(one.number)
    subject.turn()
    assert one.has_all
    assert one.text == two.text


def test_a_pause_within_the_sink_stops_a_replay_at_once(subject: Coalescing) -> None:
    def pause_at_every_third(event: Event) -> None:
        if isinstance(event, Token) and len(late.ids) % 3 == 0:
            subject.engine.pause(late.number)

    first = subject.submit(REQUEST)
    subject.step(10)
    late = Caller(pause_at_every_third)
    late.number = subject.engine.submit(REQUEST, late)
    subject.turn()
    assert len(late.ids) == 3
    for count in (6, 9, 10):
        subject.engine.resume(late.number)
        subject.turn()
        assert late.ids == unbroken(REQUEST)[:count]
    assert len(first.ids) == 10


def test_cancel_of_one_leaves_the_others_and_the_last_one_ends_the_row(subject: Coalescing) -> None:
    one, two, three = (subject.submit(REQUEST) for _ in range(3))
    subject.step(2)
    subject.engine.pause(two.number)
    subject.engine.cancel(one.number)
    subject.step(2)
    assert (len(one.ids), len(two.ids), len(three.ids)) == (2, 2, 4)
    subject.engine.cancel(three.number)
    subject.step(2)
    assert (subject.rows, subject.paused_rows, len(three.ids)) == (1, 1, 4)
    subject.engine.cancel(two.number)
    assert subject.rows == 0
    subject.turn()
    assert subject.submit(REQUEST) is not None
    assert len(subject.inner.submitted) == 2


def test_nobody_joins_a_row_that_has_ended(subject: Coalescing) -> None:
    """Not even from within the sink that is told so, nor while a paused one has not had all."""

    def again(event: Event) -> None:
        if isinstance(event, Failed):
            callers.append(subject.submit(REQUEST))

    callers: list[Caller] = []
    slow = subject.submit(REQUEST)
    subject.submit(REQUEST, again)
    subject.step(2)
    subject.engine.pause(slow.number)
    subject.step(2)
    subject.inner.fail(1, Reason.STEP_FAILED, "the model raised")
    assert len(subject.inner.submitted) == 2
    subject.step(TOKENS + 1)
    assert callers[0].has_all
    subject.engine.resume(slow.number)
    subject.turn()
    assert slow.ids == unbroken(REQUEST)[:4]
    assert slow.failed.reason is Reason.STEP_FAILED


def test_an_interruption_reaches_everybody_at_once(subject: Coalescing) -> None:
    one, two = subject.submit(REQUEST), subject.submit(REQUEST)
    subject.step(3)
    subject.engine.pause(two.number)
    subject.inner.interrupt(1)
    assert (one.interruptions, two.interruptions) == (1, 1)
    subject.step(3)
    late = subject.submit(REQUEST)
    subject.engine.resume(two.number)
    subject.turn()
    subject.step(TOKENS)
    assert one.has_all
    assert two.has_all
    assert late.has_all
    # What was computed again is news only to one that was up to date then, and to nobody who joined later.
    assert [len(caller.prefills) for caller in (one, two, late)] == [2, 1, 1]
    assert late.interruptions == 0
    assert late.prefills[0].total == late.finished.prompt_tokens


def test_all_are_told_which_worker_has_the_row(subject: Coalescing) -> None:
    one, two = subject.submit(REQUEST), subject.submit(REQUEST)
    tell = subject.inner.submitted[1]
    tell(Assigned(1, 0, 100))
    subject.turn()
    late = subject.submit(REQUEST)
    subject.turn()
    tell(Interrupted(1))
    tell(Assigned(1, 1, 101))
    for caller in (one, two, late):
        assert caller.assigned == [Assigned(caller.number, 0, 100), Assigned(caller.number, 1, 101)]


def test_one_that_joins_between_two_workers_is_told_of_the_second(subject: Coalescing) -> None:
    subject.submit(REQUEST)
    tell = subject.inner.submitted[1]
    tell(Assigned(1, 0, 100))
    tell(Interrupted(1))
    late = subject.submit(REQUEST)
    subject.turn()
    assert late.assigned == []
    tell(Assigned(1, 1, 101))
    assert late.assigned == [Assigned(late.number, 1, 101)]


def test_a_prepared_request_that_joins_is_forgotten(subject: Coalescing) -> None:
    engine = subject.engine
    for _ in range(2):
        engine.submit(REQUEST, Sink(), prepared=engine.prepare(REQUEST))
    assert subject.inner.forgotten == [7]


def test_joining_is_refused_while_the_engine_is_not_ready(subject: Coalescing) -> None:
    first, refused = subject.submit(REQUEST), Sink()
    subject.step(2)
    subject.engine.pause(first.number)
    subject.inner.restarting = True
    with pytest.raises(EngineError):
        subject.engine.submit(REQUEST, refused, prepared=7)
    assert (subject.paused_rows, subject.due, subject.inner.forgotten) == (1, [], [])
    subject.inner.restarting = False
    second = subject.submit(REQUEST)
    subject.engine.resume(first.number)
    subject.turn()
    subject.step(TOKENS)
    assert first.has_all
    assert second.has_all
    assert refused.events == []


def test_rows_of_an_engine_that_died_are_not_joined(subject: Coalescing) -> None:
    first = subject.submit(REQUEST)
    subject.step(2)
    subject.inner.die()
    assert first.failed.reason is Reason.WORKER_LOST
    subject.inner.revive()
    second = subject.submit(REQUEST)
    subject.step(TOKENS + 1)
    assert second.has_all


def test_events_are_kept_until_the_last_one_has_them_and_no_longer(subject: Coalescing) -> None:
    slow, fast = subject.submit(REQUEST), subject.submit(REQUEST)
    row: Any = subject.inner.submitted[1]
    kept = weakref.ref(row.__self__)
    del row
    subject.inner.submitted.clear()
    subject.step(2)
    subject.engine.pause(slow.number)
    subject.step(TOKENS)
    gc.collect()
    assert fast.has_all
    assert kept() is not None
    subject.engine.resume(slow.number)
    subject.turn()
    gc.collect()
    assert slow.has_all
    assert kept() is None


async def test_nothing_comes_after_stop(subject: Coalescing) -> None:
    one = subject.submit(REQUEST)
    subject.step(3)
    late = subject.submit(REQUEST)
    await subject.engine.stop()
    subject.turn()
    subject.step(3)
    assert (len(one.ids), late.events) == (3, [])
