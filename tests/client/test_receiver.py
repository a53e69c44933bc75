"""The receiver against a model of the server and the network between them."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from penstock.receiver import Receiver
from penstock.v1.generation_pb2 import Accepted, Chunk, Finished, GenerateResponse


class Wire:
    """A server that honours the window, and chunks and acks on their way."""

    def __init__(self, window: int) -> None:
        self.receiver = Receiver()
        self.receiver.receive(GenerateResponse(accepted=Accepted(max_unacked_chunks=window)))
        self.window = window
        self.sent = self.acked = 0
        self.chunks: deque[int] = deque()
        self.acks: deque[int] = deque()
        self.all_acks: list[int] = []

    @property
    def credit(self) -> int:
        return self.window - (self.sent - self.acked)

    def send(self) -> None:
        """The server sends a chunk if it may."""
        if self.credit > 0:
            self.sent += 1
            self.chunks.append(self.sent)

    def take(self) -> None:
        """The application takes a chunk if one has arrived."""
        if self.chunks:
            seq = self.chunks.popleft()
            self.receiver.receive(GenerateResponse(chunk=Chunk(seq=seq)))
            ack = self.receiver.take()
            if ack is not None:
                assert ack <= seq
                self.acks.append(ack)
                self.all_acks.append(ack)

    def deliver(self) -> None:
        """An ack reaches the server."""
        if self.acks:
            self.acked = self.acks.popleft()


@given(window=st.integers(1, 300), moves=st.lists(st.sampled_from([Wire.send, Wire.take, Wire.deliver])))
def test_a_server_is_never_left_without_credit(window: int, moves: list[object]) -> None:
    wire = Wire(window)
    for move in moves:
        assert callable(move)
        move(wire)
        assert wire.acked <= wire.sent - len(wire.chunks)
    while wire.chunks:
        wire.take()
    while wire.acks:
        wire.deliver()
    assert wire.credit >= 1
    assert wire.all_acks == sorted(set(wire.all_acks))
    assert wire.receiver.credit.acks_sent == len(wire.all_acks)


@given(window=st.integers(1, 300), rounds=st.integers(1, 1000))
def test_acks_are_half_a_window_apart(window: int, rounds: int) -> None:
    wire = Wire(window)
    for _ in range(rounds):
        wire.send()
        wire.take()
        wire.deliver()
    step = max(1, window // 2)
    assert wire.sent == rounds
    assert wire.all_acks == list(range(step, rounds + 1, step))


def test_nothing_is_acknowledged_after_the_end() -> None:
    wire = Wire(1)
    wire.receiver.receive(GenerateResponse(chunk=Chunk(seq=1)))
    wire.receiver.receive(GenerateResponse(finished=Finished()))
    assert wire.receiver.take() is None


def test_unknown_messages_are_passed_over() -> None:
    wire = Wire(1)
    wire.receiver.receive(GenerateResponse())
    assert wire.receiver.take() is None
