"""Fixtures for everything that runs MLX in the test process, which does so in one thread."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.engine.subjects import MAX_BATCH_ROWS, WORKER

if TYPE_CHECKING:
    from engine.mlx_worker.batch import MakeGenerator
    from engine.mlx_worker.kv_cache import KvForm
    from engine.mlx_worker.model import LoadedModel

# As in tests.engine.single_rows, which imports mlx.
_DRAFT_TOKENS = 3


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


@pytest.fixture(scope="session")
def model_directory(mlx: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def draft_models(loaded: "LoadedModel", model_directory: Path) -> dict[str, Any]:
    """The model itself, and one that knows nothing."""
    from engine.mlx_worker.model import load_model
    from tests.engine.random_models import make_model

    random = load_model(replace(WORKER, model=make_model(model_directory / "random")))
    return {"same": loaded.model, "random": random.model}


@pytest.fixture(scope="session")
def drafted(loaded: "LoadedModel", draft_models: dict[str, Any]) -> Callable[..., "MakeGenerator"]:
    """Makes generators with one of these drafts; kv: how the KV is kept, plain by default."""
    from engine.mlx_worker.kv_cache import PLAIN
    from engine.mlx_worker.single_generator import Draft, SingleGenerator

    def make(name: str, kv: "KvForm" = PLAIN) -> "MakeGenerator":
        return partial(SingleGenerator, loaded.model, draft=Draft(draft_models[name], _DRAFT_TOKENS), kv=kv)

    return make
