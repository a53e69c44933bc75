"""Forward passes of a batch and the draws between them, overlapped.

A pass is started before the tokens of the one before are given out, so that the model works while they are
delivered: when n tokens of a row were given, n + 1 are computed or being so.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from engine.mlx_worker.batch_draw import BatchDraw, Drawn
from engine.mlx_worker.batch_sampling import array_module
from engine.mlx_worker.generator import RowInput, StepToken
from engine.mlx_worker.model_clock import ModelClock

Forward = Callable[[mx.array], mx.array]
"""From the last token of each row [rows] to its logits [rows, vocabulary]. Moves the KV cache on."""


@dataclass(slots=True, eq=False)
class DecodeRow:
    """A row of the decode batch.

    tokens: those that its KV covers once the passes that were started are computed. next_token: the one
    after them, where it is known.
    """

    uid: int
    row: RowInput
    tokens: list[int]
    next_token: int


class Pipeline(Protocol):
    """Passes of a batch. Between two of them rows may leave; they may join only while none is under way."""

    @property
    def under_way(self) -> bool:
        """Whether a pass was started whose tokens were not given out."""

    def advance(self, rows: list[DecodeRow], forward: Forward) -> list[StepToken]:
        """Start a pass; the tokens of the one before, if one is under way."""

    def finish(self, rows: list[DecodeRow]) -> list[StepToken]:
        """The tokens of the pass that is under way, and start none. rows: of those in it, which are left."""


def make_pipeline(clock: ModelClock) -> Pipeline:
    """One for MLX's default device."""
    return CpuPipeline(clock) if array_module() is np else DevicePipeline(clock)


class _Draws:
    """Keeps what draws for a batch as long as its rows are the same."""

    def __init__(self, xp: Any, *, later: int) -> None:
        """later: how many of a row's tokens come after those before the one that its logits are from."""
        self._xp = xp
        self._later = later
        self._rows: list[DecodeRow] = []
        self._draw: BatchDraw | None = None

    def of(self, rows: list[DecodeRow]) -> BatchDraw:
        if self._draw is None or rows != self._rows:
            self._draw = BatchDraw([(each.row, each.tokens) for each in rows], self._xp, later=self._later)
            self._rows = list(rows)
        return self._draw


def _staying(flight: list[DecodeRow], rows: list[DecodeRow]) -> list[int]:
    """Places in flight of the rows that are still there."""
    places = {each.uid: place for place, each in enumerate(flight)}
    return [places[each.uid] for each in rows]


@dataclass(frozen=True, slots=True)
class _Found:
    """What was drawn, and by what."""

    draw: BatchDraw
    drawn: Drawn


@dataclass(frozen=True, slots=True)
class _Pass:
    """A pass that was started: its rows, what it was computed from, and its logits."""

    rows: list[DecodeRow]
    inputs: np.ndarray[Any, np.dtype[np.int32]]
    logits: mx.array


class CpuPipeline:
    """Draws with NumPy from the logits of the last pass.

    The graph of the next pass is built before its inputs are known, while MLX is still at the last one, and
    they are written into their memory before it is evaluated. So a model must not look at its inputs while
    it builds; none of mlx-lm's does.
    """

    def __init__(self, clock: ModelClock) -> None:
        self._clock = clock
        self._draws = _Draws(np, later=1)
        self._started: _Pass | None = None

    @property
    def under_way(self) -> bool:
        return self._started is not None

    def advance(self, rows: list[DecodeRow], forward: Forward) -> list[StepToken]:
        with self._clock:
            inputs = mx.array(np.zeros(len(rows), dtype=np.int32))
            logits = forward(inputs)
        found = self._finish(rows)
        memory = np.array(inputs, copy=False)
        memory[:] = [each.next_token for each in rows] if found is None else found.drawn.tokens
        with self._clock:
            mx.async_eval(logits)  # type: ignore[no-untyped-call]
        self._started = _Pass(rows, memory, logits)
        # Only now: the model waits for none of it, and each row is fetched into the CPU's caches once.
        given = self._given(rows, found)
        for each in rows:
            each.tokens.append(each.next_token)
        return given

    def finish(self, rows: list[DecodeRow]) -> list[StepToken]:
        return self._given(rows, self._finish(rows))

    @staticmethod
    def _given(rows: list[DecodeRow], found: _Found | None) -> list[StepToken]:
        return [] if found is None else _give(rows, range(len(rows)), found.draw, found.drawn)

    def _finish(self, rows: list[DecodeRow]) -> _Found | None:
        """What the pass that is under way gives, in the order of the rows; None without one."""
        started, self._started = self._started, None
        if started is None or not rows:
            return None
        with self._clock:
            mx.eval(started.logits)
        logits, inputs = np.array(started.logits, copy=False), started.inputs
        if len(rows) < len(started.rows):
            staying = _staying(started.rows, rows)
            logits, inputs = logits[staying], inputs[staying]
        draw = self._draws.of(rows)
        return _Found(draw, draw.draw(logits, inputs))


@dataclass(frozen=True, slots=True)
class _LazyPass:
    """A pass that was started, with the draw from its logits."""

    rows: list[DecodeRow]
    draw: BatchDraw
    drawn: Drawn


class DevicePipeline:
    """Draws where the logits are, in the same go as the pass, whose inputs never leave the device."""

    def __init__(self, clock: ModelClock) -> None:
        self._clock = clock
        self._draws = _Draws(mx, later=0)
        self._started: _LazyPass | None = None

    @property
    def under_way(self) -> bool:
        return self._started is not None

    def advance(self, rows: list[DecodeRow], forward: Forward) -> list[StepToken]:
        started = self._started
        with self._clock:
            if started is None:
                inputs = mx.array([each.next_token for each in rows], mx.int32)
            else:
                inputs = started.drawn.tokens.astype(mx.int32)
                if len(rows) < len(started.rows):
                    inputs = inputs[mx.array(_staying(started.rows, rows))]
            draw = self._draws.of(rows)
            drawn = draw.draw(forward(inputs), inputs)
            mx.async_eval(*drawn.arrays)  # type: ignore[no-untyped-call]
        given = self.finish(rows)
        for each in rows:
            each.tokens.append(each.next_token)
        self._started = _LazyPass(rows, draw, drawn)
        return given

    def finish(self, rows: list[DecodeRow]) -> list[StepToken]:
        started, self._started = self._started, None
        if started is None or not rows:
            return []
        with self._clock:
            mx.eval(*started.drawn.arrays)
        return _give(rows, _staying(started.rows, rows), started.draw, started.drawn)


def _give(rows: list[DecodeRow], places: Iterable[int], draw: BatchDraw, drawn: Drawn) -> list[StepToken]:
    """Tell what was drawn, and note it as each row's next token. places: of the rows in the draw."""
    tokens, logprobs = drawn.tokens.tolist(), draw.logprobs.by_row(drawn.logprobs)
    given = []
    for each, place in zip(rows, places, strict=True):
        each.next_token = tokens[place]
        given.append(StepToken(each.uid, tokens[place], logprobs.get(place)))
    return given
