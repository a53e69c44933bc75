"""A model of an engine that batches: what its turns cost, and who is in them."""

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PlantModel:
    """The costs of a turn: slice / prefill_tokens_per_s + (step_s + row_s x rows, when rows decode).

    max_batch_rows: rows in prefill and decode together. slice_tokens: most prompt tokens in a turn.
    kv_tokens: cached tokens that fit.
    """

    prefill_tokens_per_s: float
    step_s: float
    row_s: float
    max_batch_rows: int
    slice_tokens: int
    kv_tokens: int

    def solo_ttft_s(self, prompt_tokens: int) -> float:
        """Time to first token on an idle plant at full speed."""
        return prompt_tokens / self.prefill_tokens_per_s

    def rows_within(self, latency_s: float, prompt_tokens: float, output_tokens: float) -> float:
        """Rows at which the mean time between tokens is latency_s, in a steady state of such streams.

        Each row's token costs row_s, and its stream's prefill costs all rows prefill time once per stream.
        """
        of_prefill_s = prompt_tokens / self.prefill_tokens_per_s / output_tokens
        return min(self.max_batch_rows, (latency_s - self.step_s) / (self.row_s + of_prefill_s))

    def streams_per_s(self, rows: float, prompt_tokens: float, output_tokens: float) -> float:
        """Streams served in a second with so many rows always in the batch."""
        decode_s = output_tokens * (self.step_s + self.row_s * rows) / rows
        return 1 / (prompt_tokens / self.prefill_tokens_per_s + decode_s)


class Row:
    """One stream in the plant. pause_tokens: after each so many tokens it leaves the batch; 0 for never."""

    __slots__ = (
        "decoding",
        "entry",
        "joined_step",
        "made",
        "output_tokens",
        "pause_tokens",
        "prefilled",
        "prompt_tokens",
        "to_prefill",
    )

    def __init__(self, prompt_tokens: int, output_tokens: int, pause_tokens: int = 0) -> None:
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.pause_tokens = pause_tokens
        # Until it decodes: tokens of prompt (and of lost output) still to compute, and those cached.
        self.to_prefill = prompt_tokens
        self.prefilled = 0
        # Output tokens when it last began to decode, at the plant's step joined_step.
        self.made = 0
        self.joined_step = 0
        self.decoding = False
        # Which entry into the batch this is; 0 while out of it.
        self.entry = 0


@dataclass(slots=True)
class Turn:
    """What a turn brought. paused: rows that left the batch until `resume`."""

    first_tokens: list[Row] = field(default_factory=list)
    finished: list[Row] = field(default_factory=list)
    paused: list[Row] = field(default_factory=list)


