"""Rows in slots keep what they have, whatever joins and leaves, and room is neither wasted nor made anew."""

import random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import ArraysCache, BatchKVCache, KVCache

from engine.mlx_worker.slot_kv_cache import SlotKVCache, keep_rows, with_slots

pytestmark = pytest.mark.usefixtures("mlx")

HEADS, KEY, VALUE = 2, 3, 5
Held = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
"""Keys and values of a row: [heads, tokens, dimension]."""


def fresh(rng: np.random.Generator, tokens: int) -> Held:
    return (
        rng.standard_normal((HEADS, tokens, KEY)).astype(np.float32),
        rng.standard_normal((HEADS, tokens, VALUE)).astype(np.float32),
    )


def batch_of(rows: list[Held]) -> BatchKVCache:
    caches = []
    for keys, values in rows:
        cache = KVCache()
        if keys.shape[1]:
            cache.update_and_fetch(mx.array(keys[None]), mx.array(values[None]))
        caches.append(cache)
    return KVCache.merge(caches)


class Driver:
    """A cache of one layer, and what each of its rows should hold."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.rows: list[Held] = []
        self.layers: list[Any] = []

    @property
    def cache(self) -> SlotKVCache:
        (layer,) = self.layers
        assert isinstance(layer, SlotKVCache)
        return layer

    def join(self, *lengths: int) -> None:
        rows = [fresh(self.rng, length) for length in lengths]
        if self.rows:
            self.cache.extend(batch_of(rows))
        else:
            self.layers = with_slots([batch_of(rows)])
        self.rows += rows

    def keep(self, places: list[int]) -> None:
        keep_rows(self.layers, places)
        self.rows = [self.rows[place] for place in places]

    def step(self) -> None:
        new = [fresh(self.rng, 1) for _ in self.rows]
        keys, values = (mx.array(np.stack([row[part] for row in new])) for part in (0, 1))
        fetched = self.cache.update_and_fetch(keys, values)
        self.rows = [
            (np.concatenate([row[0], more[0]], axis=1), np.concatenate([row[1], more[1]], axis=1))
            for row, more in zip(self.rows, new, strict=True)
        ]
        lengths = [row[0].shape[1] for row in self.rows]
        assert self.cache.offset.tolist() == lengths
        visible = np.array(self.cache.make_mask(1))[:, 0, 0, : self.cache._idx]
        for place, (row, length) in enumerate(zip(self.rows, lengths, strict=True)):
            for part in (0, 1):
                padded = np.array(fetched[part])[place]
                assert padded.shape[1] == self.cache._idx
                np.testing.assert_array_equal(padded[:, padded.shape[1] - length :], row[part])
            # The mask was made after this step, so it is by one longer.
            assert visible[place].tolist() == [False] * (self.cache._idx - length) + [True] * length

    def check(self) -> None:
        for place, row in enumerate(self.rows):
            alone = self.cache.extract(place)
            assert alone.offset == row[0].shape[1]
            np.testing.assert_array_equal(np.array(alone.keys)[0], row[0])
            np.testing.assert_array_equal(np.array(alone.values)[0], row[1])


@pytest.mark.parametrize("seed", range(8))
def test_rows_hold_what_they_got_whatever_joins_and_leaves(seed: int) -> None:
    draw = random.Random(seed)
    driver = Driver(seed)
    for _ in range(60):
        if not driver.rows or draw.random() < 0.3:
            driver.join(*(draw.choice([0, 1, 3, 30, 300]) for _ in range(draw.randint(1, 4))))
        elif len(driver.rows) > 1 and draw.random() < 0.4:
            driver.keep(draw.sample(range(len(driver.rows)), draw.randint(1, len(driver.rows) - 1)))
        for _ in range(draw.randint(1, 5)):
            driver.step()
        driver.check()


def test_rows_that_join_and_leave_one_by_one_make_no_new_arrays() -> None:
    driver = Driver(1)
    driver.join(*[10] * 16)
    driver.step()
    driver.join(10)
    room = driver.cache.keys.shape
    for _ in range(20):
        driver.keep([*range(5), 16, *range(6, 16)])
        driver.join(12)
        assert driver.cache.keys.shape == room
    driver.step()
    driver.check()


def test_room_follows_the_rows_and_the_tokens_that_are_left() -> None:
    driver = Driver(2)
    driver.join(*[10] * 32, 1000)
    driver.step()
    assert driver.cache.keys.shape[0] <= 33 * 1.25
    assert driver.cache.keys.shape[2] <= 1000 + 1 + 64 + 256
    driver.keep(list(range(32)))
    assert driver.cache.keys.shape[2] == 256
    driver.keep(list(range(10)))
    assert driver.cache.keys.shape[0] <= 12
    driver.step()
    driver.check()


def test_a_stream_of_short_rows_stays_short() -> None:
    driver = Driver(3)
    driver.join(10, 10)
    for _ in range(150):
        for _ in range(4):
            driver.step()
        driver.keep([1])
        driver.join(10)
    assert driver.cache.keys.shape[2] == 256
    driver.check()


def test_what_is_not_a_number_does_not_reach_the_next_row_in_its_place() -> None:
    driver = Driver(4)
    driver.join(40, 40)
    driver.step()
    driver.cache.keys[1:2], driver.cache.values[1:2] = mx.nan, mx.nan
    driver.keep([0])
    driver.join(5)
    keys, values = driver.cache.keys_and_values()
    assert not mx.isnan(keys).any().item()
    assert not mx.isnan(values).any().item()


def test_other_kinds_of_caches_are_left_as_they_are() -> None:
    other = ArraysCache(1)
    other[0] = mx.arange(3)[:, None]
    layers = with_slots([other, batch_of([fresh(np.random.default_rng(0), 4) for _ in range(3)])])
    assert layers[0] is other
    keep_rows(layers, [0, 2])
    assert other[0].tolist() == [[0], [2]]
    assert layers[1].offset.tolist() == [4, 4]
