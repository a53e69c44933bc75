"""How much memory the KV cache of one token takes."""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from engine.mlx_worker.kv_cache import KvForm

_POSITIONS = 2


def kv_bytes_per_token(model: nn.Module, kv: KvForm) -> float:
    """Bytes in all layers, read from a cache that the model has filled. Call it in the model thread.

    Layers whose state does not grow with the text (linear attention, say) add nothing. Where only long
    streams are quantised it is what the short ones take.
    """
    cache = kv.make(model)
    model(mx.zeros((1, 8), dtype=mx.int32), cache=cache)
    if not kv.quantized_start:
        kv.quantise(cache)
    mx.eval([layer.state for layer in cache])
    parts = [part for layer in cache for name in ("keys", "values") for part in _parts(layer, name)]
    return sum(_per_position(part) for part in parts)


def _parts(layer: Any, name: str) -> Iterator[mx.array]:
    """The arrays of a layer's keys or values: one, or three where they are quantised."""
    held = getattr(layer, name, None)
    for part in held if isinstance(held, tuple | list) else (held,):
        if isinstance(part, mx.array) and part.ndim == 4:
            yield part


def _per_position(part: mx.array) -> float:
    # (batch, heads, positions allocated, width)
    return float(part.nbytes / part.shape[_POSITIONS])
