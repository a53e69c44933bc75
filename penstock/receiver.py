"""The receiving end of one stream as bookkeeping alone: no I/O, no clock. Both clients drive it."""

from dataclasses import dataclass

from penstock.errors import ProtocolError
from penstock.v1.generation_pb2 import Accepted, Chunk, Finished, GenerateResponse, Notice


@dataclass(frozen=True)
class CreditStats:
    """How a stream used its credit.

    window: chunks that may be unacknowledged; 0 when the server does not enforce credits. chunks_received and
    acks_sent: messages so far. lowest_credit: the least credit that the server was left with, seen from here;
    0 means that it had to wait for the application.
    """

    window: int
    chunks_received: int
    acks_sent: int
    lowest_credit: int


class Receiver:
    """Follows one stream: checks the order of the server's messages and says which ack is due.

    An ack is due when the application has taken half a window since the last one. The server then holds at
    least one credit whenever the application waits for a chunk, for every window of 1 or more.
    """

    def __init__(self) -> None:
        self.accepted: Accepted | None = None
        self.finished: Finished | None = None
        self.notices: list[Notice] = []
        self.texts: list[str] = []
        self._received = 0
        self._acked = 0
        self._acks = 0
        self._lowest_credit = 0
        self._sending = True

    def receive(self, message: GenerateResponse) -> None:
        """Notes the next message. ProtocolError when it may not come now; nothing is noted then.

        Kinds of message that this version does not know are passed over.
        """
        kind = message.WhichOneof("message")
        if self.finished is not None:
            raise self._violation(f"the server sent {kind} after finished")
        if (kind == "accepted") != (self.accepted is None):
            raise self._violation(
                f"the server sent {kind} {'before' if self.accepted is None else 'after'} accepted"
            )
        if kind == "accepted":
            self.accepted = message.accepted
            self._lowest_credit = message.accepted.max_unacked_chunks
        elif kind == "chunk":
            self._receive_chunk(message.chunk)
        elif kind == "notice":
            self.notices.append(message.notice)
        elif kind == "finished":
            self.finished = message.finished
            self._sending = False

    def take(self) -> int | None:
        """The application is done with everything received. Returns the seq to acknowledge now, if any."""
        if not self._sending or self._received - self._acked < max(1, self.window // 2) or not self.window:
            return None
        self._acked = self._received
        self._acks += 1
        return self._acked

    def stop_sending(self) -> None:
        """Nothing more can be sent, or nothing more should: no ack is due from here on."""
        self._sending = False

    def end(self) -> None:
        """The server closed the stream with status OK. ProtocolError when `finished` did not come."""
        if self.finished is None:
            raise self._violation("the server ended the stream without finished")

    @property
    def window(self) -> int:
        """Chunks that may be unacknowledged; 0 before `accepted` and when credits are not enforced."""
        return self.accepted.max_unacked_chunks if self.accepted is not None else 0

    @property
    def credit(self) -> CreditStats:
        """How the stream used its credit so far."""
        return CreditStats(self.window, self._received, self._acks, self._lowest_credit)

    def _receive_chunk(self, chunk: Chunk) -> None:
        if chunk.seq != self._received + 1:
            raise self._violation(f"the server sent chunk {chunk.seq} after chunk {self._received}")
        self._received = chunk.seq
        self.texts.append(chunk.text)
        if self.window:
            self._lowest_credit = min(self._lowest_credit, self.window - (self._received - self._acked))

    def _violation(self, message: str) -> ProtocolError:
        request_id = self.accepted.request_id if self.accepted is not None else ""
        return ProtocolError(message, reason="PROTOCOL_ERROR", request_id=request_id)


class StreamResults:
    """What a stream has brought so far; the part that `Stream` and `SyncStream` share."""

    def __init__(self) -> None:
        self._receiver = Receiver()

    @property
    def accepted(self) -> Accepted:
        """What the server settled on: request id, model, window, seed. RuntimeError before it came."""
        if self._receiver.accepted is None:
            raise RuntimeError("the stream is not accepted yet")
        return self._receiver.accepted

    @property
    def finished(self) -> Finished:
        """Reason, usage and timing. RuntimeError while `done` is false."""
        if self._receiver.finished is None:
            raise RuntimeError("the stream has not finished")
        return self._receiver.finished

    @property
    def done(self) -> bool:
        """Whether `finished` came."""
        return self._receiver.finished is not None

    @property
    def text(self) -> str:
        """The text received so far."""
        return "".join(self._receiver.texts)

    @property
    def notices(self) -> tuple[Notice, ...]:
        """The server's notices so far."""
        return tuple(self._receiver.notices)

    @property
    def credit(self) -> CreditStats:
        """How the stream used its credit so far."""
        return self._receiver.credit
