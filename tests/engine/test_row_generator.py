"""Rows in a batch get the tokens that they get alone, whatever joins, leaves or waits; prompts by budget."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models import gemma3_text, llama, mamba

from engine.mlx_worker.generator import PromptProgress, RowInput, Step, StepToken
from engine.mlx_worker.model_clock import ModelClock
from engine.mlx_worker.row_generator import RowGenerator
from engine.mlx_worker.step_pipeline import CpuPipeline, DecodeRow, DevicePipeline, Pipeline
from engine.requests import Sampling
from tests.engine.requests import sampling

pytestmark = pytest.mark.usefixtures("mlx")

VOCAB = 96
TOKENS = 12
_SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "vocab_size": VOCAB, "head_dim": 16,
}  # fmt: skip


def make_llama() -> nn.Module:
    return llama.Model(llama.ModelArgs(model_type="llama", **_SMALL))


def make_sliding_window() -> nn.Module:
    """Every second layer sees 8 tokens (RotatingKVCache)."""
    layers = ["full_attention", "sliding_attention"]
    return llama.Model(llama.ModelArgs(model_type="llama", layer_types=layers, sliding_window=8, **_SMALL))


def make_gemma() -> nn.Module:
    options = {**_SMALL, "sliding_window": 8, "sliding_window_pattern": 2}
    return gemma3_text.Model(gemma3_text.ModelArgs.from_dict({"model_type": "gemma3_text", **options}))


def make_mamba() -> nn.Module:
    """State of a fixed size (ArraysCache)."""
    options = {
        "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "state_size": 4,
        "num_hidden_layers": 2, "conv_kernel": 4, "use_bias": False, "use_conv_bias": True,
        "time_step_rank": 2,
    }  # fmt: skip
    return mamba.Model(mamba.ModelArgs.from_dict({"model_type": "mamba", **options}))


KINDS: dict[str, Callable[[], nn.Module]] = {
    "llama": make_llama,
    "sliding window": make_sliding_window,
    "gemma3": make_gemma,
    "mamba": make_mamba,
}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, mlx: None) -> nn.Module:
    mx.random.seed(3)
    model = KINDS[request.param]()
    mx.eval(model.parameters())
    return model


@pytest.fixture(scope="module")
def small_llama(mlx: None) -> nn.Module:
    mx.random.seed(3)
    model = make_llama()
    mx.eval(model.parameters())
    return model


def prompt(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(100 * length + seed).integers(0, VOCAB, length)]


def row(tokens: list[int], options: Sampling | None = None, **changes: Any) -> RowInput:
    fields: dict[str, Any] = {
        "cache": None, "covered": [], "prompt_tokens": len(tokens), "min_tokens": 0, "ending_ids": (),
        "logprobs": None, "open": False,
    }  # fmt: skip
    return RowInput(tokens=tokens, sampling=options or sampling(), **fields | changes)


class Driver:
    """Runs a generator and keeps what every row got."""

    def __init__(
        self, model: nn.Module, *, budget: int = 16, max_rows: int = 16, prefill_rows: int = 4
    ) -> None:
        self.generator = RowGenerator(model, max_rows=max_rows, prefill_rows=prefill_rows)
        self.budget = budget
        self.tokens: dict[int, list[StepToken]] = {}
        self.steps: list[Step] = []

    def insert(self, each: RowInput) -> int:
        uid = self.generator.insert(each)
        self.tokens[uid] = []
        return uid

    def step(self) -> Step:
        step = self.generator.next(self.budget)
        self.steps.append(step)
        for token in step.tokens:
            self.tokens[token.uid].append(token)
            if len(self.tokens[token.uid]) == TOKENS:
                self.generator.remove(token.uid)
        return step

    def run(self) -> None:
        for _ in range(500):
            if all(len(tokens) >= TOKENS for tokens in self.tokens.values()):
                return
            self.step()
        raise AssertionError("rows do not end")

    def ids(self, uid: int) -> list[int]:
        return [token.token_id for token in self.tokens[uid]]


def alone(model: nn.Module, each: RowInput, **options: Any) -> list[StepToken]:
    driver = Driver(model, **options)
    uid = driver.insert(each)
    driver.run()
    return driver.tokens[uid]


def ids_alone(model: nn.Module, each: RowInput) -> list[int]:
    return [token.token_id for token in alone(model, each)]


def mixed_rows() -> list[RowInput]:
    """Of lengths below, at and above a slice and a window, greedy and sampled."""
    kinds = [
        sampling(),
        sampling(temperature=1.0, seed=4, top_p=0.9),
        sampling(temperature=0.8, seed=5, repetition_penalty=1.3, frequency_penalty=0.2),
        sampling(temperature=1.2, seed=6, top_k=20, xtc_probability=0.5),
    ]
    return [row(prompt(n, i), kinds[i % 4]) for i, n in enumerate([1, 2, 5, 6, 7, 9, 17, 18, 30, 45, 3])]


def test_rows_together_get_what_each_gets_alone(model: nn.Module) -> None:
    """All at once, then one more every second step."""
    rows = mixed_rows()
    expected = [ids_alone(model, each) for each in rows]
    assert len({tuple(ids) for ids in expected}) == len(rows)
    together = Driver(model)
    uids = [together.insert(each) for each in mixed_rows()]
    together.run()
    assert [together.ids(uid) for uid in uids] == expected
    staggered = Driver(model)
    uids = []
    for each in mixed_rows():
        uids.append(staggered.insert(each))
        staggered.step()
        staggered.step()
    staggered.run()
    assert [staggered.ids(uid) for uid in uids] == expected


def test_a_row_goes_on_elsewhere_from_its_cache(model: nn.Module) -> None:
    """Taken out after any number of steps, and put back with what it covers, short of its last token."""
    options = sampling(temperature=1.0, seed=9)
    expected = ids_alone(model, row(prompt(11), options))
    for steps in range(1, 8):
        driver = Driver(model)
        other = driver.insert(row(prompt(20)))
        uid = driver.insert(row(prompt(11), options))
        for _ in range(steps):
            driver.step()
        ids = driver.ids(uid)
        found = driver.generator.extract(uid)
        driver.generator.remove(uid)
        del driver.tokens[uid]
        assert found is not None
        cache, covered = found
        everything = prompt(11) + ids
        assert covered == everything[: len(covered)]
        if len(covered) == len(everything):
            continue  # Not every cache can be trimmed by its last token.
        rest = row(everything[len(covered) :], options, cache=cache, covered=covered, prompt_tokens=11)
        again = driver.insert(rest)
        driver.run()
        assert ids + driver.ids(again)[: TOKENS - len(ids)] == expected
        assert driver.ids(other) == ids_alone(model, row(prompt(20)))


def test_rows_that_leave_do_not_disturb_those_that_stay(small_llama: nn.Module) -> None:
    driver = Driver(small_llama)
    rows = mixed_rows()
    uids = [driver.insert(each) for each in rows]
    for number, uid in enumerate(uids):
        driver.step()
        if number % 2:
            driver.generator.remove(uid)
            del driver.tokens[uid]
            assert driver.generator.extract(uid) is None
    driver.run()
    for uid in list(driver.tokens):
        assert driver.ids(uid) == ids_alone(small_llama, mixed_rows()[uids.index(uid)])


def test_log_probabilities_are_those_of_the_row_alone(small_llama: nn.Module) -> None:
    driver = Driver(small_llama)
    asked = driver.insert(row(prompt(9), logprobs=3))
    silent = driver.insert(row(prompt(8)))
    driver.run()
    expected = alone(small_llama, row(prompt(9), logprobs=3))
    assert [token.logprobs for token in driver.tokens[asked]] == [token.logprobs for token in expected]
    assert all(token.logprobs is None for token in driver.tokens[silent])
    for token in expected:
        assert token.logprobs is not None
        assert token.logprobs.top[0] == (token.token_id, token.logprobs.logprob)
    logits = small_llama(mx.array([prompt(9)]))[:, -1]
    reference = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))[0]
    assert expected[0].logprobs is not None
    assert expected[0].logprobs.logprob == pytest.approx(float(reference.max()), abs=1e-5)


def test_the_first_token_comes_with_the_last_slice(small_llama: nn.Module) -> None:
    driver = Driver(small_llama)
    uid = driver.insert(row(prompt(33)))
    assert driver.step().prompts == [PromptProgress(uid, 16, 33, at_last=False)]
    step = driver.step()
    assert step.prompts == [PromptProgress(uid, 32, 33, at_last=True)]
    assert [token.uid for token in step.tokens] == [uid]
    assert step.model_s > 0


def test_a_short_prompt_overtakes_a_long_one_which_goes_on(small_llama: nn.Module) -> None:
    driver = Driver(small_llama)
    long = driver.insert(row(prompt(800)))
    driver.step()
    shorts = []
    done = [16]
    for number in range(20):
        shorts.append(driver.insert(row(prompt(13, number))))
        for _ in range(2):
            done += [each.done for each in driver.step().prompts if each.uid == long]
        assert driver.tokens[shorts[-1]]
    assert not driver.tokens[long]
    assert done[-1] >= 16 + 20 * 4
    driver.run()
    assert driver.ids(long) == ids_alone(small_llama, row(prompt(800)))
    for number, uid in enumerate(shorts):
        assert driver.ids(uid) == ids_alone(small_llama, row(prompt(13, number)))


def test_no_call_computes_more_than_the_budget(small_llama: nn.Module) -> None:
    driver = Driver(small_llama, prefill_rows=3)
    for number, length in enumerate([100, 5, 40, 3, 3, 3, 3, 60, 17]):
        driver.insert(row(prompt(length, number)))
    done: dict[int, int] = {}
    driver.run()
    for step in driver.steps:
        computed = 0
        for each in step.prompts:
            computed += each.done - done.get(each.uid, 0)
            done[each.uid] = each.done
        assert computed <= driver.budget


def test_an_open_row_is_computed_up_to_its_last_token_and_gets_none(small_llama: nn.Module) -> None:
    driver = Driver(small_llama)
    other = driver.insert(row(prompt(5)))
    uid = driver.insert(row(prompt(20), open=True))
    told = [each for _ in range(8) for each in driver.step().prompts if each.uid == uid]
    assert told[-1] == PromptProgress(uid, 19, 20, at_last=True)
    assert [each.at_last for each in told].count(True) == 1
    assert not driver.tokens[uid]
    assert len(driver.tokens[other]) > 5
    found = driver.generator.extract(uid)
    assert found is not None
    cache, covered = found
    assert covered == prompt(20)[:19]
    driver.generator.remove(uid)
    del driver.tokens[uid]
    more = [*prompt(20)[19:], 7, 8, 9]
    uid = driver.insert(row(more, cache=cache, covered=covered, prompt_tokens=23))
    driver.run()
    assert driver.ids(uid) == ids_alone(small_llama, row([*prompt(20), 7, 8, 9]))


def test_rows_beyond_the_batch_wait(small_llama: nn.Module) -> None:
    driver = Driver(small_llama, max_rows=2)
    uids = [driver.insert(row(prompt(5, number))) for number in range(5)]
    driver.run()
    assert max(len(step.tokens) for step in driver.steps) == 2
    for number, uid in enumerate(uids):
        assert driver.ids(uid) == ids_alone(small_llama, row(prompt(5, number)))


def test_a_row_without_tokens_is_refused(small_llama: nn.Module) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Driver(small_llama).insert(row([]))


class Markov:
    """Logits that depend on the last token alone."""

    def __init__(self) -> None:
        self._table = mx.array(np.random.default_rng(2).normal(size=(VOCAB, VOCAB)).astype(np.float32))

    def __call__(self, inputs: mx.array) -> mx.array:
        return self._table[inputs]


def play(pipeline: Pipeline) -> list[list[StepToken]]:
    """Some steps; a row leaves in the middle of a pass, another between two, a third joins."""
    forward = Markov()
    kinds = [each.sampling for each in mixed_rows()[:4]]
    rows = [
        DecodeRow(
            i, row([i], kind, prompt_tokens=3, logprobs=i, min_tokens=2, ending_ids=(1, 2)), [5, 6], 7 + i
        )
        for i, kind in enumerate(kinds)
    ]
    given = [pipeline.advance(rows[:3], forward) for _ in range(4)]
    two = rows[1:3]
    given += [pipeline.advance(two, forward), pipeline.finish(two)]
    three = [*two, rows[3]]
    given += [pipeline.advance(three, forward) for _ in range(3)]
    one = three[2:]
    given += [pipeline.finish(one), pipeline.advance(one, forward), pipeline.finish([])]
    assert not pipeline.under_way
    return given


def test_a_device_draws_as_the_cpu_does() -> None:
    mine, theirs = play(CpuPipeline(ModelClock())), play(DevicePipeline(ModelClock()))
    assert [[token.uid for token in step] for step in mine] == [
        [], [0, 1, 2], [0, 1, 2], [0, 1, 2], [1, 2], [1, 2], [], [1, 2, 3], [1, 2, 3], [3], [], [],
    ]  # fmt: skip
    for left, right in zip(mine, theirs, strict=True):
        for a, b in zip(left, right, strict=True):
            assert (a.uid, a.token_id) == (b.uid, b.token_id)
            assert a.logprobs is not None
            assert b.logprobs is not None
            assert a.logprobs.logprob == pytest.approx(b.logprobs.logprob, abs=1e-5)
            assert [each for each, _ in a.logprobs.top] == [each for each, _ in b.logprobs.top]
