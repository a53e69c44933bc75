"""One stream over any number of connections: nothing is lost, nothing comes twice, the window holds."""

import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowcontrol.chunk_size import ChunkSizeRule
from tests.flowcontrol.stream_models import Answer, Chunk, Client, Connection, Finished, Limits, Server

TEXTS = st.text(alphabet="ab é😀", max_size=3)
"""Also empty: a token that ends within a character has no text yet."""

WRITES_BEFORE_AN_END = st.integers(0, 12)
"""Turns of the writer before the connection may be cut or half-closed; else few would see a stall."""


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    least = draw(st.integers(1, 3))
    sizes = ChunkSizeRule(least=least, most=least + draw(st.integers(0, 5)))
    return Limits(
        window=draw(st.integers(1, 5)),
        sizes=sizes,
        max_backlog=sizes.most + draw(st.integers(0, 8)),
        max_bytes=draw(st.integers(1, 24)),
    )


class StreamIsDeliveredWhole(RuleBasedStateMachine):
    """Every step is one turn of server, engine, client, or of the network between them."""

    @initialize(
        tokens=st.integers(0, 80),
        texts=st.lists(TEXTS, min_size=1, max_size=7),
        tail=TEXTS,
        limits=limits(),
        writes=WRITES_BEFORE_AN_END,
    )
    def start(self, tokens: int, texts: list[str], tail: str, limits: Limits, writes: int) -> None:
        self.answer = Answer(tuple(texts[token % len(texts)] for token in range(tokens)), tail)
        self.limits = limits
        self.client = Client()
        self.connect(limits, writes)

    def connect(self, limits: Limits, writes: int) -> None:
        self.writes_left = writes
        self.server: Server | None = Server(
            self.answer, limits, resumed=list(self.client.token_ids), last_seq=self.client.last_seq
        )
        self.net = Connection()
        self.half_closed = False

    @property
    def connected(self) -> bool:
        return self.server is not None and not self.client.finished

    @precondition(lambda self: self.connected)
    @rule(steps=st.integers(1, 12))
    def engine_computes(self, steps: int) -> None:
        assert self.server is not None
        for _ in range(steps):
            if self.server.engine_may_step:
                self.server.engine_step()

    @precondition(lambda self: self.connected)
    @rule(writes=st.integers(1, 4))
    def server_writes(self, writes: int) -> None:
        assert self.server is not None
        self.writes_left -= 1
        for _ in range(writes):
            message = self.server.write()
            if message is not None:
                self.net.down.append(message)

    @precondition(lambda self: self.connected and self.net.down)
    @rule(messages=st.integers(1, 4))
    def messages_arrive(self, messages: int) -> None:
        for _ in range(min(messages, len(self.net.down))):
            self.receive(self.net.down.popleft())

    def receive(self, message: Chunk | Finished) -> None:
        note(f"received: {message}")
        self.client.receive(message)

    @precondition(lambda self: self.connected and not self.half_closed)
    @rule()
    def client_acks(self) -> None:
        """Of all that it has; never called is a reader that stalls."""
        self.net.acks.append(self.client.last_seq)

    @precondition(lambda self: self.connected and self.net.acks)
    @rule(data=st.data(), comes_again=st.booleans())
    def ack_arrives(self, data: st.DataObject, comes_again: bool) -> None:
        """Any of those under way, so their order changes."""
        assert self.server is not None
        index = data.draw(st.integers(0, len(self.net.acks) - 1))
        acked = self.server.credits.snapshot().acked
        self.server.credits.ack(self.net.acks[index])
        assert self.server.credits.snapshot().acked == max(acked, self.net.acks[index])
        if not comes_again:
            del self.net.acks[index]

    @precondition(lambda self: self.connected and self.net.acks)
    @rule(data=st.data())
    def ack_is_lost(self, data: st.DataObject) -> None:
        del self.net.acks[data.draw(st.integers(0, len(self.net.acks) - 1))]

    @precondition(lambda self: self.connected and not self.half_closed and self.writes_left <= 0)
    @rule()
    def client_half_closes(self) -> None:
        assert self.server is not None
        self.half_closed = True
        self.server.credits.half_close()

    @precondition(lambda self: self.connected and self.writes_left <= 0)
    @rule()
    def connection_is_cut(self) -> None:
        """Everything under way is lost in both directions, and the server with all that it knew."""
        self.server = None
        self.net = Connection()
        self.client.connection_lost()

    @precondition(lambda self: self.server is None)
    @rule(limits=limits(), writes=WRITES_BEFORE_AN_END)
    def client_resumes_elsewhere(self, limits: Limits, writes: int) -> None:
        """On a replica that may be configured differently."""
        self.limits = limits
        self.connect(limits, writes)

    @precondition(lambda self: self.client.finished)
    @rule()
    def nothing_comes_after_the_end(self) -> None:
        assert self.server is not None
        assert self.server.write() is None

    @invariant()
    def received_is_a_start_of_the_whole_without_gap_or_repeat(self) -> None:
        assert self.client.token_ids == list(range(len(self.client.token_ids)))
        if not self.client.finished:
            # Text and token ids are aligned: a resume from these tokens is a resume after this text.
            assert self.client.text == self.answer.text_of(self.client.token_ids)

    @invariant()
    def whole_is_there_at_the_end(self) -> None:
        if self.client.finished:
            assert len(self.client.token_ids) == len(self.answer.texts)
            assert self.client.text == self.answer.text

    @invariant()
    def server_stays_within_its_limits(self) -> None:
        if self.server is None:
            return
        credits = self.server.credits.snapshot()
        assert credits.sent >= credits.acked
        if credits.enforced:
            assert credits.unacked <= self.limits.window
        # One more than the bound: the step that was under way when the source was told to stop.
        assert len(self.server.outbox) <= self.limits.max_backlog + 1
        assert self.server.computed_without_credit <= self.limits.sizes.most + 1

    def teardown(self) -> None:
        """From wherever the steps have led: a client that goes on reading gets the rest."""
        if self.server is None:
            self.connect(self.limits, 0)
        turns = 0
        while not self.client.finished:
            turns += 1
            assert turns <= 2 * len(self.answer.texts) + 10, "no progress"
            self.engine_computes(1)
            self.server_writes(1)
            self.messages_arrive(len(self.net.down))
            assert self.server is not None
            self.server.credits.ack(self.client.last_seq)
        self.received_is_a_start_of_the_whole_without_gap_or_repeat()
        self.whole_is_there_at_the_end()


# With coverage it would take three times as long.
TestStreamIsDeliveredWhole = pytest.mark.no_cover(StreamIsDeliveredWhole.TestCase)
TestStreamIsDeliveredWhole.settings = settings(max_examples=100, stateful_step_count=60)
