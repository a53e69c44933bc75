"""What all tests share."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

# Without deadlines: on a busy machine a slow example is not a failure.
settings.register_profile("penstock", deadline=None, max_examples=60, stateful_step_count=40)
settings.load_profile("penstock")


@pytest.fixture(scope="session")
def mlx() -> Iterator[None]:
    """For tests that run MLX here. Streams are dropped once at the very end: after that MLX is unusable."""
    import mlx.core as mx

    yield
    mx.clear_streams()
