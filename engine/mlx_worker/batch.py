"""The decode batch: rows going in and out of a generator, and what to do when that fails."""

from collections.abc import Callable

from engine.mlx_worker.generator import Generator, KvCache, RowInput, Step
from engine.mlx_worker.row import Parked, Row

MakeGenerator = Callable[[], Generator]
"""Makes an empty generator; a parameter, so that a test can pass one that fails."""

# The first token comes with the last slice of the prompt or after it; some calls give nothing.
_PROBE_CALLS_BEYOND_PREFILL = 4
_PROBE_PREFILL_TOKENS = 512


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
        return self._generator.kv_bytes

    def row(self, uid: int) -> Row:
        return self._rows[uid]

    def find(self, uid: int) -> Row | None:
        """A row that may have left."""
        return self._rows.get(uid)

    def insert(self, row: Row) -> None:
        """Put a row in: from its parked KV cache where there is one, else from its tokens."""
        row.uid = self._generator.insert(self._input_of(row))
        row.parked = None
        self._rows[row.uid] = row

    def remove(self, row: Row) -> None:
        """Take a row out and drop its KV cache."""
        if row.uid is not None:
            self._generator.remove(row.uid)
            del self._rows[row.uid]
            row.uid = None

    def park(self, row: Row) -> None:
        """Take a row out and keep its KV cache."""
        if row.uid is not None:
            row.parked = self.copy_kv(row)
            self.remove(row)

    def copy_kv(self, row: Row) -> Parked | None:
        """The KV cache of a row that stays; None for one that is not in the batch or has none yet."""
        kept = self._generator.extract(row.uid) if row.uid is not None else None
        return Parked(*kept) if kept is not None else None

    def next(self, prefill_tokens: int) -> Step:
        """One decode step of all rows and a slice of the prompts that wait.

        After an exception the generator must not be used again (other rows would go on with wrong
        tokens): call rebuild.
        """
        return self._generator.next(prefill_tokens)

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
            generator.insert(self._input_of(row))
            for _ in range(len(row.tokens) + _PROBE_CALLS_BEYOND_PREFILL):
                if generator.next(_PROBE_PREFILL_TOKENS).tokens:
                    return
        finally:
            generator.close()

    def _input_of(self, row: Row) -> RowInput:
        request, prepared = row.prepared.request, row.prepared
        cache, covered = self._reusable(row)
        return RowInput(
            tokens=row.tokens[len(covered) :],
            cache=cache,
            covered=covered,
            prompt_tokens=len(prepared.prompt_ids),
            sampling=request.sampling,
            min_tokens=request.stopping.min_tokens,
            ending_ids=prepared.ending_ids,
            logprobs=request.logprobs,
            open=not row.whole,
        )

    @staticmethod
    def _reusable(row: Row) -> tuple[KvCache | None, list[int]]:
        """The parked KV cache and the tokens that it covers, short of at least the last token.

        At least one token must be left to run, so a cache that covers all is trimmed by one; one
        that cannot be trimmed is not used.
        """
        if row.parked is None or not row.parked.trim_to(len(row.tokens) - 1):
            return None, []
        return row.parked.cache, list(row.parked.tokens)
