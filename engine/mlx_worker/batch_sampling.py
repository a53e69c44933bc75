"""Draws the next token of every row of a batch at once.

The filters and their order are those of mlx-lm's samplers: top_p, min_p, XTC, top_k, then the temperature.
A filter here is a range of logits, found in the sorted row, since each of mlx-lm's keeps a run of that order.
Where tokens tie for the last place of top_k, those of the lowest ids are kept.

Works on arrays of NumPy or of MLX alike (`xp` is the module): NumPy where the model runs on the CPU, whose
sort and exp in MLX are 25 to 50 times slower; MLX elsewhere, where logits should not leave the device.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from engine.mlx_worker.draw_keys import DRAW, XTC, Ints, hashes, uniforms
from engine.requests import Sampling

Array = Any
"""An array of whichever module is in use."""

# Beyond it a difference of one bit between two logits decides, and float32 would overflow.
_MAX_INVERSE_TEMPERATURE = 1e20


class BatchSampler:
    """Samples the rows that it was made for, in their order."""

    def __init__(self, rows: Sequence[Sampling], xp: Any) -> None:
        self._xp = xp
        drawn = [index for index, row in enumerate(rows) if row.temperature > 0]
        options = [rows[index] for index in drawn]
        self._all_greedy = not drawn
        if self._all_greedy:
            return
        self._rows = len(rows)
        self._drawn = np.array(drawn)
        self._drawn_index = xp.array(self._drawn)
        self._seeds = np.array([row.seed for row in options], dtype=np.uint64)
        self._inverse_temperature = self._column(
            [min(1 / row.temperature, _MAX_INVERSE_TEMPERATURE) for row in options]
        )
        self._has_min_p = any(row.min_p > 0 for row in options)
        with np.errstate(divide="ignore"):
            self._log_min_p = self._column(np.log([row.min_p for row in options]))
        self._xtc_chance = np.array([row.xtc_probability for row in options])
        # Which filters a row goes through depends on nothing but its own options.
        short = [index for index, row in enumerate(options) if row.top_k > 0 and not row.xtc_probability]
        rest = [index for index, row in enumerate(options) if index not in short and _is_sorted(row)]
        self._filters: list[tuple[Array, _TopKLimits | _SortedLimits]] = []
        if short:
            self._filters.append((np.array(short), _TopKLimits([options[index] for index in short], xp)))
        if rest:
            self._filters.append((np.array(rest), _SortedLimits([options[index] for index in rest], xp)))

    def _column(self, values: Any) -> Array:
        return self._xp.array(np.asarray(values, dtype=np.float32))[:, None]

    def sample(self, logits: Array, positions: Ints) -> Array:
        """Token ids [rows]. logits: [rows, vocabulary], float32. positions: output tokens before, by row."""
        xp = self._xp
        if self._all_greedy:
            return xp.argmax(logits, axis=-1)
        if len(self._drawn) == self._rows:
            return self._draw(logits, positions)
        tokens = xp.argmax(logits, axis=-1)
        tokens[self._drawn_index] = self._draw(logits[self._drawn_index], positions[self._drawn]).astype(
            tokens.dtype
        )
        return tokens

    def _draw(self, logits: Array, positions: Ints) -> Array:
        """Draw from rows that are not greedy."""
        xp = self._xp
        peak = xp.max(logits, axis=-1, keepdims=True)
        allowed = None
        if self._has_min_p:
            allowed = logits >= peak + self._log_min_p
        for rows, limits in self._filters:
            xtc = uniforms(hashes(self._seeds[rows], positions[rows], XTC))[0] < self._xtc_chance[rows]
            if len(rows) == len(positions):
                allowed, peak = limits.apply(logits, peak, peak + self._log_min_p, xtc)
                continue
            if allowed is None:
                allowed = xp.ones(logits.shape, dtype=xp.bool_)
            index = xp.array(rows)
            some = peak[index]
            allowed[index], peak[index] = limits.apply(
                logits[index], some, some + self._log_min_p[index], xtc
            )
        exponents = (logits - peak) * self._inverse_temperature
        if allowed is not None:
            exponents = xp.where(allowed, exponents, -np.inf)
        first, second = uniforms(hashes(self._seeds, positions, DRAW))
        return pick(xp, xp.exp(exponents), xp.array(first)[:, None], xp.array(second)[:, None])


def _is_sorted(row: Sampling) -> bool:
    """Whether a row needs its logits in order."""
    return 0 < row.top_p < 1 or row.top_k > 0 or row.xtc_probability > 0


class _TopKLimits:
    """The filters of rows with top_k and without XTC, for which only the best need be in order."""

    def __init__(self, rows: Sequence[Sampling], xp: Any) -> None:
        self._xp = xp
        self._most = max(row.top_k for row in rows)
        self._top_k = xp.array(np.array([[row.top_k] for row in rows], dtype=np.int32))
        # Of the mass, the share from which on top_p drops; above 1 it drops nothing.
        self._top_p = _column(xp, [row.top_p if 0 < row.top_p < 1 else 2.0 for row in rows])
        self._any_top_p = any(0 < row.top_p < 1 for row in rows)

    def apply(self, logits: Array, peak: Array, low: Array, xtc: Array) -> tuple[Array, Array]:
        """As _SortedLimits.apply."""
        xp = self._xp
        start = max(0, logits.shape[-1] - self._most)
        best = xp.sort(xp.partition(logits, start, axis=-1)[:, start:], axis=-1)[:, ::-1]
        if self._any_top_p:
            bound = self._top_p * xp.sum(xp.exp(logits - peak), axis=-1, keepdims=True)
            # Summed from the top, so that the sums do not depend on how far they go.
            kept = xp.sum(xp.cumsum(xp.exp(best - peak), axis=-1) < bound, axis=-1, keepdims=True)
            low = xp.maximum(low, xp.take_along_axis(best, xp.minimum(kept, best.shape[-1] - 1), -1))
        low = xp.maximum(low, xp.take_along_axis(best, xp.minimum(self._top_k, best.shape[-1]) - 1, -1))
        return _at_most(xp, logits, logits >= low, low, self._top_k), peak


class _SortedLimits:
    """The filters of rows whose logits are needed in order."""

    def __init__(self, rows: Sequence[Sampling], xp: Any) -> None:
        self._xp = xp
        # Of the mass, the share at the lower end that top_p drops; below 0 it drops nothing.
        self._dropped = _column(xp, [1 - row.top_p if 0 < row.top_p < 1 else -1.0 for row in rows])
        self._top_k = np.array([[row.top_k] for row in rows], dtype=np.int32)
        self._any_top_p = any(0 < row.top_p < 1 for row in rows)
        self._any_top_k = any(row.top_k > 0 for row in rows)
        self._any_xtc = any(row.xtc_probability > 0 for row in rows)
        self._threshold = _column(xp, [row.xtc_threshold for row in rows])

    def apply(self, logits: Array, peak: Array, low: Array, xtc: Array) -> tuple[Array, Array]:
        """Which tokens may be drawn [rows, vocabulary], and the highest of their logits [rows, 1].

        peak: the highest logit. low: the lowest that min_p allows. xtc: whether to use XTC, by row.
        """
        xp = self._xp
        ordered = xp.sort(logits, axis=-1)
        size = ordered.shape[-1]
        high = peak
        if self._any_top_p or self._any_xtc:
            mass = xp.exp(ordered - peak)
        if self._any_top_p:
            place = _place_of(xp, mass, self._dropped)
            low = xp.maximum(low, xp.where(self._dropped > 0, xp.take_along_axis(ordered, place, -1), low))
        if self._any_xtc:
            kept = xp.where(ordered >= low, mass, 0)
            least = xp.sum(kept <= self._threshold * xp.sum(kept, -1, keepdims=True), -1, keepdims=True)
            least_logit = xp.take_along_axis(ordered, xp.minimum(least, size - 1), -1)
            high = xp.where(xp.array(xtc)[:, None] & (least < size), least_logit, peak)
        if not self._any_top_k:
            return (logits >= low) & (logits <= high), high
        return self._keep_top_k(logits, ordered, low, high), high

    def _keep_top_k(self, logits: Array, ordered: Array, low: Array, high: Array) -> Array:
        xp = self._xp
        size = ordered.shape[-1]
        top_k = xp.array(np.where(self._top_k > 0, self._top_k, size))
        beyond = xp.sum(ordered > high, -1, keepdims=True)
        last = xp.maximum(size - beyond - top_k, 0)
        low = xp.maximum(low, xp.take_along_axis(ordered, last, -1))
        return _at_most(xp, logits, (logits >= low) & (logits <= high), low, top_k)


def _at_most(xp: Any, logits: Array, allowed: Array, low: Array, count: Array) -> Array:
    """So many of those that are allowed: of ties at low, the first ones."""
    excess = xp.sum(allowed, axis=-1, keepdims=True) - count
    # On a device it is cheaper to go on than to ask.
    if xp is np and not (excess > 0).any():
        return allowed
    ties = logits == low
    ranks = xp.cumsum(ties.astype(xp.int32), axis=-1)
    spare = ranks > ranks[:, -1:] - xp.maximum(excess, 0)
    return allowed & ~(ties & spare)


def _column(xp: Any, values: Sequence[float]) -> Array:
    return xp.array(np.array(values, dtype=np.float32))[:, None]


def _block_size(size: int) -> int:
    """About the square root, a power of two."""
    return 1 << (max(size, 1).bit_length() // 2)


def _in_blocks(xp: Any, mass: Array) -> Array:
    """[rows, size] as [rows, blocks, size of a block], filled up with zeros."""
    rows, size = mass.shape
    block = _block_size(size)
    if size % block:
        filler = xp.zeros((rows, block - size % block), dtype=mass.dtype)
        mass = xp.concatenate([mass, filler], axis=-1)
    return mass.reshape(rows, -1, block)


def _place_of(xp: Any, mass: Array, share: Array) -> Array:
    """The first place [rows, 1] up to which there is more than that share of the mass.

    By way of sums of blocks: a running sum over a large vocabulary would lose the small terms in float32,
    and costs more.
    """
    blocks = _in_blocks(xp, mass)
    ends = xp.cumsum(xp.sum(blocks, axis=-1), axis=-1)
    target = share * ends[:, -1:]
    block = _first(xp, ends > target)[:, None]
    before = xp.where(block > 0, xp.take_along_axis(ends, xp.maximum(block - 1, 0), -1), 0)
    inside = xp.cumsum(xp.take_along_axis(blocks, block[:, :, None], 1)[:, 0], axis=-1)
    beyond = inside > target - before
    # The two sums of a block may differ in the last bit.
    found = xp.any(beyond, axis=-1, keepdims=True)
    place = xp.where(found, _first(xp, beyond)[:, None], blocks.shape[-1] - 1)
    return xp.minimum(block * blocks.shape[-1] + place, mass.shape[-1] - 1)


def pick(xp: Any, weights: Array, first: Array, second: Array) -> Array:
    """One index [rows] with chances in proportion to weights [rows, size], by the inverse of their sums.

    first, second: uniform in [0, 1), [rows, 1]: the block of about sqrt(size) indices, and the index in it.
    With 24 bits each, and sums of so few terms, float32 holds a chance to about 1e-5 of itself, down to
    chances of 1e-7 times that of the index's block.
    """
    blocks = _in_blocks(xp, weights)
    block = _pick_one(xp, xp.sum(blocks, axis=-1), first)
    inside = _pick_one(xp, xp.take_along_axis(blocks, block[:, None, None], 1)[:, 0], second)
    return block * blocks.shape[-1] + inside


def _pick_one(xp: Any, weights: Array, uniform: Array) -> Array:
    # What weighs nothing is never picked, even where sums of a device are not quite in order.
    ends = xp.where(weights > 0, xp.cumsum(weights, axis=-1), 0)
    # uniform <= 1 - 2**-24, so the product is below the greatest end.
    return _first(xp, ends > uniform * xp.max(ends, axis=-1, keepdims=True))


def _first(xp: Any, marks: Array) -> Array:
    """The first place [rows] that is marked; signed, for what is computed from it."""
    return xp.argmax(marks, axis=-1).astype(xp.int32)


def array_module() -> Any:
    """The module to sample with: numpy where the model runs on the CPU."""
    return np if mx.default_device().type == mx.DeviceType.cpu else mx
