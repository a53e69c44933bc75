"""The decode batch: rows joining and leaving, and their KV cache."""

import mlx.core as mx
import mlx.nn as nn

from engine.mlx_worker.generator import KvCache, StepToken
from engine.mlx_worker.model_clock import ModelClock
from engine.mlx_worker.slot_kv_cache import keep_rows, with_slots
from engine.mlx_worker.step_pipeline import DecodeRow, make_pipeline

# So often memory that MLX keeps for reuse is given back, as in mlx-lm.
_CLEAR_CACHE_STEPS = 512


class DecodeRows:
    """Rows that get one token more with each step. Lives in the model thread.

    After an exception it must not be used again.
    """

    def __init__(self, model: nn.Module, clock: ModelClock) -> None:
        self._model = model
        self._clock = clock
        self._pipeline = make_pipeline(clock)
        self._cache: KvCache = []
        # Replaced, never changed: a pass that was started keeps the list of its rows.
        self._rows: list[DecodeRow] = []
        self._gone: set[int] = set()
        self._steps = 0

    def __len__(self) -> int:
        return len(self._rows) - len(self._gone)

    @property
    def kv_bytes(self) -> int:
        return sum(int(layer.nbytes) for layer in self._cache) if len(self) else 0

    def remove(self, uid: int) -> bool:
        """Let a row go; its place is freed with the next step. Whether it was here."""
        if self._place(uid) is None:
            return False
        self._gone.add(uid)
        if not len(self):
            self._rows, self._gone, self._cache = [], set(), []
            self._pipeline.finish([])
        return True

    def extract(self, uid: int) -> tuple[KvCache, list[int]] | None:
        """As Generator.extract; None for a row that is not here."""
        place = self._place(uid)
        if place is None:
            return None
        return [layer.extract(place) for layer in self._cache], list(self._rows[place].tokens)

    def _place(self, uid: int) -> int | None:
        if uid in self._gone:
            return None
        return next((place for place, row in enumerate(self._rows) if row.uid == uid), None)

    def join(self, rows: list[DecodeRow], caches: list[KvCache]) -> None:
        """Take rows up, while no pass is under way.

        caches: batch caches of just these rows, in their order; they belong to the batch from now on.
        """
        with self._clock:
            self._let_go()
            joining = iter(caches)
            if not self._rows:
                self._cache = with_slots(next(joining))
            for cache in joining:
                for mine, theirs in zip(self._cache, cache, strict=True):
                    mine.extend(theirs)
        self._rows = [*self._rows, *rows]

    def _let_go(self) -> None:
        """Take those that were removed out of the cache, all at once. The last rows take their places."""
        if not self._gone:
            return
        staying = [place for place, row in enumerate(self._rows) if row.uid not in self._gone]
        last = [place for place in staying if place >= len(staying)]
        there = set(staying)
        places = [place if place in there else last.pop() for place in range(len(staying))]
        keep_rows(self._cache, places)
        self._rows = [self._rows[place] for place in places]
        self._gone = set()

    @property
    def under_way(self) -> bool:
        """Whether a pass was started whose tokens were not given out."""
        return self._pipeline.under_way

    def advance(self) -> list[StepToken]:
        """Start the next pass of all rows; the tokens of the one before, if one is under way."""
        if not self._rows:
            return []
        with self._clock:
            self._let_go()
        self._steps += 1
        if self._steps % _CLEAR_CACHE_STEPS == 0:
            mx.clear_cache()
        return self._pipeline.advance(self._rows, self._forward)

    def finish(self) -> list[StepToken]:
        """The tokens of the pass that is under way; none is afterwards."""
        with self._clock:
            self._let_go()
        return self._pipeline.finish(self._rows)

    def _forward(self, inputs: mx.array) -> mx.array:
        logits: mx.array = self._model(inputs[:, None], cache=self._cache)
        return logits[:, -1, :].astype(mx.float32)
