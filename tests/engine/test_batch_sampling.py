"""Draws are distributed as those of mlx-lm's samplers, and depend on a row's seed and position alone."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from mlx_lm import sample_utils

from engine.mlx_worker.batch_sampling import BatchSampler, pick
from engine.requests import Sampling
from tests.engine.requests import sampling

pytestmark = pytest.mark.usefixtures("mlx")

Floats = npt.NDArray[np.float64]
Filter = Callable[[mx.array], mx.array]

VOCAB = 12
DRAWS = 10_000
# About one in a thousand samples of the distribution itself is further from it; seeds are fixed.
MAX_DEVIATIONS = 3.1


def normal(size: int, seed: int = 5) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(scale=1.5, size=size).astype(np.float32)


LOGITS = normal(VOCAB)


@pytest.fixture(params=["numpy", "mlx"])
def xp(request: pytest.FixtureRequest) -> ModuleType:
    return np if request.param == "numpy" else mx


def sample(xp: Any, rows: list[Sampling], logits: Any, positions: Any) -> list[int]:
    """One draw of each row."""
    logits = np.broadcast_to(logits, (len(rows), np.shape(logits)[-1])).copy()
    tokens = BatchSampler(rows, xp).sample(xp.array(logits), np.broadcast_to(positions, len(rows)))
    return [int(token) for token in np.array(tokens)]


def draw_over_seeds(xp: Any, logits: Any = LOGITS, count: int = DRAWS, **options: Any) -> list[int]:
    return sample(xp, [sampling(seed=seed, **options) for seed in range(count)], logits, 3)


def draw_over_positions(xp: Any, positions: range, options: Sampling) -> list[int]:
    return sample(xp, [options] * len(positions), LOGITS, np.array(positions))


def softmax(logprobs: mx.array) -> Floats:
    probs: Floats = np.array(mx.softmax(logprobs, axis=-1), dtype=np.float64)[0]
    return probs


def expected(
    filters: list[Filter], logits: npt.NDArray[np.float32] = LOGITS, temperature: float = 1.0
) -> Floats:
    """What mlx-lm's filters leave of a row, and with which chances."""
    logprobs = mx.array(logits)[None]
    logprobs = logprobs - mx.logsumexp(logprobs, axis=-1, keepdims=True)
    for each in filters:
        logprobs = each(logprobs)
    return softmax(logprobs / temperature)


def assert_distributed(tokens: list[int], chances: Floats) -> None:
    """Chi-square test; the statistic is turned into a normal one after Wilson and Hilferty (1931)."""
    counts = np.bincount(tokens, minlength=len(chances))
    assert not counts[chances == 0].any(), "a token that is filtered out was drawn"
    # Where few are expected the statistic is not distributed so: those are taken together.
    often = len(tokens) * chances >= 10
    wanted = len(tokens) * np.append(chances[often], chances[~often].sum())
    found = np.append(counts[often], counts[~often].sum())
    found, wanted = found[wanted > 0], wanted[wanted > 0]
    assert len(wanted) > 1, "the case tests nothing"
    degrees = len(wanted) - 1
    statistic = float(((found - wanted) ** 2 / wanted).sum())
    spread = 2 / (9 * degrees)
    assert ((statistic / degrees) ** (1 / 3) - (1 - spread)) / spread**0.5 < MAX_DEVIATIONS


def top_p(value: float) -> Filter:
    return lambda logprobs: sample_utils.apply_top_p(logprobs, value)


def top_k(value: int) -> Filter:
    return lambda logprobs: sample_utils.apply_top_k(logprobs, value)


def min_p(value: float) -> Filter:
    return lambda logprobs: sample_utils.apply_min_p(logprobs, value)


def xtc(threshold: float) -> Filter:
    return lambda logprobs: sample_utils.apply_xtc(logprobs, 1.0, threshold, [])


