"""Whether there is memory for a model, told before it is loaded."""

import os
from collections.abc import Mapping
from pathlib import Path

from engine.contract import EngineError
from engine.options import HostOptions
from flowcontrol.reasons import Reason

WORKER_BYTES = 256 * 2**20
"""What a worker takes besides weights and KV caches: Python, MLX, the tokenizer."""
# The pattern by which mlx-lm finds weights.
_WEIGHTS = "model*.safetensors"
_MIB = 2**20


def weights_bytes(location: str, environ: Mapping[str, str] = os.environ) -> int | None:
    """Bytes of the weights of a model directory or hub name; None while they are not on this machine."""
    directory = Path(location) if Path(location).is_dir() else _downloaded(location, environ)
    if directory is None:
        return None
    return sum(file.stat().st_size for file in directory.glob(_WEIGHTS))


def _downloaded(name: str, environ: Mapping[str, str]) -> Path | None:
    """Where the hub's client keeps a model: HUB/models--ORG--NAME/snapshots/REVISION."""
    home = environ.get("HF_HOME") or "~/.cache/huggingface"
    hub = Path(environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
    model = hub / f"models--{name.replace('/', '--')}"
    try:
        directory = model / "snapshots" / (model / "refs" / "main").read_text().strip()
    except OSError:
        return None
    return directory if directory.is_dir() and any(directory.glob(_WEIGHTS)) else None


def needed_bytes(weights: int, options: HostOptions) -> int:
    """What the workers of a model with so many bytes of weights take."""
    return options.workers * (weights + options.kv_bytes + WORKER_BYTES)


def check_memory(
    source: str, weights: int, options: HostOptions, *, taken: int, promised: int, available: int | None
) -> None:
    """Raises EngineError MODEL_MEMORY for a model that would not fit.

    taken: bytes of the other models. promised: of those, what models take that are not loaded yet. available:
    to processes on this machine; None when nothing tells, and then only options.max_memory_bytes counts.
    """
    needed, most = needed_bytes(weights, options), options.max_memory_bytes
    if most:
        free = max(0, most - taken)
        why = f"models.max_memory_bytes allows {_mib(most)}, of which the loaded models take {_mib(taken)}"
    elif available is not None:
        free = max(0, available - promised)
        why = f"the machine has {_mib(available)} to give, {_mib(promised)} of it to models being loaded"
    else:
        return
    if needed > free:
        worker = (
            f"{_mib(weights)} of weights, {_mib(options.kv_bytes)} of KV cache, {_mib(WORKER_BYTES)} beside"
        )
        text = (
            f"not enough memory for {source}: it needs about {_mib(needed)} (workers: {options.workers}, "
            f"each with {worker}); {why}. Unload a model, or lower engine.workers or "
            "engine.max_prefix_cache_bytes"
        )
        raise EngineError(Reason.MODEL_MEMORY, text)


def _mib(number_bytes: int) -> str:
    return f"{round(number_bytes / _MIB)} MiB"
