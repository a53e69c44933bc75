"""Streams for which the engine has no place in its batch, though they hold a permit."""

from collections.abc import Sequence

import pytest

from flowcontrol.admission.ask import Outcome
from flowcontrol.admission.governor import Governor
from flowcontrol.admission.ticket import Ticket, TicketState
from tests.flowcontrol.admission.governors import ask, governor, taught, ticket


def full_engine(initial_streams: int, without_place: int) -> tuple[Governor, list[Ticket]]:
    """A governor that has given six permits; the last ones found no place."""
    subject = governor(initial_streams=initial_streams)
    streams = [ticket(subject.ask(ask(), 0.0)) for _ in range(6)]
    tell_places(streams, 6 - without_place)
    return subject, streams


def tell_places(streams: Sequence[Ticket], places: int) -> None:
    """The engine has places for the first ones."""
    for number, stream in enumerate(streams):
        stream.place_known(number < places)
        stream.place_known(number < places)  # Told again: counted once.


def test_no_permit_is_given_while_a_stream_waits_in_front_of_the_batch() -> None:
    subject, streams = full_engine(initial_streams=8, without_place=1)
    late = ticket(subject.ask(ask(), 0.1))
    assert late.state is TicketState.WAITING
    streams[-1].place_known(True)
    assert subject.decide(0.2) == [late]


@pytest.mark.parametrize("how", ["first token", "end"])
def test_a_stream_that_goes_on_or_ends_waits_for_no_place(how: str) -> None:
    subject, streams = full_engine(initial_streams=8, without_place=1)
    late = ticket(subject.ask(ask(), 0.1))
    if how == "end":
        streams[-1].end(Outcome.IGNORED, 0, 0.2)
    else:
        streams[-1].first_token(0.2)
    assert subject.decide(0.2) == [late]
    streams[-1].place_known(False)  # Too late to count.
    for now_s in (1.0, 2.0):
        subject.decide(now_s)
    assert ticket(subject.ask(ask(), 2.1)).state is TicketState.ADMITTED


def test_of_many_places_a_few_streams_more_may_wait_in_front_of_the_batch() -> None:
    subject = governor(initial_streams=64)
    tell_places([ticket(subject.ask(ask(), 0.0)) for _ in range(33)], 32)
    states = [ticket(subject.ask(ask(), 0.1)).state for _ in range(4)]  # An eighth of 32 may wait there.
    assert states == [TicketState.ADMITTED] * 3 + [TicketState.WAITING]


def test_when_streams_end_together_no_more_permits_are_given_than_there_are_places() -> None:
    subject = governor(initial_streams=64)
    streams = [ticket(subject.ask(ask(), 0.0)) for _ in range(36)]
    tell_places(streams, 32)
    waiting = [ticket(subject.ask(ask(), 0.1)) for _ in range(40)]
    for stream in streams[:32]:
        stream.end(Outcome.SUCCESS, 10, 0.2)
    # The engine tells of its places only with its next step.
    assert subject.decide(0.2) == waiting[:32]


def test_a_place_counts_once_when_another_stream_takes_it_before_the_end_is_known() -> None:
    subject, streams = full_engine(initial_streams=8, without_place=1)
    streams[0].left_engine()
    streams[5].place_known(True)
    assert ticket(subject.ask(ask(), 0.1)).state is TicketState.WAITING
    streams[0].end(Outcome.SUCCESS, 10, 0.2)
    streams[0].left_engine()  # Its permit is back already.
    assert len(subject.decide(0.2)) == 1


def test_the_places_of_an_engine_in_which_nobody_waits_any_more_are_forgotten() -> None:
    subject = governor(initial_streams=64)
    streams = [ticket(subject.ask(ask(), 0.0)) for _ in range(36)]
    tell_places(streams, 32)
    for stream in streams:
        stream.end(Outcome.SUCCESS, 10, 0.1)
    for now_s in (1.0, 2.0):
        subject.decide(now_s)
    states = {ticket(subject.ask(ask(), 2.1)).state for _ in range(64)}
    assert states == {TicketState.ADMITTED}


def test_more_places_are_found_when_there_are_more() -> None:
    subject = governor(initial_streams=64)
    streams = [ticket(subject.ask(ask(), 0.0)) for _ in range(9)]
    tell_places(streams, 8)
    streams += [ticket(subject.ask(ask(), 0.1)) for _ in range(50)]
    for _ in range(50):
        admitted = [stream for stream in streams if stream.state is TicketState.ADMITTED]
        tell_places(admitted, 50)
        subject.decide(0.2)
    assert len(admitted) == 56  # An eighth of 50 more than there are places.


def test_the_wait_is_that_for_a_place_where_the_limit_is_higher() -> None:
    def foretold(limit: int, waits: int, *, told: bool) -> list[float]:
        """Of those who ask while as many streams as may be are in flight, of which 8 run."""
        subject = governor(initial_streams=limit)
        now_s = taught(subject, first_token_s=0.1, step_s=0.1)
        streams = [ticket(subject.ask(ask(), now_s)) for _ in range(limit)]
        if told:
            tell_places(streams, 8)
        for stream in streams[:8]:
            stream.first_token(now_s)
        waiting = [ticket(subject.ask(ask(), now_s)) for _ in range(waits)]
        outlook = subject.outlook(now_s)
        return [outlook[stream].wait_s for stream in waiting]

    # Who waits here, and the four before them in the engine, wait for the same eight places.
    assert foretold(12, 13, told=True) == pytest.approx(foretold(8, 17, told=False)[4:], rel=0.1)


def test_who_waits_in_the_engine_goes_before_who_waits_here() -> None:
    subject = governor(initial_streams=2)
    now_s = taught(subject, first_token_s=0.1, step_s=0.1)
    streams = [ticket(subject.ask(ask(), now_s)) for _ in range(2)]
    streams[0].first_token(now_s)  # It ends before the other one.
    waiting = ticket(subject.ask(ask(), now_s))
    before_s = subject.outlook(now_s)[waiting].wait_s
    streams[1].place_known(False)
    assert subject.outlook(now_s)[waiting].wait_s > before_s


def test_waiting_for_a_place_is_excused_by_no_prompt_and_teaches_nothing_of_prompts() -> None:
    loads = []
    for has_place in (True, False):
        subject = governor(initial_streams=4, limits={"strategy": "pid", "min_samples": 1})
        for tokens in (100, 1000, 3000):
            other = ticket(subject.ask(ask(prompt_tokens=tokens), 0.0))
            other.first_token(tokens / 1000)
            other.end(Outcome.SUCCESS, 1, tokens / 1000)
        subject.decide(3.0)
        stream = ticket(subject.ask(ask(prompt_tokens=10), 3.0))
        ticket(subject.ask(ask(prompt_tokens=2000), 3.0))
        last = ticket(subject.ask(ask(prompt_tokens=10), 3.0))
        stream.end(Outcome.IGNORED, 0, 3.0)
        last.place_known(has_place)
        before_s = subject.snapshot(3.0).estimates.first_token_s
        last.first_token(5.0)
        taught_s = subject.snapshot(5.0).estimates.first_token_s
        assert (taught_s != before_s) == has_place
        subject.decide(5.0)
        loads.append(subject.snapshot(5.0).limit.ttft_load)
    with_place, without_place = loads
    assert with_place is not None
    assert without_place is not None
    assert without_place > with_place
