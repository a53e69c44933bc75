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
    """Follows one stream over all its calls: checks the order of messages and says which ack is due.

    An ack is due when the application has taken half a window since the last one. The server then holds at
    least one credit whenever the application waits for a chunk, for every window of 1 or more.

    hold_tail: keep back a chunk without token ids until `finished` is there: a resume brings it again.
    """

    def __init__(self, *, hold_tail: bool = False) -> None:
        self.first_accepted: Accepted | None = None
        self.accepted: Accepted | None = None
        """Of the latest call that has one."""
        self.finished: Finished | None = None
        self.notices: list[Notice] = []
        self.texts: list[str] = []
        self.token_ids: list[int] = []
        self.last_seq = 0
        self.resumes = 0
        self._hold_tail = hold_tail
        self._held: GenerateResponse | None = None
        self._call_accepted = False
        self._acked = 0
        self._acks = 0
        self._lowest_credit = 0
        self._sending = True

    def receive(self, message: GenerateResponse) -> tuple[GenerateResponse, ...]:
        """Notes the next message and returns what the application gets now.

        ProtocolError when it may not come now; nothing is noted then. Kinds of message that this version
        does not know are passed over.
        """
        kind = message.WhichOneof("message")
        if self.finished is not None:
            raise self._violation(f"the server sent {kind} after finished")
        if (kind == "accepted") == self._call_accepted:
            raise self._violation(
                f"the server sent {kind} {'after' if self._call_accepted else 'before'} accepted"
            )
        if kind == "chunk":
            return self._receive_chunk(message)
        if kind == "accepted":
            self._receive_accepted(message.accepted)
        elif kind == "notice":
            self.notices.append(message.notice)
        elif kind == "finished":
            shown = (*self.release(), message)
            self.finished = message.finished
            self._sending = False
            return shown
        return (message,)

    def release(self) -> tuple[GenerateResponse, ...]:
        """What was kept back, for the application: the stream is not resumed."""
        if self._held is None:
            return ()
        held, self._held = self._held, None
        self._note(held.chunk)
        return (held,)

    def restart(self) -> None:
        """A new call continues the stream; there, all that was received counts as acknowledged."""
        self._held = None
        self._call_accepted = False
        self._acked = self.last_seq

    def take(self) -> int | None:
        """The application is done with everything received. Returns the seq to acknowledge now, if any."""
        if not self._sending or self.last_seq - self._acked < max(1, self.window // 2) or not self.window:
            return None
        self._acked = self.last_seq
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
        return CreditStats(self.window, self.last_seq, self._acks, self._lowest_credit)

    def _receive_accepted(self, accepted: Accepted) -> None:
        self._call_accepted = True
        self.accepted = accepted
        if self.first_accepted is None:
            self.first_accepted = accepted
            self._lowest_credit = self.window
        else:
            self.resumes += 1
            self._lowest_credit = min(self._lowest_credit, self.window)

    def _receive_chunk(self, message: GenerateResponse) -> tuple[GenerateResponse, ...]:
        chunk = message.chunk
        last_seq = self.last_seq + (self._held is not None)
        if chunk.seq != last_seq + 1:
            raise self._violation(f"the server sent chunk {chunk.seq} after chunk {last_seq}")
        if chunk.token_offset != len(self.token_ids):
            raise self._violation(
                f"chunk {chunk.seq} begins at token {chunk.token_offset}, not at {len(self.token_ids)}"
            )
        released = self.release()
        if self._hold_tail and not chunk.token_ids:
            self._held = message
            return released
        self._note(chunk)
        return (*released, message)

    def _note(self, chunk: Chunk) -> None:
        self.last_seq = chunk.seq
        self.token_ids.extend(chunk.token_ids)
        self.texts.append(chunk.text)
        if self.window:
            self._lowest_credit = min(self._lowest_credit, self.window - (self.last_seq - self._acked))

    def _violation(self, message: str) -> ProtocolError:
        request_id = self.accepted.request_id if self.accepted is not None else ""
        return ProtocolError(message, reason="PROTOCOL_ERROR", request_id=request_id)


class StreamResults:
    """What a stream has brought so far; the part that `Stream` and `SyncStream` share."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

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
    def token_ids(self) -> tuple[int, ...]:
        """The token ids received so far."""
        return tuple(self._receiver.token_ids)

    @property
    def resumes(self) -> int:
        """How often the stream was continued on a new call."""
        return self._receiver.resumes

    @property
    def notices(self) -> tuple[Notice, ...]:
        """The server's notices so far."""
        return tuple(self._receiver.notices)

    @property
    def credit(self) -> CreditStats:
        """How the stream used its credit so far."""
        return self._receiver.credit
