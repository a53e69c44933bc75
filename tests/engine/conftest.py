"""Fixtures for everything that runs MLX in the test process, which does so in one thread."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tests.engine.subjects import MAX_BATCH_ROWS, WORKER

if TYPE_CHECKING:
    from engine.mlx_worker.model import LoadedModel

# Less than a prompt of two sentences has.
_PREFILL_STEP_TOKENS = 12

# Without deadlines: on a busy machine a slow example is not a failure.
settings.register_profile("penstock", deadline=None, max_examples=60, stateful_step_count=40)
settings.load_profile("penstock")


@pytest.fixture(scope="session")
def mlx() -> Iterator[None]:
    """For tests that run MLX here. Streams are dropped once at the very end: after that MLX is unusable."""
    import mlx.core as mx

    yield
    mx.clear_streams()


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
