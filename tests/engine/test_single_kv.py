"""KV caches of single rows: plain, quantised and rotating ones go out and come in again."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from engine.mlx_worker.batch import MakeGenerator
from engine.mlx_worker.generators import generator_maker
from engine.mlx_worker.kv_cache import PLAIN, KvForm
from engine.mlx_worker.model import LoadedModel, load_model
from engine.mlx_worker.row import Parked
from engine.mlx_worker.row_generator import RowGenerator
from engine.mlx_worker.single_generator import SingleGenerator
from engine.mlx_worker.warm_up import warm_up
from tests.engine.loop_driver import LoopDriver
from tests.engine.random_models import VOCABULARY, make_model
from tests.engine.requests import generation
from tests.engine.single_rows import (
    PROMPT,
    arrays,
    assert_same,
    ids_of,
    pause_and_resume,
    requests,
    row_input,
    steps,
)
from tests.engine.subjects import WORKER

Drive = Callable[..., LoopDriver]
QUANTISED = KvForm(bits=8, group_size=32, quantized_start=0, max_tokens=0)
ROTATING = KvForm(bits=0, group_size=64, quantized_start=0, max_tokens=40)


@pytest.fixture(scope="module")
def drive(loaded: LoadedModel) -> Drive:
    return partial(LoopDriver, loaded)


@pytest.fixture(scope="module")
def makers(
    loaded: LoadedModel, drafted: Callable[..., MakeGenerator], model_directory: Path
) -> dict[str, MakeGenerator]:
    rotating = load_model(replace(WORKER, model=make_model(model_directory / "rotating", "qwen2")))
    return {
        "plain": partial(SingleGenerator, loaded.model, draft=None, kv=PLAIN),
        "drafted": drafted("random"),
        "quantised": partial(SingleGenerator, loaded.model, draft=None, kv=QUANTISED),
        "quantised and drafted": drafted("random", QUANTISED),
        "quantised later": partial(
            SingleGenerator, loaded.model, draft=None, kv=replace(QUANTISED, quantized_start=30)
        ),
        "rotating": partial(SingleGenerator, rotating.model, draft=None, kv=ROTATING),
    }


KINDS = ["plain", "drafted", "quantised", "quantised and drafted", "quantised later", "rotating"]


@pytest.mark.parametrize("at", [1, 6, 17])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_extracted_can_be_inserted(
    loaded: LoadedModel, makers: dict[str, MakeGenerator], kind: str, at: int
) -> None:
    """The copy covers what was given but for the last token, and goes on as the row itself does."""
    generator = makers[kind]()
    row = row_input(loaded, generation(PROMPT, temperature=1.0, seed=9))
    uid = generator.insert(row)
    given = ids_of(steps(generator, at))
    kept = generator.extract(uid)
    assert kept is not None
    cache, tokens = kept
    known = row.tokens + given
    assert tokens == known[:-1]
    copied = mx.concatenate([part.flatten().astype(mx.float32) for part in arrays(cache)])
    mx.eval(copied)

    rest = ids_of(steps(generator, 12))
    again = mx.concatenate([part.flatten().astype(mx.float32) for part in arrays(cache)])
    assert mx.array_equal(copied, again)
    generator.remove(uid)
    assert generator.kv_bytes == 0
    generator.insert(replace(row, tokens=known[-1:], cache=cache, covered=tokens))
    assert ids_of(steps(generator, 12))[:12] == rest[:12]


@pytest.mark.parametrize("kind", ["plain", "drafted", "quantised"])
def test_an_extracted_cache_can_be_cut(
    loaded: LoadedModel, makers: dict[str, MakeGenerator], kind: str
) -> None:
    """It holds nothing but the tokens, and gives up as many as one likes."""
    generator = makers[kind]()
    row = row_input(loaded, generation(PROMPT))
    uid = generator.insert(row)
    given = ids_of(steps(generator, 8))
    kept = generator.extract(uid)
    assert kept is not None
    parked = Parked(*kept)
    assert parked.nbytes < generator.kv_bytes
    assert all(part.shape[2] == len(parked.tokens) for part in arrays(parked.cache))
    whole = row.tokens + given
    assert parked.trim_to(len(row.tokens) + 2)
    generator.remove(uid)
    generator.insert(
        replace(row, tokens=whole[len(parked.tokens) :], cache=parked.cache, covered=parked.tokens)
    )
    # What was given is in the row again: the next token is the one after it.
    undisturbed = makers[kind]()
    undisturbed.insert(row)
    reference = ids_of(steps(undisturbed, len(given) + 4))
    assert ids_of(steps(generator, 4))[:4] == reference[len(given) : len(given) + 4]


def test_a_row_in_the_middle_of_its_prompt(loaded: LoadedModel, makers: dict[str, MakeGenerator]) -> None:
    generator = makers["drafted"]()
    row = row_input(loaded, generation(PROMPT))
    uid = generator.insert(row)
    generator.next(7)
    kept = generator.extract(uid)
    assert kept is not None
    assert kept[1] == row.tokens[:7]
    assert {layer.offset for layer in kept[0]} == {7}


def test_a_quantised_cache_is_smaller(loaded: LoadedModel, makers: dict[str, MakeGenerator]) -> None:
    sizes = {}
    for kind in ("plain", "quantised", "quantised later"):
        generator = makers[kind]()
        uid = generator.insert(row_input(loaded, generation(PROMPT)))
        generator.next(16)
        kept = generator.extract(uid)
        assert kept is not None
        sizes[kind] = Parked(*kept).nbytes
        assert sizes[kind] == 16 * (loaded.info.kv_bytes_per_token if kind != "quantised" else 640)
    # 8 of 32 bits, and two float32 for each group of 32.
    assert sizes["quantised"] == sizes["plain"] * 10 / 32


def test_a_quantised_row_runs_and_resumes_through_the_loop(
    drive: Drive, makers: dict[str, MakeGenerator]
) -> None:
    undisturbed = drive(makers["quantised"]).run(requests())
    for budget in (0, 2**30):
        driver = drive(makers["quantised"], react=pause_and_resume, max_parked_kv_bytes=budget)
        sinks = driver.run(requests())
        assert [sink.finished.completion_tokens for sink in sinks] == [
            sink.finished.completion_tokens for sink in undisturbed
        ]
        if budget:
            assert_same(sinks, undisturbed)


def test_a_rotating_cache_stays_bounded(loaded: LoadedModel, makers: dict[str, MakeGenerator]) -> None:
    generator = makers["rotating"]()
    row = row_input(loaded, generation(PROMPT), tokens=list(range(100)), prompt_tokens=100)
    uid = generator.insert(row)
    sizes = []
    for _ in range(60):
        generator.next(16)
        sizes.append(generator.kv_bytes)
    kept = generator.extract(uid)
    assert kept is not None
    assert {part.shape[2] for part in arrays(kept[0])} == {ROTATING.max_tokens}
    assert len(kept[1]) > ROTATING.max_tokens
    # The slice of a prompt is beside what is kept until the next step.
    assert max(sizes) <= (ROTATING.max_tokens + 16 - 1) * 512


@pytest.mark.parametrize(
    ("options", "bytes_per_token"),
    [
        ({}, 2048),
        ({"kv_bits": 8}, 640),
        ({"kv_bits": 4}, 384),
        ({"kv_bits": 4, "quantized_kv_start": 50}, 2048),
        ({"draft_model": "embedded"}, 4096),
        ({"draft_model": "embedded", "kv_bits": 8}, 2048 + 640),
    ],
    ids=str,
)
def test_kv_bytes_per_token_are_those_of_the_options(options: dict[str, Any], bytes_per_token: int) -> None:
    worker = replace(WORKER, max_batch_rows=1, kv_group_size=32, **options)
    loaded = load_model(worker)
    assert loaded.info.kv_bytes_per_token == bytes_per_token
    maker = generator_maker(loaded, worker)
    assert isinstance(maker(), SingleGenerator if options else RowGenerator)
    assert warm_up(maker, VOCABULARY, max_batch_rows=1) > 0


def test_a_model_that_cannot_be_batched_runs_alone(loaded: LoadedModel, model_directory: Path) -> None:
    worker = replace(WORKER, model=make_model(model_directory / "llama4", "llama4"), max_batch_rows=1)
    chunked = load_model(worker)
    maker = generator_maker(chunked, worker)
    generator = maker()
    assert isinstance(generator, SingleGenerator)
    row = row_input(loaded, generation(PROMPT))
    uid = generator.insert(row)
    given = ids_of(steps(generator, 4))
    kept = generator.extract(uid)
    assert kept is not None
    rest = ids_of(steps(generator, 30))
    generator.remove(uid)
    generator.insert(replace(row, tokens=given[-1:], cache=kept[0], covered=kept[1]))
    assert ids_of(steps(generator, 30)) == rest
