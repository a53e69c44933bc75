"""How much memory the KV cache of one token takes."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

_POSITIONS = 2


def kv_bytes_per_token(model: nn.Module) -> float:
    """Bytes in all layers, read from a cache that the model has filled. Call it in the model thread.

    Layers whose state does not grow with the text (linear attention, say) add nothing.
    """
    cache = make_prompt_cache(model)
    model(mx.zeros((1, 8), dtype=mx.int32), cache=cache)
    mx.eval([layer.state for layer in cache])
    parts = [_part(layer, name) for layer in cache for name in ("keys", "values")]
    return sum(_per_position(part) for part in parts)


def _part(layer: Any, name: str) -> mx.array | None:
    part = getattr(layer, name, None)
    return part if isinstance(part, mx.array) and part.ndim == 4 else None


def _per_position(part: mx.array | None) -> float:
    # (batch, heads, positions allocated, width)
    return float(part.nbytes / part.shape[_POSITIONS]) if part is not None else 0.0
