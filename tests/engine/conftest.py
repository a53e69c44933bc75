"""Fixtures for everything that runs MLX in the test process, which does so in one thread."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.engine.subjects import MAX_BATCH_ROWS, WORKER

if TYPE_CHECKING:
    from engine.mlx_worker.model import LoadedModel


@pytest.fixture(scope="session")
def loaded(mlx: None) -> "LoadedModel":
    """The embedded model in this process."""
    from engine.mlx_worker.model import load_model

    return load_model(WORKER)


@pytest.fixture(scope="session")
def generator_options(loaded: "LoadedModel") -> Callable[..., Any]:
    """Calls a class of generators with the model and small sizes."""
    return partial(_make, model=loaded.model, max_rows=MAX_BATCH_ROWS, prefill_rows=MAX_BATCH_ROWS)


def _make(generator: Callable[..., Any], *, model: Any, **options: Any) -> Any:
    return generator(model=model, **options)
