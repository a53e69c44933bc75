"""Streams for which the engine has no place in its batch, though they hold a permit."""

import pytest

from flowcontrol.admission.ask import Outcome
from flowcontrol.admission.governor import Governor
from flowcontrol.admission.ticket import Ticket, TicketState
from tests.flowcontrol.admission.governors import ask, governor, taught, ticket


def full_engine(initial_streams: int, without_place: int) -> tuple[Governor, list[Ticket]]:
    """A governor that has given six permits; the last ones found no place."""
    subject = governor(initial_streams=initial_streams)
    streams = [ticket(subject.ask(ask(), 0.0)) for _ in range(6)]
    for stream in streams[6 - without_place :]:
        stream.place_known(False)
        stream.place_known(False)  # Told again: counted once.
    return subject, streams


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
    assert ticket(subject.ask(ask(), 0.3)).state is TicketState.ADMITTED


def test_of_a_high_limit_a_few_may_wait_in_front_of_the_batch() -> None:
    subject, _ = full_engine(initial_streams=32, without_place=1)  # An eighth of 32: four.
    late = [ticket(subject.ask(ask(), 0.1)) for _ in range(2)]
    assert [stream.state for stream in late] == [TicketState.ADMITTED] * 2
    for stream in late:
        stream.place_known(False)
    assert ticket(subject.ask(ask(), 0.2)).state is TicketState.ADMITTED
    subject, _ = full_engine(initial_streams=32, without_place=4)
    assert ticket(subject.ask(ask(), 0.1)).state is TicketState.WAITING


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
