"""What mlx-lm cannot do is refused by the worker process when it starts, with names and what is allowed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from engine.mlx_worker.model import load_model
from engine.mlx_worker.start_checks import OptionsError, check_options
from engine.options import WorkerOptions
from engine.wire import Message, Ready, StartFailed
from engine.worker_process import WorkerProcess
from tests.engine.random_models import make_model, rename_a_token
from tests.engine.subjects import WORKER

pytestmark = pytest.mark.usefixtures("mlx")

SINGLE = replace(WORKER, max_batch_rows=1, kv_group_size=32)

# Options, and what the refusal must say.
WRONG: list[tuple[dict[str, Any], list[str]]] = [
    ({"draft_model": "x", "max_batch_rows": 4}, ["engine.draft_model", "engine.max_batch_rows 1 (got 4)"]),
    ({"kv_bits": 4, "max_batch_rows": 2}, ["engine.kv_bits:", "engine.max_batch_rows 1 (got 2)"]),
    ({"max_kv_tokens": 64, "max_batch_rows": 2}, ["engine.max_kv_tokens:", "engine.max_batch_rows 1"]),
    (
        {"draft_model": "x", "kv_bits": 8, "max_batch_rows": 2},
        ["engine.draft_model and engine.kv_bits:", "engine.max_batch_rows 1"],
    ),
    ({"kv_bits": 1}, ["engine.kv_bits: got 1", "0, 2, 3, 4, 6, 8"]),
    ({"kv_bits": 5}, ["engine.kv_bits: got 5", "0, 2, 3, 4, 6, 8"]),
    ({"kv_bits": 4, "kv_group_size": 48}, ["engine.kv_group_size: got 48", "32, 64, 128"]),
    ({"max_kv_tokens": 31}, ["engine.max_kv_tokens: got 31", "at least 32"]),
    ({"draft_model": "x", "max_kv_tokens": 64}, ["engine.draft_model and engine.max_kv_tokens", "one of"]),
    ({"kv_bits": 4, "max_kv_tokens": 64}, ["engine.kv_bits and engine.max_kv_tokens", "one of"]),
]


@pytest.mark.parametrize(("changes", "told"), WRONG, ids=str)
def test_options_that_do_not_go_together(changes: dict[str, Any], told: list[str]) -> None:
    with pytest.raises(OptionsError) as raised:
        check_options(replace(SINGLE, **changes))
    assert [text for text in told if text not in str(raised.value)] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"max_batch_rows": 4},
        {"max_batch_rows": 4, "kv_group_size": 48},
        *({"kv_bits": bits} for bits in (2, 3, 4, 6, 8)),
        *({"kv_bits": 8, "kv_group_size": size} for size in (32, 64, 128)),
        {"draft_model": "x", "kv_bits": 8},
        {"max_kv_tokens": 32},
    ],
    ids=str,
)
def test_options_that_go_together(changes: dict[str, Any]) -> None:
    check_options(replace(SINGLE, **changes))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Directories of models by name, made at their first use."""
    parent = tmp_path_factory.mktemp("models")

    def model(name: str) -> str:
        if (parent / name).exists():
            return str(parent / name)
        if name == "larger":
            return make_model(parent / name, vocabulary=1280)
        if name == "renamed":
            directory = make_model(parent / name)
            rename_a_token(directory)
            return directory
        return make_model(parent / name, name)

    return model


def changed(changes: dict[str, Any], models: Callable[[str], str]) -> WorkerOptions:
    """SINGLE but for these. Models are named as in `models`, with "=" in front."""
    named: dict[str, Any] = {
        name: models(value[1:]) if isinstance(value, str) and value.startswith("=") else value
        for name, value in changes.items()
    }
    return replace(SINGLE, **named)


async def answer(changes: dict[str, Any], models: Callable[[str], str]) -> Message:
    """What a worker says after it has loaded."""
    worker = await WorkerProcess.spawn(changed(changes, models))
    try:
        while messages := await worker.receive():
            for message in messages:
                if isinstance(message, Ready | StartFailed):
                    return message
        raise AssertionError("the worker has ended and said nothing")
    finally:
        await worker.end(5.0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"kv_bits": 8, "kv_group_size": 64},
            ["engine.kv_group_size: got 64", "(32)", "this model: 32"],
        ),
        ({"max_kv_tokens": 64}, ["engine.max_kv_tokens: got 64", "would ignore it", "with this model: 0"]),
        ({"model": "=mamba", "kv_bits": 8}, ["engine.kv_bits: got 8", "ArraysCache", "with this model: 0"]),
        ({"model": "=afm7", "kv_bits": 8}, ["engine.kv_bits: got 8", "cannot compute", "with this model: 0"]),
        ({"model": "=llama4", "max_batch_rows": 2}, ["ChunkedKVCache", "engine.max_batch_rows 1 (got 2)"]),
        ({"draft_model": "=larger"}, ["engine.draft_model", "1280", "1024", "same vocabulary"]),
        ({"draft_model": "=renamed"}, ["engine.draft_model", "other tokens", "same vocabulary"]),
        ({"draft_model": "=mamba"}, ["engine.draft_model", "draft model (ArraysCache) cannot go back"]),
        (
            {"model": "=mamba", "draft_model": "=llama"},
            ["engine.draft_model", "the model (ArraysCache) cannot go back"],
        ),
        ({"draft_model": "/no/such"}, ["engine.draft_model: cannot load /no/such", "no such directory"]),
    ],
    ids=str,
)
def test_models_that_cannot_do_it(
    changes: dict[str, Any], told: list[str], models: Callable[[str], str]
) -> None:
    with pytest.raises(OptionsError) as raised:
        load_model(changed(changes, models))
    assert [text for text in told if text not in str(raised.value)] == []
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        WRONG[5],
        ({"draft_model": "=mamba"}, ["engine.draft_model", "draft model (ArraysCache) cannot go back"]),
    ],
    ids=str,
)
async def test_a_worker_refuses(
    changes: dict[str, Any], told: list[str], models: Callable[[str], str]
) -> None:
    refusal = await answer(changes, models)
    assert isinstance(refusal, StartFailed), refusal
    assert [text for text in told if text not in refusal.message] == [], refusal.message
    assert "\n" not in refusal.message


@pytest.mark.parametrize(
    "changes",
    [
        {"draft_model": "=llama", "kv_bits": 8},
        {"model": "=qwen2", "max_kv_tokens": 64},
        {"model": "=llama4"},
    ],
    ids=str,
)
async def test_a_worker_starts(changes: dict[str, Any], models: Callable[[str], str]) -> None:
    ready = await answer(changes, models)
    assert isinstance(ready, Ready), ready
    assert ready.full_batch_step_s > 0
