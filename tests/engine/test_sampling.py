"""Draws depend on seed and position only; filters and penalties are those of mlx-lm."""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from mlx_lm import sample_utils
from mlx_lm.generate import greedy_sampler

from engine.mlx_worker.sampling import make_processors, make_sampler
from engine.requests import Sampling
from tests.engine.requests import sampling

pytestmark = pytest.mark.usefixtures("mlx")

Distribution = npt.NDArray[np.float64]

VOCAB = 12
DRAWS = 1000
# So many draws from a distribution over 12 tokens are about 0.04 apart from it.
NOISE = 0.08


@pytest.fixture(scope="module")
def logprobs(mlx: None) -> mx.array:
    logits = mx.array(np.random.default_rng(5).normal(scale=1.5, size=(1, VOCAB)).astype(np.float32))
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def as_list(tokens: mx.array) -> list[int]:
    return [int(token) for token in np.array(tokens)]


def draw(logprobs: mx.array, options: Sampling, *, position: int = 0, count: int = DRAWS) -> list[int]:
    sampler = make_sampler(options, position)
    return as_list(mx.concatenate([sampler(logprobs) for _ in range(count)]))


def frequencies(tokens: Sequence[int]) -> Distribution:
    return np.bincount(tokens, minlength=VOCAB) / len(tokens)


def distance(left: Distribution, right: Distribution) -> float:
    """Total variation."""
    return float(np.abs(left - right).sum() / 2)


def softmax(logprobs: mx.array) -> Distribution:
    probs: Distribution = np.array(mx.softmax(logprobs, axis=-1), dtype=np.float64)[0]
    return probs


def test_temperature_zero_is_the_one_greedy_sampler_whatever_else_is_set() -> None:
    assert make_sampler(sampling(), 0) is greedy_sampler
    assert make_sampler(sampling(top_p=0.5, top_k=3, min_p=0.1, xtc_probability=1.0), 9) is greedy_sampler


@pytest.mark.parametrize(
    "options",
    [
        sampling(temperature=1.0, seed=3),
        sampling(temperature=0.7, seed=2**64 - 1, top_p=0.9, xtc_probability=0.5),
    ],
)
def test_a_draw_depends_on_seed_and_position_only(logprobs: mx.array, options: Sampling) -> None:
    whole = draw(logprobs, options, count=60)
    mx.random.seed(99)
    mx.eval(mx.random.uniform(shape=(7,)))
    assert draw(logprobs, options, count=60) == whole
    for position in (1, 17, 59):
        assert draw(logprobs, options, position=position, count=60 - position) == whole[position:]


def test_interleaved_rows_do_not_disturb_each_other(logprobs: mx.array) -> None:
    options = [sampling(temperature=1.0, seed=seed) for seed in range(4)]
    samplers = [make_sampler(option, 0) for option in options]
    rows = [[as_list(sampler(logprobs))[0] for sampler in samplers] for _ in range(40)]
    for index, option in enumerate(options):
        assert [row[index] for row in rows] == draw(logprobs, option, count=40)


def test_neighbouring_seeds_and_positions_are_independent(logprobs: mx.array) -> None:
    """First draws over seeds, and pairs of draws, are distributed as one sampler's draws are."""
    expected = softmax(logprobs)
    first = [draw(logprobs, sampling(temperature=1.0, seed=seed), count=1)[0] for seed in range(DRAWS)]
    assert distance(frequencies(first), expected) < NOISE
    left = draw(logprobs, sampling(temperature=1.0, seed=1))
    right = draw(logprobs, sampling(temperature=1.0, seed=2))
    chance = float((expected**2).sum())
    for other in (right, right[1:], left[1:], left[2:]):
        same = np.mean([a == b for a, b in zip(left, other, strict=False)])
        assert same == pytest.approx(chance, abs=0.05)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_shapes_the_distribution(logprobs: mx.array, temperature: float) -> None:
    tokens = draw(logprobs, sampling(temperature=temperature))
    assert distance(frequencies(tokens), softmax(logprobs / temperature)) < NOISE


