"""Log-probabilities that go out with tokens."""

import mlx.core as mx
import numpy as np
import pytest

from engine.mlx_worker.logprobs import token_logprobs

pytestmark = pytest.mark.usefixtures("mlx")
VALUES = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15], dtype=np.float32))


@pytest.mark.parametrize("token_id", range(5))
def test_the_chosen_token_has_its_own_whether_it_is_likely_or_not(token_id: int) -> None:
    for alternatives in (0, 2):
        found = token_logprobs(mx.array(VALUES), token_id, alternatives)
        assert found.logprob == pytest.approx(float(VALUES[token_id]))
        assert len(found.top) == alternatives


@pytest.mark.parametrize("alternatives", range(1, 6))
def test_alternatives_are_the_most_likely_best_first(alternatives: int) -> None:
    found = token_logprobs(mx.array(VALUES), 2, alternatives)
    assert [token_id for token_id, _ in found.top] == [1, 3, 4, 0, 2][:alternatives]
    assert [logprob for _, logprob in found.top] == [float(VALUES[token_id]) for token_id, _ in found.top]


def test_more_alternatives_than_tokens_are_all_tokens() -> None:
    assert len(token_logprobs(mx.array(VALUES), 0, 20).top) == 5


def test_half_precision_is_read() -> None:
    found = token_logprobs(mx.array(VALUES).astype(mx.bfloat16), 1, 1)
    assert found.logprob == pytest.approx(float(VALUES[1]), rel=0.01)
    assert found.top[0][0] == 1


def test_forbidden_tokens_come_last() -> None:
    values = VALUES.copy()
    values[1] = -np.inf
    assert [token_id for token_id, _ in token_logprobs(mx.array(values), 3, 5).top] == [3, 4, 0, 2, 1]