class Plant:
    """Serves rows in turns: slices of prompts in the order of entry, then one step of all decoding rows.

    The owner calls `begin` whenever no turn is under way and there may be work, and `finish` when the turn
    that it announced ends. Rows beyond the batch wait in the order of submission. A turn costs time in
    proportion to what begins and ends in it, not to its rows.
    """

    def __init__(self, model: PlantModel) -> None:
        self.model = model
        self.speed = 1.0
        self.decode_steps = 0
        self.evictions = 0
        self._waiting: deque[Row] = deque()
        self._resuming: deque[Row] = deque()
        self._prefilling: deque[Row] = deque()
        self._to_prefill = 0
        self._decoding = 0
        self._kv = 0
        self._entries = 0
        # Rows by entry, the newest last, and (step, entry, row) at which a row ends or pauses. Both keep
        # entries of rows that have left since; such an entry is no longer the row's.
        self._newest: list[tuple[int, Row]] = []
        self._due: list[tuple[int, int, Row]] = []
        self._complete: list[Row] = []
        self.busy = False

    @property
    def decoding_rows(self) -> int:
        return self._decoding

    @property
    def without_place(self) -> Iterable[Row]:
        """Rows that found no place in the batch yet."""
        return self._waiting

    @property
    def waiting_rows(self) -> int:
        return len(self._waiting) + len(self._resuming)

    @property
    def kv_tokens(self) -> int:
        return self._kv

    def submit(self, row: Row) -> None:
        self._waiting.append(row)

    def resume(self, row: Row) -> None:
        """A paused row may go on; its cache was kept."""
        self._resuming.append(row)

    def begin(self) -> float | None:
        """Begin a turn and return how long it takes in seconds, or None when nobody is there."""
        self._enter()
        if not self._prefilling and not self._decoding:
            return None
        self.busy = True
        tokens = self._slice()
        decode_s = self.model.step_s + self.model.row_s * self._decoding if self._decoding else 0.0
        return (tokens / self.model.prefill_tokens_per_s + decode_s) / self.speed

    def finish(self) -> Turn:
        """The turn is over."""
        turn = Turn()
        self.busy = False
        if self._decoding:
            self.decode_steps += 1
            self._kv += self._decoding
            self._take_due(turn)
        for row in self._complete:
            self._complete_prefill(row, turn)
        self._complete.clear()
        while self._kv > self.model.kv_tokens and len(self._prefilling) + self._decoding > 1:
            self._evict_newest()
        return turn

    def _enter(self) -> None:
        """Fill the batch: rows that resume, then waiting ones whose prompts have room in the cache."""
        while self._rows() < self.model.max_batch_rows and self._resuming:
            row = self._resuming.popleft()
            self._new_entry(row)
            self._decode(row)
        while self._rows() < self.model.max_batch_rows and self._waiting:
            row = self._waiting[0]
            if self._rows() and self._kv + self._to_prefill + row.to_prefill > self.model.kv_tokens:
                return
            self._waiting.popleft()
            self._new_entry(row)
            self._prefilling.append(row)
            self._to_prefill += row.to_prefill

    def _rows(self) -> int:
        return len(self._prefilling) + self._decoding

    def _new_entry(self, row: Row) -> None:
        self._entries += 1
        row.entry = self._entries
        self._newest.append((row.entry, row))

    def _slice(self) -> int:
        left = self.model.slice_tokens
        while left and self._prefilling:
            row = self._prefilling[0]
            tokens = min(left, row.to_prefill)
            left -= tokens
            row.to_prefill -= tokens
            row.prefilled += tokens
            if not row.to_prefill:
                self._complete.append(self._prefilling.popleft())
        taken = self.model.slice_tokens - left
        self._kv += taken
        self._to_prefill -= taken
        return taken

    def _complete_prefill(self, row: Row, turn: Turn) -> None:
        """Its prompt is computed: that gives one token."""
        row.made += 1
        self._kv += 1
        if row.made == 1:
            turn.first_tokens.append(row)
        if row.made == row.output_tokens:
            self._leave(row)
            turn.finished.append(row)
        else:
            self._decode(row)

    def _decode(self, row: Row) -> None:
        row.decoding = True
        row.joined_step = self.decode_steps
        self._decoding += 1
        tokens = row.output_tokens - row.made
        if row.pause_tokens:
            tokens = min(tokens, row.pause_tokens - row.made % row.pause_tokens)
        heapq.heappush(self._due, (self.decode_steps + tokens, row.entry, row))

    def _take_due(self, turn: Turn) -> None:
        while self._due and self._due[0][0] <= self.decode_steps:
            _, entry, row = heapq.heappop(self._due)
            if row.entry != entry:
                continue
            self._stop(row)
            if row.made == row.output_tokens:
                self._leave(row)
                turn.finished.append(row)
            else:
                row.entry = 0
                turn.paused.append(row)

    def _stop(self, row: Row) -> None:
        """It decodes no longer."""
        row.made += self.decode_steps - row.joined_step
        row.decoding = False
        self._decoding -= 1

    def _leave(self, row: Row) -> None:
        row.entry = 0
        self._kv -= row.prompt_tokens + row.made

    def _evict_newest(self) -> None:
        """The row that entered last loses its cache, and is the first of those that wait."""
        while True:
            entry, row = self._newest.pop()
            if row.entry == entry:
                break
        self.evictions += 1
        if row.decoding:
            self._stop(row)
            self._kv -= row.prompt_tokens + row.made
        else:
            self._prefilling.pop()
            self._to_prefill -= row.to_prefill
            self._kv -= row.prefilled
        row.entry = 0
        row.prefilled = 0
        row.to_prefill = row.prompt_tokens + row.made
        self._waiting.appendleft(row)
