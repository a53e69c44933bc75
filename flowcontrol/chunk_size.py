"""How many tokens the next chunk may hold: the further the reader is behind, the more."""

from dataclasses import dataclass

LOW_FILL = 0.10
"""Below this share of the window a reader keeps up, and chunks are smallest."""
HIGH_FILL = 0.80
"""Above this share of the window a reader is about to stall, and chunks are largest."""


@dataclass(frozen=True, slots=True)
class ChunkSizeRule:
    """From `least` to `most` tokens, by the share of the window that is in use.

    A bound and not a demand: a chunk with fewer tokens is written when no more of them are ready.
    """

    least: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ValueError(f"need 1 <= least <= most, got least {self.least} and most {self.most}")

    def tokens(self, fill: float) -> int:
        """Most tokens of the next chunk: `least` below LOW_FILL, `most` above HIGH_FILL, linear between.

        fill: share of the window that is in use; 1 or more means all of it.
        """
        if fill < LOW_FILL:
            return self.least
        if fill > HIGH_FILL:
            return self.most
        return self.least + int((self.most - self.least) * ((fill - LOW_FILL) / (HIGH_FILL - LOW_FILL)))