CASES: dict[str, tuple[dict[str, Any], list[Filter]]] = {
    "temperature 1": ({"temperature": 1.0}, []),
    "temperature 0.5": ({"temperature": 0.5}, []),
    "temperature 2": ({"temperature": 2.0}, []),
    "top_p": ({"temperature": 1.0, "top_p": 0.7}, [top_p(0.7)]),
    "top_p, low": ({"temperature": 2.0, "top_p": 0.6}, [top_p(0.6)]),
    "top_k": ({"temperature": 1.0, "top_k": 4}, [top_k(4)]),
    "min_p": ({"temperature": 1.0, "min_p": 0.2}, [min_p(0.2)]),
    "xtc": ({"temperature": 1.0, "xtc_probability": 1.0}, [xtc(0.1)]),
    "xtc, low threshold": ({"temperature": 1.0, "min_p": 0.05, "xtc_probability": 1.0, "xtc_threshold": 0.13},
                         [min_p(0.05), xtc(0.13)]),
    "xtc with nothing above it": (
        {"temperature": 1.0, "xtc_probability": 1.0, "xtc_threshold": 0.5}, [xtc(0.5)]
    ),
    "top_p and top_k": ({"temperature": 0.8, "top_p": 0.95, "top_k": 5}, [top_p(0.95), top_k(5)]),
    "top_p, min_p and top_k": (
        {"temperature": 1.3, "top_p": 0.95, "min_p": 0.02, "top_k": 6}, [top_p(0.95), min_p(0.02), top_k(6)]
    ),
    "xtc before top_k": (
        {"temperature": 1.0, "xtc_probability": 1.0, "xtc_threshold": 0.05, "top_k": 3}, [xtc(0.05), top_k(3)]
    ),
    "all": (
        {"temperature": 0.7, "top_p": 0.97, "min_p": 0.03, "xtc_probability": 1.0, "xtc_threshold": 0.1,
         "top_k": 4},
        [top_p(0.97), min_p(0.03), xtc(0.1), top_k(4)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_draws_are_distributed_as_mlx_lms_filters_say(xp: ModuleType, name: str) -> None:
    options, filters = CASES[name]
    chances = expected(filters, temperature=options["temperature"])
    assert_distributed(draw_over_seeds(xp, **options), chances)


@pytest.mark.parametrize("name", ["temperature 1", "top_p", "top_k", "all"])
def test_successive_draws_of_one_row_are_distributed_likewise(xp: ModuleType, name: str) -> None:
    options, filters = CASES[name]
    tokens = draw_over_positions(xp, range(DRAWS), sampling(seed=2**64 - 1, **options))
    assert_distributed(tokens, expected(filters, temperature=options["temperature"]))


def test_xtc_is_used_as_often_as_told(xp: ModuleType) -> None:
    chances = 0.3 * expected([xtc(0.1)]) + 0.7 * expected([])
    assert_distributed(draw_over_seeds(xp, temperature=1.0, xtc_probability=0.3), chances)


@pytest.mark.parametrize("size", [1000, 1024])
@pytest.mark.parametrize("name", ["temperature 1", "top_p", "top_p and top_k"])
def test_a_larger_vocabulary(xp: ModuleType, size: int, name: str) -> None:
    """Of more than one block, and not of whole blocks."""
    options, filters = CASES[name]
    logits = normal(size)
    chances = expected(filters, logits, options["temperature"])
    assert_distributed(draw_over_seeds(xp, logits, 2000, **options), chances)


def test_rows_with_options_of_their_own(xp: ModuleType) -> None:
    """All cases in one batch, greedy ones among them."""
    names = list(CASES)
    count = 2000
    rows = [sampling(seed=seed, **CASES[name][0]) for seed in range(count) for name in names]
    rows += [sampling()] * 10
    tokens = sample(xp, rows, LOGITS, 3)
    assert tokens[-10:] == [int(LOGITS.argmax())] * 10
    for index, name in enumerate(names):
        options, filters = CASES[name]
        mine = tokens[index : count * len(names) : len(names)]
        assert mine == draw_over_seeds(xp, count=count, **options)
        assert_distributed(mine, expected(filters, temperature=options["temperature"]))


def test_temperature_zero_is_greedy_whatever_else_is_set(xp: ModuleType) -> None:
    rows = [sampling(), sampling(top_p=0.5, top_k=3, min_p=0.1, xtc_probability=1.0)]
    logits = np.stack([LOGITS, LOGITS[::-1]])
    assert sample(xp, rows, logits, 9) == [int(row.argmax()) for row in logits]


def test_a_temperature_close_to_zero_is_as_good_as_greedy(xp: ModuleType) -> None:
    for temperature in (1e-3, 1e-30, 1e-300):
        assert set(draw_over_seeds(xp, count=50, temperature=temperature)) == {int(LOGITS.argmax())}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_top_k_keeps_so_many_of_tokens_that_tie(xp: ModuleType, count: int) -> None:
    logits = np.zeros(VOCAB, dtype=np.float32)
    logits[3] = 1
    drawn = set(draw_over_seeds(xp, logits, 2000, temperature=1.0, top_k=count))
    assert drawn == {3, 0, 1, 2, 4} if count == 5 else drawn == {3, 0} if count == 2 else drawn == {3}


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_top_p_at_its_bounds_filters_nothing(xp: ModuleType, value: float) -> None:
    plain = draw_over_seeds(xp, count=300, temperature=1.0)
    assert draw_over_seeds(xp, count=300, temperature=1.0, top_p=value) == plain


def test_forbidden_tokens_are_not_drawn(xp: ModuleType) -> None:
    logits = LOGITS.copy()
    logits[[0, 4, 11]] = -np.inf
    for options, _ in CASES.values():
        assert not {0, 4, 11} & set(draw_over_seeds(xp, logits, 500, **options))


@pytest.mark.parametrize(
    "options",
    [
        sampling(temperature=1.0, seed=3),
        sampling(temperature=0.7, seed=2**64 - 1, top_p=0.9, xtc_probability=0.5, top_k=7),
    ],
)
def test_a_draw_depends_on_seed_and_position_only(xp: ModuleType, options: Sampling) -> None:
    whole = draw_over_positions(xp, range(60), options)
    assert len(set(whole)) > 2
    mx.random.seed(99)
    mx.eval(mx.random.uniform(shape=(7,)))
    assert [draw_over_positions(xp, range(at, at + 1), options)[0] for at in range(60)] == whole
    for position in (0, 1, 17, 59):
        # Among 31 others, at any place.
        rows = [sampling(temperature=0.1 * n, seed=n, top_k=n % 3, min_p=0.01 * (n % 2)) for n in range(32)]
        rows[position % 32] = options
        assert sample(xp, rows, LOGITS, position)[position % 32] == whole[position]


def test_neighbouring_seeds_and_positions_are_independent(xp: ModuleType) -> None:
    left, right = (
        np.array(draw_over_positions(xp, range(DRAWS), sampling(temperature=1.0, seed=seed)))
        for seed in (1, 2)
    )
    chances = expected([])
    pairs = np.outer(chances, chances).ravel()
    for a, b in ((left, right), (left[:-1], right[1:]), (left[:-1], left[1:]), (left[:-2], left[2:])):
        assert_distributed((a * VOCAB + b).tolist(), pairs)


def test_a_large_vocabulary_keeps_the_chances_of_rare_tokens() -> None:
    """Half of the mass lies on tokens whose own chance is below the resolution of a float32 near 1."""
    size = 150_000
    weights = np.full((1, size), 0.5 / (size - 1), dtype=np.float32)
    weights[0, 0] = 0.5
    uniform = (np.arange(400, dtype=np.float32)[:, None] + np.float32(0.5)) / 400
    other = np.roll(uniform, 171)
    tokens = np.concatenate([pick(np, weights, uniform[i, None], other[i, None]) for i in range(400)])
    assert np.mean(tokens == 0) == pytest.approx(0.5, abs=0.005)
    rest = np.sort(tokens[tokens > 0])
    assert np.abs(rest - np.linspace(0, size, len(rest))).max() < 0.02 * size


def test_nothing_without_weight_is_picked() -> None:
    """At both ends of the unit interval, in the first and the last block."""
    weights = np.zeros((1, 100), dtype=np.float32)
    weights[0, [37, 61]] = 1e-30, 3.0
    last = np.float32(1 - 2**-24)
    for first in (0.0, last):
        for second in (0.0, last):
            (token,) = pick(np, weights, np.array([[first]]), np.array([[second]]))
            assert token in (37, 61)
