"""KV caches of texts that were computed before, found by the longest beginning that a new text shares."""

import copy
from bisect import bisect_left, insort

from mlx_lm.models.cache import can_trim_prompt_cache

from engine.mlx_worker.row import Parked, common_prefix

_Key = tuple[int, ...]
_TOKEN_BYTES = 8


class PrefixCache:
    """Least recently used ones are given up, to stay below a number of bytes. Lives in the model thread.

    Texts of different salts never meet: neither finds what the other left. mlx-lm's LRUPromptCache is not
    used, since its search took 80 ms where 4,000 tokens of a text of 8,000 were shared. Here the texts are
    searched by bisection in their order, where the one with the longest common beginning is a neighbour.
    """

    def __init__(self, max_bytes: int) -> None:
        """max_bytes: of all caches together; 0 keeps nothing."""
        self._max_bytes = max_bytes
        self._caches: dict[tuple[str, _Key], Parked] = {}
        """The least recently used first."""
        self._sorted: dict[str, list[_Key]] = {}
        self.nbytes = 0
        self.version = 0
        """Another one after each text that was added: a search may find more than before."""

    def __len__(self) -> int:
        return len(self._caches)

    @property
    def enabled(self) -> bool:
        return self._max_bytes > 0

    def find(self, salt: str, tokens: list[int], *, least: int) -> Parked | None:
        """A copy of the cache that covers most of the tokens, but never the last of them.

        None where that is not more than `least` tokens. The copy shares memory with what is kept, until one
        of the two is written to.
        """
        texts = self._sorted.get(salt)
        if not texts:
            return None
        wanted = tuple(tokens[:-1])
        near, length = _nearest(texts, wanted)
        if length <= least:
            return None
        found = self._copy(salt, near)
        if not found.trim_to(length):
            prefix = _longest_prefix(texts, wanted)
            if prefix is None or len(prefix) <= least:
                return None
            near, found = prefix, self._copy(salt, prefix)
        self._caches[salt, near] = self._caches.pop((salt, near))
        return found

    def covered(self, salt: str, tokens: list[int]) -> int:
        """How many of the tokens, from the first on, some text that is kept begins with."""
        texts = self._sorted.get(salt)
        return _nearest(texts, tuple(tokens))[1] if texts else 0

    def add(self, salt: str, kept: Parked) -> None:
        """Keep a cache, which is not the caller's any more. It replaces its beginnings if it is trimmable."""
        size = _size(kept)
        if size > self._max_bytes:
            return
        key = tuple(kept.tokens)
        texts = self._sorted.setdefault(salt, [])
        if (salt, key) in self._caches:
            self._remove(salt, key)
        if can_trim_prompt_cache(kept.cache):
            while (prefix := _longest_prefix(texts, key)) is not None:
                self._remove(salt, prefix)
        # The last removal may have dropped the list.
        insort(self._sorted.setdefault(salt, []), key)
        self._caches[salt, key] = kept
        self.nbytes += size
        self.version += 1
        self.shrink_to(self._max_bytes)

    def resize(self, max_bytes: int) -> None:
        """Keep no more than that from now on, as in the constructor."""
        self._max_bytes = max_bytes
        self.shrink_to(max_bytes)

    def shrink_to(self, nbytes: int) -> None:
        """Give up the least recently used ones until the rest is no more than so many bytes."""
        while self._caches and self.nbytes > nbytes:
            self._remove(*next(iter(self._caches)))

    def _copy(self, salt: str, key: _Key) -> Parked:
        kept = self._caches[salt, key]
        return Parked(copy.deepcopy(kept.cache), list(kept.tokens))

    def _remove(self, salt: str, key: _Key) -> None:
        self.nbytes -= _size(self._caches.pop((salt, key)))
        texts = self._sorted[salt]
        del texts[bisect_left(texts, key)]
        if not texts:
            del self._sorted[salt]


def _size(kept: Parked) -> int:
    return kept.nbytes + _TOKEN_BYTES * len(kept.tokens)


def _nearest(texts: list[_Key], wanted: _Key) -> tuple[_Key, int]:
    """The text with the longest common beginning, and its length. It is a neighbour in the order of texts."""
    at = bisect_left(texts, wanted)
    # The one behind goes first: what begins with all of `wanted` is behind it.
    near = texts[max(0, at - 1) : at + 1]
    return max(((text, common_prefix(text, wanted)) for text in reversed(near)), key=lambda found: found[1])


def _longest_prefix(texts: list[_Key], wanted: _Key) -> _Key | None:
    """The longest text that `wanted` begins with, itself included."""
    while True:
        at = bisect_left(texts, wanted)
        if at < len(texts) and texts[at] == wanted:
            return wanted
        if at == 0:
            return None
        # Whatever is a prefix of `wanted` is one of what it shares with the text before it.
        length = common_prefix(texts[at - 1], wanted)
        if length == len(texts[at - 1]):
            return texts[at - 1]
        wanted = wanted[:length]
