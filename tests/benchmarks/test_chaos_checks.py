"""What a chaos run does and what it lets pass."""

import pytest

from benchmarks.chaos.__main__ import as_result, read_arguments, violations
from benchmarks.chaos.callers import COMPLETED, VIOLATION, Ended, Way, difference, drawn_way
from benchmarks.chaos.plan import WEIGHTS, make_plan
from benchmarks.chaos.requests import KINDS, PART_BYTES, Output, make_requests
from benchmarks.chaos.run import Found, Size, too_much
from benchmarks.chaos.watch import Held, unsettled
from penstock.v1.status_pb2 import (
    WORKER_STATE_READY,
    WORKER_STATE_STARTING,
    MessagePool,
    PrefixCache,
    Status,
    StreamCounts,
    Worker,
)

SIZE = Size(duration_s=60.0, events=50, requests=12, max_tokens=40, seed=1, weights=WEIGHTS)
WHOLE = Output("one two three", (1, 2, 3), 2)


def test_a_plan_has_every_kind_and_is_the_same_for_a_seed() -> None:
    plan = make_plan(50, 100.0, seed=3)
    assert plan == make_plan(50, 100.0, seed=3) != make_plan(50, 100.0, seed=4)
    assert len(plan) == 50
    assert {event.kind for event in plan} == WEIGHTS.keys()
    times_s = [event.at_s for event in plan]
    assert times_s == sorted(times_s)
    assert 5.0 <= times_s[0] <= times_s[-1] <= 100.0
    assert all(0 <= event.dice < 1 for event in plan)


def test_a_short_plan_has_as_many_events_as_asked_for() -> None:
    assert len(make_plan(3, 10.0, seed=1)) == 3


def test_requests_are_of_all_kinds_and_determined() -> None:
    requests = make_requests(2 * len(KINDS), 40, seed=1)
    assert [each.name.split()[0] for each in requests] == [*KINDS, *KINDS]
    for each in requests:
        assert each.options.get("temperature") == 0 or each.options.get("seed") is not None
    assert any(isinstance(each.prompt, str) and len(each.prompt) > PART_BYTES for each in requests)


@pytest.mark.parametrize(
    ("got", "whole", "place"),
    [
        (WHOLE, True, None),
        (Output("one two", (1, 2), 2), False, None),
        (Output("", (), 2), False, None),
        (Output("one two", (1, 2), 2), True, 2),
        (Output("one two two three", (1, 2, 2, 3), 2), True, 2),
        (Output("one three", (1, 3), 2), False, 1),
        (Output("one too", (1, 2), 2), False, 2),
        (Output("one two three!", (1, 2, 3), 2), True, 3),
    ],
)
def test_a_lost_repeated_or_other_token_is_found(got: Output, whole: bool, place: int | None) -> None:
    found = difference(got, WHOLE, whole=whole)
    assert (found == "") is (place is None)
    if place is not None:
        assert f"from token {place} of 3" in found


def test_a_caller_does_what_its_event_says() -> None:
    ways = {"slow": "stall", "gone": "disconnect"}
    assert drawn_way("slow", 0.5, ways).pause_s > 0
    assert drawn_way("gone", 0.0, ways) == Way(after_chunks=1, leave="disconnect")
    assert drawn_way("other", 0.5, ways) == Way()


def settled_worker(index: int) -> Worker:
    cache = PrefixCache(bytes=100)
    return Worker(state=WORKER_STATE_READY, index=index, kv_bytes=100, prefix_cache=cache)


def settled_status() -> Status:
    return Status(workers=[settled_worker(0), settled_worker(1)])


def test_a_whole_and_empty_pool_is_settled() -> None:
    assert unsettled(settled_status(), 2) == []


@pytest.mark.parametrize(
    "change",
    [
        Status(streams=StreamCounts(active=1)),
        Status(waiting_for_worker=1),
        Status(message_pool=MessagePool(in_use=1)),
        Status(workers=[settled_worker(2)]),
    ],
)
def test_what_is_left_is_found(change: Status) -> None:
    status = settled_status()
    status.MergeFrom(change)
    assert len(unsettled(status, 2)) == 1


@pytest.mark.parametrize(
    "change",
    [
        Worker(state=WORKER_STATE_STARTING),
        Worker(running_rows=1),
        Worker(waiting_rows=1),
        Worker(paused_rows=1),
        Worker(streams=1),
        Worker(kv_bytes=101),
        Worker(parked_kv_bytes=1),
    ],
)
def test_what_a_worker_keeps_is_found(change: Worker) -> None:
    status = settled_status()
    status.workers[1].MergeFrom(change)
    assert len(unsettled(status, 2)) == 1


def test_a_server_that_grew_is_found() -> None:
    before = Held(rss_bytes=100_000_000, files=20, processes=3)
    assert too_much(before, Held(120_000_000, 25, 3)) == []
    assert len(too_much(before, Held(200_000_000, 25, 3))) == 1
    assert len(too_much(before, Held(120_000_000, 60, 3))) == 1
    assert len(too_much(before, Held(120_000_000, 25, 4))) == 1


def test_the_result_counts_streams_and_violations() -> None:
    found = Found(problems=["left over"])
    found.ended = [Ended("a", COMPLETED, refusals=("QUEUE_FULL",)), Ended("b", VIOLATION, "differs")]
    assert violations(found) == ["left over", "b: differs"]
    result = as_result(found, SIZE)
    assert result.ratios["violations"] == 2
    counts = {row["what"]: row["count"] for row in result.rows}
    assert counts["stream completed"] == counts["stream violation"] == 1
    assert counts["refused and asked again: QUEUE_FULL"] == 1


@pytest.mark.parametrize("given", [("--minutes", "0"), ("--requests", "0"), ("--max-tokens", "7")])
def test_arguments_out_of_range_are_refused(given: tuple[str, str]) -> None:
    with pytest.raises(SystemExit):
        read_arguments(given)


def test_arguments_have_defaults() -> None:
    arguments = read_arguments([])
    assert (arguments.minutes, arguments.seed, arguments.events) == (5.0, 1, None)
