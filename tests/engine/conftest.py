"""Fixtures for everything that runs MLX in the test process, which does so in one thread."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.engine.subjects import MAX_BATCH_ROWS, WORKER

if TYPE_CHECKING:
    from engine.mlx_worker.model import LoadedModel

# Less than a prompt of two sentences has.
_PREFILL_STEP_TOKENS = 12


@pytest.fixture(scope="session")
def loaded(mlx: None) -> "LoadedModel":
    """The embedded model in this process."""
    from engine.mlx_worker.model import load_model

    return load_model(WORKER)


@pytest.fixture(scope="session")
def generator_options(loaded: "LoadedModel") -> Callable[..., Any]:
    """Calls a BatchGenerator class with the model and small sizes."""
    return partial(
        _make,
        model=loaded.model,
        completion_batch_size=MAX_BATCH_ROWS,
        prefill_batch_size=MAX_BATCH_ROWS,
        prefill_step_size=_PREFILL_STEP_TOKENS,
    )


def _make(generator: Callable[..., Any], **options: Any) -> Any:
    return generator(**options)
