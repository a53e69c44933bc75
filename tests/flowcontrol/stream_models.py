"""A server and a client of one stream as plain objects: the protocol without transport, engine or clock."""

from collections import deque
from dataclasses import dataclass

from flowcontrol.chunk_size import ChunkSizeRule
from flowcontrol.credits import CreditWindow
from flowcontrol.outbox import Outbox

Piece = tuple[int, str]
"""A token with its text."""


@dataclass(frozen=True)
class Answer:
    """What the model says, whoever asks: token n is n, so a gap or a repeat shows.

    tail: text that is held back for a possible stop string and released at the end, without a token.
    """

    texts: tuple[str, ...]
    tail: str

    @property
    def text(self) -> str:
        return "".join(self.texts) + self.tail

    def text_of(self, tokens: list[int]) -> str:
        return "".join(self.texts[token] for token in tokens)


@dataclass(frozen=True)
class Limits:
    """What one server allows."""

    window: int
    sizes: ChunkSizeRule
    max_backlog: int
    max_bytes: int


@dataclass(frozen=True)
class Chunk:
    seq: int
    token_offset: int
    token_ids: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Finished:
    completion_tokens: int


def size_of(piece: Piece) -> int:
    return len(piece[1].encode())


class Server:
    """One stream on one replica, with its engine: knows only the start that it was given.

    resumed: the tokens that the caller holds; last_seq: the last chunk that it has.
    """

    def __init__(self, answer: Answer, limits: Limits, *, resumed: list[int], last_seq: int) -> None:
        self.limits = limits
        self.credits = CreditWindow(limits.window, enforced=True, last_seq=last_seq)
        self.outbox: Outbox[Piece] = Outbox(
            self.credits,
            rule=limits.sizes,
            max_backlog=limits.max_backlog,
            max_bytes_per_chunk=limits.max_bytes,
            size_of=size_of,
        )
        self.ended = False
        self.paused = False
        self.step_under_way = False
        self.computed_without_credit = 0
        """Tokens since the window closed, or since it opened for one chunk only."""
        self._answer = answer
        self._computed = self._sent_tokens = len(resumed)
        self._tail = answer.tail
        self._found_stalled = False

    @property
    def engine_may_step(self) -> bool:
        """A row that was just paused may have one step under way."""
        return self._computed < len(self._answer.texts) and (not self.paused or self.step_under_way)

    def engine_step(self) -> None:
        """The model gives one token."""
        self.step_under_way = False
        self.computed_without_credit = 0 if self.credits.open else self.computed_without_credit + 1
        self.outbox.push((self._computed, self._answer.texts[self._computed]))
        self._computed += 1
        if not self.paused and self.outbox.full:
            self.paused = self.step_under_way = True

    def write(self) -> Chunk | Finished | None:
        """The next message, or None when there is nothing to write now."""
        if self.outbox:
            return self._write_tokens()
        if self._computed < len(self._answer.texts) or self.ended:
            return None
        if self._tail:
            return self._write_tail()
        self.ended = True
        return Finished(completion_tokens=self._sent_tokens)

    def _write_tokens(self) -> Chunk | None:
        most = self._most_tokens()
        taken = self.outbox.take()
        self._found_stalled = taken is None
        if taken is None:
            return None
        if self.paused and self.outbox.drained:
            self.paused = self.step_under_way = False
        self.computed_without_credit = 0
        seq, pieces = taken
        token_offset, self._sent_tokens = self._sent_tokens, self._sent_tokens + len(pieces)
        assert 1 <= len(pieces) <= most
        assert len(pieces) == 1 or sum(map(size_of, pieces)) <= self.limits.max_bytes
        return Chunk(
            seq=seq,
            token_offset=token_offset,
            token_ids=tuple(token for token, _ in pieces),
            text="".join(text for _, text in pieces),
        )

    def _write_tail(self) -> Chunk | None:
        """In a chunk of its own: the client must be able to tell it from the text of tokens."""
        seq = self.credits.spend()
        if seq is None:
            return None
        text, self._tail = self._tail, ""
        return Chunk(seq=seq, token_offset=self._sent_tokens, token_ids=(), text=text)

    def _most_tokens(self) -> int:
        if self._found_stalled:
            return self.limits.sizes.most
        credits = self.credits.snapshot()
        fill = credits.unacked / credits.window if credits.enforced else 0.0
        return self.limits.sizes.tokens(max(fill, len(self.outbox) / self.limits.max_backlog))


class Client:
    """Holds what a resume needs (token ids, last seq) and the text, and keeps both over connections."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.text = ""
        self.last_seq = 0
        self.finished = False
        self._tail = ""

    def receive(self, message: Chunk | Finished) -> None:
        assert not self.finished
        if isinstance(message, Finished):
            assert message.completion_tokens == len(self.token_ids)
            self.finished = True
            self.text += self._tail
            return
        assert message.seq == self.last_seq + 1
        assert message.token_offset == len(self.token_ids)
        self.last_seq = message.seq
        if message.token_ids:
            self.token_ids += message.token_ids
            self.text += message.text
        else:
            self._tail += message.text

    def connection_lost(self) -> None:
        """Text without tokens comes again after a resume, because no token id tells that it was received."""
        self._tail = ""


class Connection:
    """What is on the way between a server and a client. All of it is lost when the connection is."""

    def __init__(self) -> None:
        self.down: deque[Chunk | Finished] = deque()
        self.acks: list[int] = []
