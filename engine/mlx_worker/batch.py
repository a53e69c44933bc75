"""The decode batch: mlx-lm's BatchGenerator, rows going in and out, and what to do when it fails."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, StopSequences, greedy_sampler

from engine.mlx_worker.row import Parked, Row
from engine.mlx_worker.sampling import make_processors, make_sampler

MakeGenerator = Callable[[], BatchGenerator]
"""Makes an empty generator; a parameter, so that a test can pass one that fails."""

# A prompt of one token is delivered on the third call of next(); longer ones take one more call per slice.
_PROBE_CALLS_BEYOND_PREFILL = 4


class Batch:
    """Rows that are decoded together. Lives in the model thread."""

    def __init__(self, make_generator: MakeGenerator) -> None:
        self._make_generator = make_generator
        self._generator = make_generator()
        self._rows: dict[int, Row] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> list[Row]:
        return list(self._rows.values())

    @property
    def kv_bytes(self) -> int:
        return int(self._generator.prompt_cache_nbytes)

    def row(self, uid: int) -> Row:
        return self._rows[uid]

    def insert(self, row: Row) -> None:
        """Put a row in: from its parked KV cache where there is one, else from its tokens."""
        row.uid = self._insert_into(self._generator, row)
        row.parked = None
        self._rows[row.uid] = row

    def remove(self, row: Row) -> None:
        """Take a row out and drop its KV cache."""
        if row.uid is not None:
            self._generator.remove([row.uid])
            self.forget(row)

    def forget(self, row: Row) -> None:
        """Drop the record of a row that the generator has let go by itself."""
        if row.uid is not None:
            del self._rows[row.uid]
            row.uid = None

    def park(self, row: Row) -> None:
        """Take a row out and keep its KV cache."""
        if row.uid is None:
            return
        cache, tokens = self._generator.remove([row.uid], return_prompt_caches=True)[row.uid]
        # An unevaluated slice would keep the arrays of the whole batch in memory.
        mx.eval([layer.state for layer in cache])
        if tokens:
            # The generator goes on changing its list in place.
            row.parked = Parked(cache, list(tokens))
        self.forget(row)

    def next(self) -> tuple[list[Any], list[Any]]:
        """One decode step of all rows and a slice of the prompts that wait.

        Returns mlx-lm's responses for prompts and for tokens. After an exception the generator must
        not be used again (other rows would go on with wrong tokens): call rebuild.
        """
        prompts, tokens = self._generator.next()
        return prompts, tokens

    def rebuild(self) -> tuple[list[Row], list[tuple[Row, Exception]]]:
        """Start over with an empty generator; to be called after next() has raised.

        Each row is run alone for one token to find the one that fails. Returns the rows that are
        well, to be inserted again, and those that are not, with their exceptions.
        """
        rows, self._rows = self.rows, {}
        well: list[Row] = []
        failed: list[tuple[Row, Exception]] = []
        for row in rows:
            row.uid = None
            try:
                self._probe(row)
                well.append(row)
            except Exception as error:  # Whatever a model raises on this row ends this row only.
                failed.append((row, error))
        self._generator = self._make_generator()
        return well, failed

    def _probe(self, row: Row) -> None:
        """Run a row alone until it gives one token, which is thrown away: the same one is drawn again."""
        generator = self._make_generator()
        try:
            self._insert_into(generator, row)
            for _ in range(len(row.tokens) + _PROBE_CALLS_BEYOND_PREFILL):
                _, tokens = generator.next()
                if tokens:
                    return
        finally:
            generator.close()

    def _insert_into(self, generator: BatchGenerator, row: Row) -> int:
        request, prepared = row.prepared.request, row.prepared
        processors = make_processors(
            request.sampling,
            prompt_tokens=len(prepared.prompt_ids),
            min_tokens=request.stopping.min_tokens,
            ending_ids=prepared.ending_ids,
        )
        sampler = make_sampler(request.sampling, len(row.generated))
        cache, covered = self._reusable(row)
        (uid,) = generator.insert(
            [row.tokens[len(covered) :]],
            max_tokens=[row.remaining_tokens],
            caches=[cache],
            all_tokens=[covered],
            # None means the generator's own sampler, which is the greedy one.
            samplers=[None if sampler is greedy_sampler else sampler],
            logits_processors=[processors],
            stop_sequences=[StopSequences([[token] for token in prepared.ending_ids])],
        )
        return int(uid)

    @staticmethod
    def _reusable(row: Row) -> tuple[list[Any] | None, list[int]]:
        """The parked KV cache and the tokens that it covers, short of at least the last token.

        At least one token must be left to run, so a cache that covers all is trimmed by one; one
        that cannot be trimmed is not used.
        """
        if row.parked is None or not row.parked.trim_to(len(row.tokens) - 1):
            return None, []
        return row.parked.cache, list(row.parked.tokens)
