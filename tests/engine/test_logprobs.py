"""Log-probabilities that go out with tokens."""

from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from engine.events import TokenLogprobs
from engine.mlx_worker.logprobs import BatchLogprobs

pytestmark = pytest.mark.usefixtures("mlx")
VALUES = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15], dtype=np.float32))


@pytest.fixture(params=["numpy", "mlx"])
def xp(request: pytest.FixtureRequest) -> ModuleType:
    return np if request.param == "numpy" else mx


def find(
    xp: Any, wanted: list[int | None], tokens: list[int], values: Any = VALUES
) -> dict[int, TokenLogprobs]:
    """By row, all rows having the same logits: log-probabilities, shifted."""
    finder = BatchLogprobs(wanted, xp)
    logits = np.tile(values + np.float32(3), (len(wanted), 1))
    return finder.by_row(finder.compute(xp.array(logits), xp.array(np.array(tokens))))


@pytest.mark.parametrize("token_id", range(5))
def test_the_chosen_token_has_its_own_whether_it_is_likely_or_not(xp: ModuleType, token_id: int) -> None:
    for alternatives in (0, 2):
        found = find(xp, [alternatives], [token_id])[0]
        assert found.logprob == pytest.approx(float(VALUES[token_id]), abs=1e-6)
        assert len(found.top) == alternatives


@pytest.mark.parametrize("alternatives", range(1, 6))
def test_alternatives_are_the_most_likely_best_first(xp: ModuleType, alternatives: int) -> None:
    found = find(xp, [alternatives], [2])[0]
    ids = [token_id for token_id, _ in found.top]
    assert ids == [1, 3, 4, 0, 2][:alternatives]
    assert [logprob for _, logprob in found.top] == pytest.approx(VALUES[ids].tolist(), abs=1e-6)


def test_more_alternatives_than_tokens_are_all_tokens(xp: ModuleType) -> None:
    assert len(find(xp, [20], [0])[0].top) == 5


def test_forbidden_tokens_come_last(xp: ModuleType) -> None:
    values = VALUES.copy()
    values[1] = -np.inf
    assert [token_id for token_id, _ in find(xp, [5], [3], values)[0].top] == [3, 4, 0, 2, 1]


def test_only_rows_that_asked_have_any_and_each_as_many_as_it_asked_for(xp: ModuleType) -> None:
    found = find(xp, [None, 0, 3, None, 1], [0, 1, 2, 3, 4])
    assert {row: len(each.top) for row, each in found.items()} == {1: 0, 2: 3, 4: 1}
    for row, each in found.items():
        assert each.logprob == pytest.approx(float(VALUES[row]), abs=1e-6)
    assert find(xp, [None, None], [0, 1]) == {}


def test_as_mlx_lm_normalises(xp: ModuleType) -> None:
    logits = np.random.default_rng(1).normal(scale=4, size=(8, 1000)).astype(np.float32)
    expected = np.array(mx.array(logits) - mx.logsumexp(mx.array(logits), axis=-1, keepdims=True))
    finder = BatchLogprobs([5] * 8, xp)
    tokens = np.arange(8) * 100
    found = finder.by_row(finder.compute(xp.array(logits), xp.array(tokens)))
    for row, each in found.items():
        assert each.logprob == pytest.approx(float(expected[row, tokens[row]]), abs=1e-5)
        for token_id, logprob in each.top:
            assert logprob == pytest.approx(float(expected[row, token_id]), abs=1e-5)
