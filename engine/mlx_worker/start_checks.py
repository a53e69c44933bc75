"""What mlx-lm cannot do is refused when a worker starts, with the reason."""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import maybe_quantize_kv_cache

from engine.mlx_worker.generator import KvCache
from engine.mlx_worker.kv_cache import PLAIN, KvForm, can_batch, can_rewind, is_rotating, parts_of
from engine.options import WorkerOptions

_KV_BITS = (2, 3, 4, 6, 8)
_KV_GROUP_SIZES = (32, 64, 128)
# A rotating cache keeps the first four tokens besides the latest ones.
_MIN_KV_TOKENS = 32


class OptionsError(ValueError):
    """The options do not go together, or not with the model. The text names them and what is allowed."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What two models must share for one to propose tokens to the other.

    size: rows of the embedding. ids: of every token that the tokenizer knows, by its text.
    """

    size: int
    ids: dict[str, int]


def check_options(options: WorkerOptions) -> None:
    """Raises OptionsError for what can be told without the model."""
    bits, group_size, max_tokens = options.kv_bits, options.kv_group_size, options.max_kv_tokens
    if bits and bits not in _KV_BITS:
        raise OptionsError(f"engine.kv_bits: got {bits}; allowed: 0, {_listed(_KV_BITS)}")
    if bits and group_size not in _KV_GROUP_SIZES:
        raise OptionsError(f"engine.kv_group_size: got {group_size}; allowed: {_listed(_KV_GROUP_SIZES)}")
    if max_tokens and max_tokens < _MIN_KV_TOKENS:
        raise OptionsError(
            f"engine.max_kv_tokens: got {max_tokens}; allowed: 0 for all, or at least {_MIN_KV_TOKENS}"
        )
    if max_tokens and options.draft_model:
        raise OptionsError(
            "engine.draft_model and engine.max_kv_tokens do not go together: refused proposals are taken "
            "back from the KV cache, and a rotating one cannot go back; allowed: one of the two"
        )
    if max_tokens and bits:
        raise OptionsError(
            "engine.kv_bits and engine.max_kv_tokens do not go together: mlx-lm does not quantise a "
            "rotating KV cache; allowed: one of the two"
        )
    single = _single_options(options)
    if single and options.max_batch_rows > 1:
        raise OptionsError(
            f"{' and '.join(single)}: mlx-lm does this for one stream at a time, not in a batch; allowed: "
            f"with engine.max_batch_rows 1 (got {options.max_batch_rows})"
        )


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(str(number) for number in numbers)


def _single_options(options: WorkerOptions) -> list[str]:
    named = {
        "engine.draft_model": options.draft_model,
        "engine.kv_bits": options.kv_bits,
        "engine.max_kv_tokens": options.max_kv_tokens,
    }
    return [name for name, value in named.items() if value]


def check_model(model: nn.Module, options: WorkerOptions) -> None:
    """Raises OptionsError where the model's KV cache cannot do what the options ask for."""
    kv = KvForm.of(options)
    cache = kv.make(model)
    if options.max_batch_rows > 1 and not can_batch(cache):
        raise OptionsError(
            f"the model's KV cache ({_kinds(cache)}) cannot be batched by mlx-lm; allowed: "
            f"engine.max_batch_rows 1 (got {options.max_batch_rows})"
        )
    if kv.max_tokens and not all(is_rotating(part) for part in parts_of(cache)):
        raise OptionsError(
            f"engine.max_kv_tokens: got {kv.max_tokens}, but the model makes its own KV cache "
            f"({_kinds(cache)}) and would ignore it; allowed with this model: 0"
        )
    if kv.bits:
        _check_quantisation(model, kv, cache)


def _check_quantisation(model: nn.Module, kv: KvForm, cache: KvCache) -> None:
    parts = list(parts_of(cache))
    if any(is_rotating(part) for part in parts) or not any(hasattr(p, "to_quantized") for p in cache):
        raise OptionsError(
            f"engine.kv_bits: got {kv.bits}, but mlx-lm cannot quantise the model's KV cache "
            f"({_kinds(cache)}); allowed with this model: 0"
        )
    model(mx.zeros((1, 2), dtype=mx.int32), cache=cache)
    quantised = [layer for layer in cache if hasattr(layer, "to_quantized")]
    widths = {part.shape[-1] for layer in quantised for part in (layer.keys, layer.values)}
    if any(width % kv.group_size for width in widths):
        allowed = [size for size in _KV_GROUP_SIZES if not any(width % size for width in widths)]
        raise OptionsError(
            f"engine.kv_group_size: got {kv.group_size}, which does not divide the model's head dimension "
            f"({_listed(tuple(sorted(widths)))}); allowed with this model: "
            f"{_listed(tuple(allowed)) or 'none, so engine.kv_bits must be 0'}"
        )
    maybe_quantize_kv_cache(cache, 0, kv.group_size, kv.bits)
    try:
        mx.eval(model(mx.zeros((1, 2), dtype=mx.int32), cache=cache))
    except Exception as error:  # A model's own code raises what it likes.
        raise OptionsError(
            f"engine.kv_bits: got {kv.bits}, but the model cannot compute with a quantised KV cache: "
            f"{error}; allowed with this model: 0"
        ) from error


def check_draft(
    model: nn.Module, vocabulary: Vocabulary, draft: nn.Module, draft_vocabulary: Vocabulary
) -> None:
    """Raises OptionsError where `draft` cannot propose tokens to the model."""
    if vocabulary.size != draft_vocabulary.size:
        raise OptionsError(
            f"engine.draft_model: its vocabulary has {draft_vocabulary.size} ids, the model's has "
            f"{vocabulary.size}; allowed: a model with the same vocabulary and tokenizer"
        )
    if vocabulary.ids != draft_vocabulary.ids:
        raise OptionsError(
            "engine.draft_model: its tokenizer has other tokens than the model's; allowed: a model with the "
            "same vocabulary and tokenizer"
        )
    for name, each in (("model", model), ("draft model", draft)):
        cache = PLAIN.make(each)
        if not can_rewind(cache):
            raise OptionsError(
                f"engine.draft_model: refused proposals are taken back from the KV cache, and that of the "
                f"{name} ({_kinds(cache)}) cannot go back; allowed: no draft model, or other models"
            )


def _kinds(cache: KvCache) -> str:
    return ", ".join(sorted({type(part).__name__ for part in parts_of(cache)}))
