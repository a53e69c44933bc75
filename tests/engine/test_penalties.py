"""Penalties, bias and endings that are forbidden change logits as mlx-lm's processors do."""

from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import sample_utils

from engine.mlx_worker.penalties import BatchPenalties, PenalisedRow
from engine.requests import Sampling
from tests.engine.requests import sampling

pytestmark = pytest.mark.usefixtures("mlx")

VOCAB = 12
ENDINGS = (0, 1)
LOGITS = np.random.default_rng(8).normal(scale=2, size=VOCAB).astype(np.float32)


@pytest.fixture(params=["numpy", "mlx"])
def xp(request: pytest.FixtureRequest) -> ModuleType:
    return np if request.param == "numpy" else mx


def row(options: Sampling, context: list[int], min_tokens: int = 0) -> PenalisedRow:
    return PenalisedRow(options, context, min_tokens, ENDINGS)


def after(
    xp: Any, rows: list[PenalisedRow], tokens: list[list[int]], position: int = 0
) -> list[list[list[float]]]:
    """Logits of the rows after each of several steps. tokens: what the rows are computed from, by step."""
    penalties = BatchPenalties(rows, xp)
    found = []
    for step, inputs in enumerate(tokens):
        logits = xp.array(np.tile(LOGITS, (len(rows), 1)))
        logits = penalties.apply(logits, xp.array(np.array(inputs)), np.full(len(rows), position + step))
        found.append(np.array(logits).tolist())
    return found


def reference(options: Sampling, context: list[int]) -> list[float]:
    """The same by mlx-lm's processors. context: with the token that the logits come from."""
    size = options.penalty_context_tokens
    processors = sample_utils.make_logits_processors(
        repetition_penalty=options.repetition_penalty, repetition_context_size=size,
        presence_penalty=options.presence_penalty, presence_context_size=size,
        frequency_penalty=options.frequency_penalty, frequency_context_size=size,
    )  # fmt: skip
    processors += sample_utils.make_logits_processors(logit_bias=dict(options.logit_bias))
    logits = mx.array(LOGITS)[None]
    for process in processors:
        logits = process(mx.array(context), logits)
    values: list[float] = np.array(logits)[0].tolist()
    return values


OPTIONS = {
    "repetition": sampling(repetition_penalty=1.7),
    "presence": sampling(presence_penalty=0.5),
    "frequency": sampling(frequency_penalty=0.3),
    "negative": sampling(presence_penalty=-0.5, frequency_penalty=-0.2, repetition_penalty=0.8),
    "bias": sampling(logit_bias={2: 10.0, 11: -3.0}),
    "all, short context": sampling(
        repetition_penalty=1.3, presence_penalty=0.2, frequency_penalty=0.1, logit_bias={3: 1.5},
        penalty_context_tokens=3,
    ),
    "of one token": sampling(repetition_penalty=1.3, frequency_penalty=0.4, penalty_context_tokens=1),
}  # fmt: skip
CONTEXTS = [[], [5], [3, 5, 5, 7], [index % 5 for index in range(40)]]
STEPS = [5, 3, 5, 5, 9, 11, 2, 2]


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("context", CONTEXTS, ids=len)
def test_as_mlx_lm_does_step_after_step(xp: ModuleType, name: str, context: list[int]) -> None:
    options = OPTIONS[name]
    found = after(xp, [row(options, context)], [[token] for token in STEPS])
    for step, (logits,) in enumerate(found):
        assert logits == reference(options, context + STEPS[: step + 1])


def test_rows_do_not_touch_each_other(xp: ModuleType) -> None:
    """Every option with every context in one batch, with rows between them that nothing concerns."""
    pairs = [(options, context) for options in [*OPTIONS.values(), sampling()] for context in CONTEXTS]
    rows = [row(options, context) for options, context in pairs]
    tokens = [[(token + place) % VOCAB for place in range(len(rows))] for token in STEPS]
    for step, found in enumerate(after(xp, rows, tokens)):
        for place, (options, context) in enumerate(pairs):
            assert found[place] == reference(options, context + [each[place] for each in tokens[: step + 1]])


def test_most_rows_need_nothing() -> None:
    assert BatchPenalties([row(sampling(), [1]), PenalisedRow(sampling(), [], 3, ())], np).empty
    assert not BatchPenalties([row(sampling(), []), row(sampling(), [], 1)], np).empty


def test_penalties_lower_tokens_of_the_context() -> None:
    """Signs: what was there is less likely."""
    for name in ("repetition", "presence", "frequency"):
        ((values,),) = after(np, [row(OPTIONS[name], [3, 5])], [[5]])
        changed = [index for index in range(VOCAB) if values[index] != LOGITS[index]]
        assert changed == [3, 5]
        assert all(values[index] < LOGITS[index] for index in changed)


def test_ending_tokens_are_forbidden_before_min_tokens(xp: ModuleType) -> None:
    rows = [row(sampling(), [9], 3), row(sampling(logit_bias={0: 5.0, 2: 1.0}), [9], 4), row(sampling(), [9])]
    plain = LOGITS.tolist()
    for position, found in enumerate(after(xp, rows, [[9] * 3] * 6)):
        for values, min_tokens in zip(found, (3, 4, 0), strict=True):
            assert (values[:2] == [-np.inf, -np.inf]) == (position < min_tokens)
        assert found[0][2:] == plain[2:]
        assert found[1][2] == np.float32(LOGITS[2] + np.float32(1))
        assert found[2] == plain
