"""KV caches of one row: made, quantised and copied as the options say."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map
from mlx_lm.generate import maybe_quantize_kv_cache
from mlx_lm.models.cache import CacheList, KVCache, QuantizedKVCache, RotatingKVCache, make_prompt_cache

from engine.mlx_worker.generator import KvCache
from engine.options import WorkerOptions


@dataclass(frozen=True, slots=True)
class KvForm:
    """How the model's KV is kept. Meanings as in WorkerOptions."""

    bits: int
    group_size: int
    quantized_start: int
    max_tokens: int

    @staticmethod
    def of(options: WorkerOptions) -> "KvForm":
        return KvForm(
            options.kv_bits, options.kv_group_size, options.quantized_kv_start, options.max_kv_tokens
        )

    def make(self, model: nn.Module) -> KvCache:
        """An empty cache. A model that makes its own takes no notice of max_tokens."""
        return list(make_prompt_cache(model, self.max_tokens or None))

    def quantise(self, cache: KvCache) -> None:
        """Quantise the layers that are long enough, in place. To be called after each run of the model."""
        if self.bits:
            maybe_quantize_kv_cache(cache, self.quantized_start, self.group_size, self.bits)


PLAIN = KvForm(bits=0, group_size=64, quantized_start=0, max_tokens=0)
"""As the model makes it."""


def parts_of(cache: KvCache) -> Iterator[Any]:
    """The single caches of a row: a layer may have several."""
    for layer in cache:
        if isinstance(layer, CacheList):
            yield from parts_of(list(layer.caches))
        else:
            yield layer


def can_batch(cache: KvCache) -> bool:
    """Whether mlx-lm can put such caches of several rows together."""
    return all(hasattr(part, "merge") for part in parts_of(cache))


def can_rewind(cache: KvCache) -> bool:
    """Whether its last tokens can be taken back however long it gets."""
    # A rotating cache can be trimmed until it is full.
    return all(part.is_trimmable() and not is_rotating(part) for part in parts_of(cache))


def is_rotating(part: Any) -> bool:
    return isinstance(part, RotatingKVCache)


def copy_of(cache: KvCache) -> KvCache:
    """An evaluated copy, without the room for more tokens where that is known."""
    copied = [_copy_of_layer(layer) for layer in cache]
    mx.eval([layer.state for layer in copied])
    return copied


def _copy_of_layer(layer: Any) -> Any:
    if not isinstance(layer, KVCache | QuantizedKVCache):
        return copy.deepcopy(layer)

    def filled(part: mx.array) -> mx.array:
        return mx.contiguous(part[..., : layer.offset, :])

    keys, values, *others = layer.state
    return type(layer).from_state((tree_map(filled, keys), tree_map(filled, values), *others))
