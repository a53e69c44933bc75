"""The prefix cache itself, against a search through everything that was kept."""

import time
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.mlx_worker.prefix_cache import PrefixCache
from engine.mlx_worker.row import Parked, common_prefix

TOKENS = st.lists(st.integers(0, 2), max_size=8)
SALTS = st.sampled_from(["", "other"])


@dataclass
class Layer:
    """A layer's cache: ten bytes for each token."""

    tokens: int
    trimmable: bool = True

    @property
    def nbytes(self) -> int:
        return 10 * self.tokens

    def is_trimmable(self) -> bool:
        return self.trimmable

    def trim(self, tokens: int) -> int:
        assert self.trimmable
        self.tokens -= tokens
        return tokens


def parked(tokens: list[int], *, trimmable: bool = True) -> Parked:
    return Parked([Layer(len(tokens), trimmable)], list(tokens))


def size(tokens: list[int]) -> int:
    return 18 * len(tokens)


def shared(left: list[int], right: list[int]) -> int:
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False))))


@given(left=TOKENS, right=TOKENS)
def test_common_prefix(left: list[int], right: list[int]) -> None:
    assert common_prefix(left, right) == shared(left, right)


@given(texts=st.lists(st.tuples(SALTS, TOKENS.filter(bool))), wanted=TOKENS.filter(bool), salt=SALTS)
def test_the_longest_common_beginning_of_the_same_salt_is_found(
    texts: list[tuple[str, list[int]]], wanted: list[int], salt: str
) -> None:
    cache = PrefixCache(10**6)
    for each_salt, tokens in texts:
        cache.add(each_salt, parked(tokens))
    lengths = [shared(tokens, wanted) for each_salt, tokens in texts if each_salt == salt]
    assert cache.covered(salt, wanted) == max(lengths, default=0)
    # The last token is left to compute.
    expected = min(max(lengths, default=0), len(wanted) - 1)
    found = cache.find(salt, wanted, least=0)
    assert (len(found.tokens) if found is not None else 0) == expected
    if found is not None:
        assert found.tokens == wanted[:expected]
        assert found.cache[0].tokens == expected


@given(texts=st.lists(TOKENS.filter(bool)), wanted=TOKENS.filter(bool))
def test_what_cannot_be_trimmed_is_found_whole_only(texts: list[list[int]], wanted: list[int]) -> None:
    cache = PrefixCache(10**6)
    for tokens in texts:
        cache.add("", parked(tokens, trimmable=False))
    whole = [len(tokens) for tokens in texts if tokens == wanted[:-1][: len(tokens)]]
    found = cache.find("", wanted, least=0)
    assert (len(found.tokens) if found is not None else 0) == max(whole, default=0)
    assert len(cache) == len({tuple(tokens) for tokens in texts})


@given(
    texts=st.lists(st.tuples(SALTS, TOKENS.filter(bool), st.booleans())),
    max_bytes=st.sampled_from([0, 60, 300]),
)
def test_the_bytes_stay_within_their_bound_and_are_those_of_what_is_kept(
    texts: list[tuple[str, list[int], bool]], max_bytes: int
) -> None:
    cache = PrefixCache(max_bytes)
    for salt, tokens, trimmable in texts:
        cache.add(salt, parked(tokens, trimmable=trimmable))
        assert cache.nbytes <= max_bytes
        if size(tokens) <= max_bytes:
            assert cache.covered(salt, tokens) == len(tokens)
    cache.shrink_to(0)
    assert (len(cache), cache.nbytes) == (0, 0)
    assert all(cache.covered(salt, tokens) == 0 for salt, tokens, _ in texts)


def test_a_longer_text_replaces_its_beginnings() -> None:
    cache = PrefixCache(10**6)
    for tokens in ([1, 2], [1, 2, 3], [2], [1, 2, 3, 4]):
        cache.add("", parked(tokens))
    assert len(cache) == 2
    assert cache.nbytes == size([1, 2, 3, 4]) + size([2])


def test_the_least_recently_used_gives_way() -> None:
    cache = PrefixCache(3 * size([0, 0]))
    for first in (1, 2, 3):
        cache.add("", parked([first, 0]))
    assert cache.find("", [1, 0, 0], least=0) is not None
    cache.add("", parked([4, 0]))
    assert [cache.covered("", [first, 0]) for first in (1, 2, 3, 4)] == [2, 0, 2, 2]


def test_a_text_larger_than_the_bound_drives_nothing_out() -> None:
    cache = PrefixCache(size([1, 2]))
    cache.add("", parked([1, 2]))
    cache.add("", parked([3, 4, 5]))
    assert cache.covered("", [1, 2]) == 2
    assert cache.covered("", [3]) == 0


def test_a_text_that_brings_no_more_than_the_row_has_is_not_copied() -> None:
    cache = PrefixCache(10**6)
    cache.add("", parked([1, 2, 3]))
    assert cache.find("", [1, 2, 3, 4], least=3) is None
    assert cache.find("", [1, 2, 3, 4], least=2) is not None


def test_what_is_found_is_a_copy() -> None:
    cache = PrefixCache(10**6)
    cache.add("", parked([1, 2, 3]))
    found = cache.find("", [1, 2, 9], least=0)
    assert found is not None
    found.tokens.append(9)
    again = cache.find("", [1, 2, 3, 4], least=0)
    assert again is not None
    assert (again.tokens, again.cache[0].tokens) == ([1, 2, 3], 3)


@pytest.mark.parametrize("shared_tokens", [4000, 500])
def test_a_search_among_many_texts_takes_well_below_a_decode_step(shared_tokens: int) -> None:
    cache = PrefixCache(2**40)
    beginning = [token % 997 for token in range(shared_tokens)]
    for number in range(300):
        cache.add("", parked(beginning + [number] * 200))
    wanted: list[Any] = beginning + [1000] * 200
    took_s: list[float] = []
    for _ in range(5):
        began_s = time.perf_counter()
        found = cache.find("", wanted, least=0)
        took_s.append(time.perf_counter() - began_s)
        assert found is not None
        assert len(found.tokens) == shared_tokens
    # About 0.3 ms on an idle machine; a search token by token takes ten times as long and more.
    assert min(took_s) < 0.005


def test_another_budget_gives_up_the_least_recently_used_and_0_all() -> None:
    texts = [[n, n] for n in range(4)]
    cache = PrefixCache(4 * size(texts[0]))
    for text in texts:
        cache.add("", parked(text))
    assert cache.find("", [0, 0, 9], least=0)
    cache.resize(2 * size(texts[0]))
    assert [cache.covered("", text) for text in texts] == [2, 0, 0, 2]
    assert cache.nbytes == 2 * size(texts[0])
    cache.add("", parked(texts[1]))
    assert [cache.covered("", text) for text in texts] == [2, 2, 0, 0]
    cache.resize(0)
    assert (len(cache), cache.nbytes, cache.enabled) == (0, 0, False)
    cache.add("", parked(texts[1]))
    assert len(cache) == 0
    cache.resize(size(texts[0]))
    cache.add("", parked(texts[1]))
    assert (len(cache), cache.enabled) == (1, True)
