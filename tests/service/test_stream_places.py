"""What a stream tells admission of its place in the engine's batch."""

import pytest

from engine.events import Assigned
from flowcontrol.admission.ask import Outcome
from flowcontrol.admission.ticket import Ticket, TicketState
from tests.flowcontrol.admission.governors import ask, ticket
from tests.service.drivers import START_S, StreamDriver, scripted_engine


async def driver() -> StreamDriver:
    engine = scripted_engine()
    await engine.start()
    return StreamDriver(engine, stopping={"max_tokens": 2})


def others(driver: StreamDriver, number: int) -> list[Ticket]:
    """So many streams beside the driver's; the engine has places for all but the last."""
    tickets = [ticket(driver.governor.ask(ask(), START_S)) for _ in range(number)]
    for one in tickets:
        one.place_known(one is not tickets[-1])
    return tickets


async def test_a_stream_that_a_worker_has_taken_has_a_place() -> None:
    subject = await driver()
    subject.stream.take_event(Assigned(1, 0, 100))
    *_, last = others(subject, 3)
    # Three places are known, and one stream more may wait in front of them.
    last.end(Outcome.IGNORED, 0, START_S)
    assert ticket(subject.governor.ask(ask(), START_S)).state is TicketState.ADMITTED
    assert ticket(subject.governor.ask(ask(), START_S)).state is TicketState.WAITING


@pytest.mark.parametrize("ended", [True, False])
async def test_a_stream_that_the_engine_has_ended_has_no_place_before_its_end_is_sent(ended: bool) -> None:
    subject = await driver()
    subject.step(2 if ended else 1)
    *_, last = others(subject, 2)
    last.place_known(True)
    # Three streams, and three places, unless the last one took that of the first.
    state = ticket(subject.governor.ask(ask(), START_S)).state
    assert state is (TicketState.WAITING if ended else TicketState.ADMITTED)
