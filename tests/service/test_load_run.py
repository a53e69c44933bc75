"""When requests are sent, sent again, or not sent."""

import asyncio

import pytest

from service.load.attempt import Attempt, Ending
from service.load.run import UNTOLD_WAIT_S
from tests.service.load_runs import Play, prepared, ran

ARRIVALS = [0.5, 1.0, 1.5, 2.0]


def refused(attempt: Attempt) -> Play:
    return Play(0.25, Ending.REFUSED, "QUEUE_FULL", retry_after_s=2.0)


async def test_late_answers_delay_no_arrival() -> None:
    it = await ran(lambda attempt: Play(took_s=100.0), ARRIVALS, grace_s=200.0)
    assert it.sent_s == ARRIVALS
    assert it.endings == [Ending.ANSWERED] * 4
    assert it.caller.most_open == 4
    assert it.run.ended_s == 102.0


async def test_a_run_lasts_as_long_as_it_was_asked_to() -> None:
    assert (await ran(lambda attempt: Play(), ARRIVALS)).run.ended_s == 10.0


async def test_requests_are_those_of_the_seed_in_order() -> None:
    first, again = await ran(lambda a: Play(), ARRIVALS), await ran(lambda a: Play(1.0), ARRIVALS)
    assert first.caller.requests == again.caller.requests
    assert [request.number for request in first.caller.requests] == [1, 2, 3, 4]


async def test_what_was_sent_late_says_so() -> None:
    it = await ran(lambda a: Play(blocks_s=0.75 if a.number == 1 else 0.0), ARRIVALS)
    lags = [round(attempt.sent_s - attempt.due_s, 6) for attempt in it.run.attempts]
    assert lags == [0.0, 0.25, 0.0, 0.0]


async def test_no_more_streams_than_may_be_open() -> None:
    it = await ran(lambda attempt: Play(took_s=0.75), ARRIVALS, max_streams=1)
    assert it.endings == [Ending.ANSWERED, Ending.NOT_SENT, Ending.ANSWERED, Ending.NOT_SENT]
    assert it.caller.most_open == 1
    assert [attempt.number for attempt in it.run.attempts] == [1, 2, 3, 4]


async def test_arrivals_at_one_moment_keep_to_the_bound() -> None:
    it = await ran(lambda attempt: Play(took_s=1.0), [1.0] * 5, max_streams=3)
    assert it.endings.count(Ending.NOT_SENT) == 2
    assert it.caller.most_open == 3


async def test_streams_that_stay_open_are_ended_after_the_grace_time() -> None:
    it = await ran(lambda attempt: Play(took_s=1000.0), ARRIVALS, grace_s=0.0)
    assert it.endings == [Ending.UNFINISHED] * 4


async def test_refused_once_without_retries() -> None:
    it = await ran(refused, [1.0])
    assert it.sent_s == [1.0]


async def test_refused_callers_come_back_when_they_were_told_to() -> None:
    it = await ran(refused, [1.0], max_tries=3)
    assert it.sent_s == [1.0, 3.25, 5.5]
    assert [(attempt.number, attempt.tries) for attempt in it.run.attempts] == [(1, 1), (1, 2), (1, 3)]
    assert [attempt.due_s for attempt in it.run.attempts] == [1.0, 3.25, 5.5]


async def test_an_answer_ends_the_tries() -> None:
    it = await ran(lambda a: refused(a) if a.tries == 1 else Play(), [1.0], max_tries=5)
    assert it.endings == [Ending.REFUSED, Ending.ANSWERED]


@pytest.mark.parametrize("ending", [Ending.FAILED, Ending.LOST])
async def test_what_is_not_refused_is_not_tried_again(ending: Ending) -> None:
    it = await ran(lambda attempt: Play(0.0, ending, retry_after_s=0.0), [1.0], max_tries=5)
    assert it.endings == [ending]


async def test_nobody_comes_back_after_the_end() -> None:
    it = await ran(refused, [7.0, 8.0], max_tries=5)
    assert it.sent_s == [7.0, 8.0, 9.25]


async def test_a_refusal_that_tells_no_time() -> None:
    it = await ran(lambda attempt: Play(0.0, Ending.REFUSED), [1.0], max_tries=2)
    assert it.sent_s == [1.0, 1.0 + UNTOLD_WAIT_S]


async def test_no_try_again_while_all_streams_are_open() -> None:
    it = await ran(
        lambda a: refused(a) if a.number == 1 else Play(took_s=5.0), [0.0, 1.0], max_tries=2, max_streams=1
    )
    assert it.endings == [Ending.REFUSED, Ending.ANSWERED]
    assert it.run.snapshot().waiting == 0


async def test_a_closed_loop_asks_when_a_caller_is_free() -> None:
    it = await ran(lambda attempt: Play(took_s=2.0), callers=2, duration_s=5.0)
    assert it.sent_s == [0.0, 0.0, 2.0, 2.0, 4.0, 4.0]
    assert it.caller.most_open == 2
    assert sorted(request.number for request in it.caller.requests) == [1, 2, 3, 4, 5, 6]
    assert it.endings == [Ending.ANSWERED] * 6


async def test_a_closed_loop_ends_after_so_many_requests() -> None:
    it = await ran(lambda attempt: Play(took_s=1.0), callers=2, max_requests=3)
    assert it.sent_s == [0.0, 0.0, 1.0]
    assert it.run.ended_s == 2.0


@pytest.mark.parametrize("ending", [Ending.REFUSED, Ending.LOST])
async def test_a_caller_of_a_closed_loop_does_not_hammer(ending: Ending) -> None:
    it = await ran(lambda attempt: Play(0.0, ending, retry_after_s=4.0), callers=1)
    assert it.sent_s == [0.0, 4.0, 8.0]
    assert it.run.ended_s == 10.0


async def test_a_cancelled_run_keeps_what_there_is() -> None:
    it = prepared(lambda a: Play(took_s=0.0 if a.number == 1 else 9.0), ARRIVALS)
    with pytest.raises(asyncio.CancelledError):
        await it.time.drive(it.run.run(), cancel_s=1.25)
    assert it.endings == [Ending.ANSWERED, Ending.UNFINISHED]
    assert [attempt.ended_s for attempt in it.run.attempts] == [0.5, 1.25]
    assert it.run.ended_s == 1.25


async def test_a_defect_ends_the_run() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await ran(lambda attempt: Play(defect=KeyError("x")), ARRIVALS)
    assert caught.group_contains(KeyError)


async def test_the_snapshot_counts() -> None:
    it = prepared(refused, [1.0, 1.9], max_tries=2)
    seen = []

    async def watch() -> None:
        await it.time.sleep(2.0)
        seen.append(it.run.snapshot())

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        await it.time.drive(it.run.run())
    now = seen[0]
    assert (now.now_s, now.asked, now.open_streams, now.waiting) == (2.0, 2, 1, 1)
    assert now.endings == {Ending.REFUSED: 1}
