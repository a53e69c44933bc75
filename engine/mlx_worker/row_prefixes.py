"""What rows take from the prefix cache and what they leave in it."""

import time
from collections.abc import Callable

import mlx.core as mx
from mlx_lm.models.cache import can_trim_prompt_cache

from engine.mlx_worker.batch import Batch
from engine.mlx_worker.prefix_cache import PrefixCache
from engine.mlx_worker.row import Parked, Row

# Below it a beginning (a template's first words) is computed sooner than a copy of it is made.
_LEAST_FOUND_TOKENS = 16
# A prompt of which so many were computed is kept as soon as it is, for others that begin alike.
_LEAST_PROMPT_TOKENS = 64


class RowPrefixes:
    """The rules of when to search and what to keep. Lives in the model thread.

    prompt_tokens, cached_prompt_tokens, hits, misses: as in EngineCounters.
    """

    def __init__(
        self,
        cache: PrefixCache,
        *,
        max_kv_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """max_kv_bytes: of all rows and the cache together; 0 for no bound."""
        self._cache = cache
        self._max_kv_bytes = max_kv_bytes
        self._clock = clock
        self.prompt_tokens = 0
        self.cached_prompt_tokens = 0
        self.hits = 0
        self.misses = 0

    @property
    def nbytes(self) -> int:
        return self._cache.nbytes

    @property
    def bounded(self) -> bool:
        """Whether there is anything that `give_way` might give up."""
        return self._max_kv_bytes > 0 and self._cache.nbytes > 0

    def look_up(self, row: Row) -> bool:
        """Give a row what is cached of its tokens, if that is more than it has. Whether it was.

        A search that could find no more than the last one did is left out.
        """
        if not self._of_use(row) or row.prefix_version == self._cache.version:
            return False
        row.prefix_version = self._cache.version
        began_s = self._clock()
        least = max(row.covered_tokens, _LEAST_FOUND_TOKENS - 1)
        found = self._cache.find(row.prepared.request.cache_salt, row.tokens, least=least)
        if not row.counted:
            row.cache_lookup_s += self._clock() - began_s
        if found is None:
            return False
        row.parked = found
        if not row.counted:
            row.cached_tokens = min(len(found.tokens), len(row.prepared.prompt_ids))
        return True

    def inserted(self, row: Row) -> None:
        """A row is in the batch; the first time, if its prompt is whole, it is counted."""
        row.prefix_version = -1
        if row.counted or not row.whole:
            return
        row.counted = True
        self.prompt_tokens += len(row.prepared.prompt_ids)
        self.cached_prompt_tokens += row.cached_tokens
        if row.cached_tokens:
            self.hits += 1
        elif self._of_use(row):
            self.misses += 1

    def keep_prompt(self, row: Row, batch: Batch) -> None:
        """The prompt of a row is computed, all but its last token: keep it if enough of it is new."""
        ids = row.prepared.prompt_ids
        if not self._of_use(row) or row.first_token_s is not None or not row.whole:
            return
        if len(ids) - row.cached_tokens < _LEAST_PROMPT_TOKENS:
            return
        salt = row.prepared.request.cache_salt
        if len(ids) - self._cache.covered(salt, ids) >= _LEAST_PROMPT_TOKENS:
            kept = batch.copy_kv(row)
            if kept is not None:
                self._cache.add(salt, kept)

    def keep_end(self, row: Row, batch: Batch) -> None:
        """A row is about to leave for good: keep its prompt and output for what follows them.

        A cache that cannot be trimmed is of use only to a text that goes on exactly there. Few do, since
        templates put something between; the end of the prompt is kept for these.
        """
        if not self._of_use(row) or row.first_token_s is None:
            return
        kept: Parked | None = row.parked if row.uid is None else batch.copy_kv(row)
        if kept is not None and len(kept.tokens) >= _LEAST_FOUND_TOKENS and can_trim_prompt_cache(kept.cache):
            self._cache.add(row.prepared.request.cache_salt, kept)

    def resize(self, max_bytes: int) -> None:
        """Another budget; what is beyond it is given up, and its memory given back."""
        before = self._cache.nbytes
        self._cache.resize(max_bytes)
        if self._cache.nbytes < before:
            mx.clear_cache()  # MLX would keep it for arrays to come.

    def give_way(self, row_bytes: int) -> None:
        """Give up cached prefixes where they and so many bytes of rows are more than allowed."""
        self._cache.shrink_to(max(0, self._max_kv_bytes - row_bytes))

    def _of_use(self, row: Row) -> bool:
        """Whether the cache is on, for this row too."""
        return self._cache.enabled and row.prepared.request.prefix_cache
