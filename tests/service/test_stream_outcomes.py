"""The outcome that a stream tells at its end, and what it tells on its way."""

import pytest

from engine.scripted import ScriptedEngine
from flowcontrol.reasons import Reason
from flowcontrol.stream_state import Input
from service.errors import ServiceError
from service.observation import Cause, Observation, StreamOutcome
from tests.service.drivers import StreamDriver
from tests.service.sinks import LABELS, RecordingSink


class Watched:
    """A stream and what it has told."""

    def __init__(self, engine: ScriptedEngine, **driver: object) -> None:
        self.sink = RecordingSink()
        self.observation = Observation([self.sink])
        self.driver = StreamDriver(engine, observer=self.observation.stream(LABELS), **driver)  # type: ignore[arg-type]

    def after(self, seconds: float) -> None:
        self.driver.clock.now_s += seconds

    def run(self, steps: int, *, each_s: float) -> None:
        """Steps with a writer that keeps up."""
        for _ in range(steps):
            self.after(each_s)
            self.driver.run(1)

    @property
    def gaps_s(self) -> list[float]:
        self.observation.flush()
        return [round(gap_s, 6) for _, gaps_s in self.sink.told_gaps for gap_s in gaps_s]

    @property
    def outcome(self) -> StreamOutcome:
        [outcome] = self.sink.outcomes
        return outcome


def test_a_stream_that_finishes(engine: ScriptedEngine) -> None:
    watched = Watched(engine, stopping={"max_tokens": 4})
    watched.run(5, each_s=0.5)
    assert watched.driver.answer.finished is not None
    [(labels, ttft_s)] = watched.sink.first_tokens
    assert labels == LABELS
    assert watched.gaps_s == [0.5] * 3
    outcome = watched.outcome
    assert (outcome.cause, outcome.reason, outcome.labels) == (None, "length", LABELS)
    assert (outcome.prompt_tokens, outcome.completion_tokens) == (3, 4)
    assert outcome.ttft_s == ttft_s
    assert outcome.decode_s == pytest.approx(1.5)
    assert set(outcome.stages_s) == {"queue", "tokenise", "cache_lookup", "prefill", "first_token"}
    watched.driver.stream.close(Input.CANCEL)
    assert watched.sink.outcomes == [outcome]


def test_a_stall_and_a_pause_are_not_between_tokens(engine: ScriptedEngine) -> None:
    watched = Watched(engine, flow={"max_unacked_chunks": 2, "max_tokens_per_chunk": 2})
    driver = watched.driver
    watched.run(2, each_s=0.25)
    while not driver.paused:
        watched.run(1, each_s=0.25)
    waiting = watched.gaps_s
    watched.after(3.0)
    driver.ack_all()
    driver.write_all()
    assert not driver.paused
    watched.run(1, each_s=0.25)
    assert watched.gaps_s == waiting
    driver.ack_all()
    driver.write_all()
    watched.run(1, each_s=0.25)
    driver.ack_all()
    driver.write_all()
    watched.run(1, each_s=0.25)
    driver.stream.take_cancel()
    outcome = watched.outcome
    assert (outcome.cause, outcome.reason) == (Cause.CLIENT, "cancelled")
    assert outcome.stalls >= 1
    assert outcome.stalled_s >= 3.0
    assert all(gap_s == 0.25 for gap_s in watched.gaps_s)
    assert outcome.decode_s == pytest.approx(sum(watched.gaps_s))
    counts = driver.registry.snapshot().backpressure
    assert counts.stalls == outcome.stalls
    assert counts.stalled_s == pytest.approx(outcome.stalled_s)
    assert (counts.parks, counts.resumes) == (1, 1)
    assert counts.coalesced_tokens == len(driver.answer.token_ids) - len(driver.answer.chunks) > 0


def test_a_stall_that_never_ends_counts_too(engine: ScriptedEngine) -> None:
    watched = Watched(engine, flow={"max_unacked_chunks": 1, "max_tokens_per_chunk": 1})
    watched.run(3, each_s=0.25)
    watched.after(5.0)
    error = watched.driver.stream.timed_out()
    watched.driver.stream.close(Input.FAIL, error)
    outcome = watched.outcome
    assert (outcome.cause, outcome.reason) == (Cause.ACK_TIMEOUT, "ACK_TIMEOUT")
    assert watched.driver.registry.snapshot().backpressure.stalled_s == outcome.stalled_s >= 5.0
    assert watched.sink.outcomes == [outcome]


@pytest.mark.parametrize(
    ("end", "cause", "reason"),
    [
        (lambda stream: stream.take_cancel(), Cause.CLIENT, "cancelled"),
        (lambda stream: stream.close(Input.CANCEL), Cause.CLIENT, "cancelled"),
        (lambda stream: stream.close(Input.FAIL), Cause.SERVER, "INTERNAL"),
        (
            lambda stream: stream.take_error(ServiceError(Reason.DRAINING, "")),
            Cause.SERVER,
            "DRAINING",
        ),
        (
            lambda stream: stream.take_error(ServiceError(Reason.ACK_BEYOND_SENT, "")),
            Cause.CLIENT,
            "ACK_BEYOND_SENT",
        ),
    ],
)
def test_a_stream_that_does_not_finish(
    engine: ScriptedEngine, end: object, cause: Cause, reason: str
) -> None:
    watched = Watched(engine)
    assert callable(end)
    end(watched.driver.stream)
    watched.driver.stream.close(Input.CANCEL)
    outcome = watched.outcome
    assert (outcome.cause, outcome.reason) == (cause, reason)
    assert (outcome.ttft_s, outcome.completion_tokens, outcome.stages_s) == (None, 0, {})


def test_tokens_that_the_caller_had_are_not_counted_again(engine: ScriptedEngine) -> None:
    resume = {"token_ids": [1, 2, 3], "last_seq": 3}
    watched = Watched(engine, resume=resume, sampling={"seed": 1}, stopping={"max_tokens": 5})
    watched.driver.answer.resumed_ids = [1, 2, 3]
    watched.driver.answer.last_seq = 3
    watched.run(4, each_s=0.25)
    assert watched.outcome.completion_tokens == 2
