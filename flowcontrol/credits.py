"""Credits of one stream: how many chunks may be sent before the reader acks.

Credit = window - (last seq sent - last seq acked). Acks are cumulative and absolute, as AMQP
delivery counts and QUIC MAX_STREAM_DATA are, so a lost, repeated or reordered ack does no harm.
"""

from dataclasses import dataclass


class AckBeyondSentError(ValueError):
    """An ack named a chunk that was not sent yet. The window is unchanged."""

    def __init__(self, seq: int, sent: int) -> None:
        super().__init__(f"ack.seq {seq} is beyond the last chunk sent, {sent}")
        self.seq = seq
        self.sent = sent


@dataclass(frozen=True, slots=True)
class CreditSnapshot:
    """Credits at one moment, in chunks.

    window: most chunks sent and not acked. enforced: False once the reader said that no acks come.
    """

    window: int
    enforced: bool
    sent: int
    acked: int

    @property
    def unacked(self) -> int:
        return self.sent - self.acked

    @property
    def credit(self) -> int:
        """Chunks that may be sent now; meaningless (but never negative) when not enforced."""
        return max(0, self.window - self.unacked)


class CreditWindow:
    """Counts chunks sent and acked against a window."""

    __slots__ = ("_acked", "_enforced", "_sent", "_window")

    def __init__(self, window: int, *, enforced: bool, last_seq: int = 0) -> None:
        """window: chunks, at least 1. enforced: False to count only.

        last_seq: the last chunk of a stream that is continued; it and all before it count as acked.
        """
        if window < 1:
            raise ValueError(f"window must be at least 1 chunk, got {window}")
        if last_seq < 0:
            raise ValueError(f"last_seq must not be negative, got {last_seq}")
        self._window = window
        self._enforced = enforced
        self._sent = last_seq
        self._acked = last_seq

    @property
    def open(self) -> bool:
        """Whether a chunk may be sent."""
        return not self._enforced or self._sent - self._acked < self._window

    @property
    def fill(self) -> float:
        """The share of the window that is in use, 0 to 1; 0 while credits are not enforced."""
        return (self._sent - self._acked) / self._window if self._enforced else 0.0

    def spend(self) -> int | None:
        """Account for one chunk and return its seq, 1 more than the last; None when the window is closed."""
        if self._enforced and self._sent - self._acked >= self._window:
            return None
        self._sent += 1
        return self._sent

    def ack(self, seq: int) -> int:
        """Settle every chunk up to seq and return how many that were; 0 for an old ack.

        Raises AckBeyondSentError when seq was not sent yet.
        """
        if seq > self._sent:
            raise AckBeyondSentError(seq, self._sent)
        settled = max(0, seq - self._acked)
        self._acked += settled
        return settled

    def half_close(self) -> None:
        """The reader sends no more acks: from now on the transport's own flow control governs."""
        self._enforced = False

    def snapshot(self) -> CreditSnapshot:
        return CreditSnapshot(
            window=self._window, enforced=self._enforced, sent=self._sent, acked=self._acked
        )