FILTERS: dict[str, tuple[Sampling, Callable[[mx.array], mx.array]]] = {
    "top_p": (sampling(temperature=1.0, top_p=0.7), lambda x: sample_utils.apply_top_p(x, 0.7)),
    "top_k": (sampling(temperature=1.0, top_k=4), lambda x: sample_utils.apply_top_k(x, 4)),
    "min_p": (sampling(temperature=1.0, min_p=0.2), lambda x: sample_utils.apply_min_p(x, 0.2)),
    "xtc": (
        sampling(temperature=1.0, xtc_probability=1.0, xtc_threshold=0.1),
        lambda x: sample_utils.apply_xtc(x, 1.0, 0.1, []),
    ),
    "all, in mlx-lm's order": (
        sampling(temperature=1.0, top_p=0.9, min_p=0.05, xtc_probability=1.0, xtc_threshold=0.2, top_k=5),
        lambda x: sample_utils.apply_top_k(
            sample_utils.apply_xtc(
                sample_utils.apply_min_p(sample_utils.apply_top_p(x, 0.9), 0.05), 1.0, 0.2, []
            ),
            5,
        ),
    ),
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_leaves_what_mlx_lms_filter_leaves(logprobs: mx.array, name: str) -> None:
    options, apply = FILTERS[name]
    expected = softmax(apply(logprobs))
    found = frequencies(draw(logprobs, options))
    allowed = set(np.flatnonzero(expected))
    assert 1 < len(allowed) < VOCAB
    assert set(np.flatnonzero(found)) <= allowed
    assert distance(found, expected) < NOISE


@pytest.mark.parametrize(
    "names",
    [
        {"top_p": 0.95, "min_p": 0.02, "top_k": 6},
        {"xtc_probability": 0.5, "xtc_threshold": 0.1},
    ],
    ids=str,
)
def test_draws_are_distributed_as_those_of_mlx_lms_sampler(
    logprobs: mx.array, names: dict[str, float]
) -> None:
    mx.random.seed(0)
    reference = sample_utils.make_sampler(temp=0.8, **names)
    # Its XTC draws once for a whole batch, so that rows of one batch are not independent.
    rows = 1 if "xtc_probability" in names else 2000
    batch = mx.repeat(logprobs, rows, axis=0)
    theirs = as_list(mx.concatenate([reference(batch) for _ in range(2000 // rows)]))
    ours = draw(logprobs, sampling(temperature=0.8, **names), count=2000)
    assert distance(frequencies(ours), frequencies(theirs)) < NOISE


@pytest.mark.parametrize("top_p", [0.0, 1.0])
def test_top_p_at_its_bounds_filters_nothing(logprobs: mx.array, top_p: float) -> None:
    options = sampling(temperature=1.0, seed=4)
    assert draw(logprobs, sampling(temperature=1.0, seed=4, top_p=top_p), count=100) == draw(
        logprobs, options, count=100
    )


def test_xtc_with_nothing_above_its_threshold_changes_nothing(logprobs: mx.array) -> None:
    options = sampling(temperature=1.0, xtc_probability=1.0, xtc_threshold=0.5)
    assert softmax(logprobs).max() < 0.5
    assert distance(frequencies(draw(logprobs, options)), softmax(logprobs)) < NOISE


def processed(options: Sampling, context: list[int], *, prompt: int = 0, min_tokens: int = 0) -> list[float]:
    """Logits 1..12 after the processors of a row with this context; ids 0 and 1 end it."""
    logits = mx.arange(1, VOCAB + 1, dtype=mx.float32)[None]
    for process in make_processors(options, prompt_tokens=prompt, min_tokens=min_tokens, ending_ids=[0, 1]):
        logits = process(mx.array(context), logits)
    return [float(value) for value in np.array(logits[0])]


UNCHANGED = [float(value) for value in range(1, VOCAB + 1)]


def test_most_rows_have_no_processors() -> None:
    assert make_processors(sampling(), prompt_tokens=5, min_tokens=0, ending_ids=[1]) == []
    assert make_processors(sampling(), prompt_tokens=5, min_tokens=3, ending_ids=[]) == []


def test_penalties_lower_tokens_of_the_context() -> None:
    context = [3, 5, 5]
    assert processed(sampling(repetition_penalty=2.0), context)[3:6] == [2.0, 5.0, 3.0]
    assert processed(sampling(presence_penalty=0.5), context)[3:6] == [3.5, 5.0, 5.5]
    assert processed(sampling(frequency_penalty=0.5), context)[3:6] == [3.5, 5.0, 5.0]
    for name in ("repetition_penalty", "presence_penalty", "frequency_penalty"):
        values = processed(sampling(**{name: 2.0}), context)
        assert [v for i, v in enumerate(values) if i not in context] == [
            v for i, v in enumerate(UNCHANGED) if i not in context
        ]


def test_penalties_look_back_as_far_as_told() -> None:
    assert processed(sampling(presence_penalty=1.0, penalty_context_tokens=2), [3, 5, 7])[3:8] == [
        4.0, 5.0, 5.0, 7.0, 7.0,
    ]  # fmt: skip


def test_logit_bias_is_added() -> None:
    values = processed(sampling(logit_bias={2: 10.0, 11: -3.0}), [2])
    assert (values[2], values[11]) == (13.0, 9.0)
    assert values[3:11] == UNCHANGED[3:11]


@pytest.mark.parametrize(("length", "may_end"), [(4, False), (6, False), (7, True), (9, True)])
def test_ending_tokens_are_forbidden_before_min_tokens(length: int, may_end: bool) -> None:
    """Four tokens of prompt, three of output."""
    values = processed(sampling(), [9] * length, prompt=4, min_tokens=3)
    assert values[2:] == UNCHANGED[2:]
    assert values[:2] == (UNCHANGED[:2] if may_end else [-np.inf, -np.inf])
