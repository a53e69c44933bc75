"""What follows a lost call, without any call: waits, and lives of cuts against a model of the server."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import (
    AbortedError,
    DeadlineError,
    InternalServerError,
    InvalidRequestError,
    OverloadedError,
    PenstockError,
    ProtocolError,
    UnavailableError,
)
from penstock.receiver import Receiver
from penstock.retry import READY_WAIT_S, Attempts, backoff_s, resumed
from penstock.v1.generation_pb2 import Accepted, Chunk, Finished, GenerateResponse, Resume, Start
from penstock.v1.options_pb2 import SamplingOptions

LOST = UnavailableError("Socket closed")


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def attempts_of(
    receiver: Receiver, *, retries: int = 3, timeout_s: float | None = None, clock: Clock | None = None
) -> Attempts:
    return Attempts(
        Start(prompt="Hello"),
        receiver,
        retries=retries,
        timeout_s=timeout_s,
        clock=clock or Clock(),
        random=lambda: 0.5,
    )


def accepted(window: int = 4) -> GenerateResponse:
    return GenerateResponse(accepted=Accepted(request_id="r", model="m", seed=7, max_unacked_chunks=window))


def chunk(seq: int, offset: int, *ids: int, text: str = "") -> GenerateResponse:
    return GenerateResponse(chunk=Chunk(seq=seq, token_offset=offset, token_ids=ids, text=text))


@given(failures=st.integers(0, 1000), chance=st.floats(0, 1, exclude_max=True))
def test_waits_double_up_to_eight_seconds(failures: int, chance: float) -> None:
    step_s = min(8.0, 0.25 * 2**failures)
    assert step_s / 2 <= backoff_s(failures, None, chance) <= step_s


@given(failures=st.integers(0, 20), retry_after_s=st.floats(0, 600), chance=st.floats(0, 1, exclude_max=True))
def test_the_servers_time_comes_first(failures: int, retry_after_s: float, chance: float) -> None:
    wait_s = backoff_s(failures, retry_after_s, chance)
    assert retry_after_s + backoff_s(failures, None, chance) <= wait_s <= retry_after_s + 8.0


def test_chance_spreads_callers_that_were_told_the_same() -> None:
    waits = {backoff_s(0, 1.0, chance / 100) for chance in range(100)}
    assert len(waits) == 100
    assert max(waits) - min(waits) > 0.4


def test_waits_grow_from_what_the_server_asks_for() -> None:
    assert [backoff_s(failures, 1.0, 0.5) for failures in range(5)] == [1.75, 2.5, 4.0, 7.0, 7.0]


@pytest.mark.parametrize(
    ("error", "before", "after"),
    [
        (UnavailableError("gone"), True, True),
        (AbortedError("too slow"), True, True),
        (OverloadedError("full"), False, True),
        (InvalidRequestError("no"), False, False),
        (DeadlineError("late"), False, False),
        (InternalServerError("broken"), False, False),
        (ProtocolError("wrong"), False, False),
        (PenstockError("who are you", code=grpc.StatusCode.UNAUTHENTICATED), False, False),
    ],
)
def test_which_errors_are_retried(error: PenstockError, before: bool, after: bool) -> None:
    receiver = Receiver()
    assert (attempts_of(receiver).after(error) is not None) == before
    receiver.receive(accepted())
    assert (attempts_of(receiver).after(error) is not None) == after
    receiver.receive(GenerateResponse(finished=Finished()))
    assert attempts_of(receiver).after(error) is None


def test_a_new_token_begins_the_count_again() -> None:
    receiver = Receiver()
    attempts = attempts_of(receiver, retries=2)
    receiver.receive(accepted())
    first = [attempts.after(LOST) for _ in range(3)]
    assert [retry and retry.wait_s for retry in first] == [0.1875, 0.375, None]
    receiver.receive(chunk(1, 0, 100))
    second = [attempts.after(LOST) for _ in range(3)]
    assert [retry and retry.wait_s for retry in second] == [0.1875, 0.375, None]
    assert [retry and retry.tokens_received for retry in second] == [1, 1, None]


def test_no_retries() -> None:
    assert attempts_of(Receiver(), retries=0).after(LOST) is None


def test_a_stopped_stream_is_not_retried() -> None:
    attempts = attempts_of(Receiver())
    attempts.stop()
    assert attempts.after(LOST) is None


def test_the_deadline_is_one_for_all_calls() -> None:
    clock = Clock()
    attempts = attempts_of(Receiver(), retries=10, timeout_s=10.0, clock=clock)
    clock.now_s += 100  # a stream that is made and read later
    assert attempts.begin()[1] == 10.0
    clock.now_s += 7
    retry = attempts.after(UnavailableError("gone", retry_after_s=1.0))
    assert retry is not None
    assert retry.wait_s == 1.75
    assert retry.ready_s == pytest.approx(10 - 7 - 1.75)
    clock.now_s += retry.wait_s
    assert attempts.begin()[1] == pytest.approx(10 - 7 - 1.75)
    assert attempts.after(UnavailableError("gone", retry_after_s=1.0)) is None
    assert attempts.after(UnavailableError("gone")) is not None


def test_without_a_deadline() -> None:
    attempts = attempts_of(Receiver())
    assert attempts.begin()[1] is None
    retry = attempts.after(LOST)
    assert retry is not None
    assert retry.ready_s == READY_WAIT_S


def test_what_a_resume_says() -> None:
    start = Start(prompt="Hello", sampling=SamplingOptions(temperature=0.5))
    receiver = Receiver()
    assert resumed(start, receiver) == start
    receiver.receive(
        GenerateResponse(accepted=Accepted(request_id="r", model="m", seed=7, model_fingerprint="f"))
    )
    receiver.receive(chunk(1, 0, 100, 101))
    receiver.receive(chunk(2, 2, 102))
    receiver.restart()
    receiver.receive(
        GenerateResponse(accepted=Accepted(request_id="x", model="x", seed=8, model_fingerprint="x"))
    )
    assert resumed(start, receiver) == Start(
        request_id="r",
        model="m",
        prompt="Hello",
        sampling=SamplingOptions(temperature=0.5, seed=7),
        resume=Resume(token_ids=[100, 101, 102], last_seq=2, model_fingerprint="f"),
    )
    assert start == Start(prompt="Hello", sampling=SamplingOptions(temperature=0.5))


def test_the_callers_seed_stays() -> None:
    receiver = Receiver()
    receiver.receive(accepted())
    start = Start(prompt="Hello", sampling=SamplingOptions(seed=0))
    assert resumed(start, receiver).sampling.seed == 0


class Network:
    """An answer, a server that keeps the contract of resume, and an application."""

    def __init__(self, texts: list[str], tail: str, window: int) -> None:
        self.receiver = Receiver(hold_tail=True)
        self.start = Start(prompt="Hello")
        self.shown: list[GenerateResponse] = []
        self._texts, self._tail, self._window = texts, tail, window

    def call(self, sizes: list[int], most_messages: int) -> None:
        """One call, of which most_messages arrive; sizes: tokens of each chunk."""
        resume = resumed(self.start, self.receiver).resume
        acked = resume.last_seq
        for message in self._messages(resume, sizes)[:most_messages]:
            for shown in self.receiver.receive(message):
                self.shown.append(shown)
                ack = self.receiver.take()
                if ack is not None:
                    assert acked < ack <= self.receiver.last_seq
                    acked = ack
        if self.receiver.finished is None:
            assert self.receiver.last_seq - acked < self._window
            self.receiver.restart()

    def _messages(self, resume: Resume, sizes: list[int]) -> list[GenerateResponse]:
        messages = [accepted(self._window)]
        token, seq = len(resume.token_ids), resume.last_seq
        assert list(resume.token_ids) == list(range(token))
        while token < len(self._texts):
            end = min(len(self._texts), token + sizes[seq % len(sizes)])
            seq += 1
            messages.append(chunk(seq, token, *range(token, end), text="".join(self._texts[token:end])))
            token = end
        if self._tail:
            messages.append(chunk(seq + 1, token, text=self._tail))
        return [*messages, GenerateResponse(finished=Finished())]


@given(
    texts=st.lists(st.text(max_size=3), max_size=30),
    tail=st.text(max_size=3),
    window=st.integers(1, 8),
    sizes=st.lists(st.integers(1, 5), min_size=1),
    lengths=st.lists(st.integers(0, 12), max_size=12),
)
def test_any_cuts_leave_one_whole_stream(
    texts: list[str], tail: str, window: int, sizes: list[int], lengths: list[int]
) -> None:
    network = Network(texts, tail, window)
    for length in [*lengths, 1000]:
        if network.receiver.finished is None:
            network.call(sizes, length)
    chunks = [message.chunk for message in network.shown if message.HasField("chunk")]
    assert [c.seq for c in chunks] == list(range(1, len(chunks) + 1))
    assert [token for c in chunks for token in c.token_ids] == list(range(len(texts)))
    assert "".join(c.text for c in chunks) == "".join(texts) + tail
    assert "".join(network.receiver.texts) == "".join(texts) + tail
    assert network.shown[-1].HasField("finished")
