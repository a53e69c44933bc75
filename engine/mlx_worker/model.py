"""Loads a model and its tokenizer with mlx-lm."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm import load
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import get_total_parameters, hf_repo_to_path

from engine.contract import ModelInfo
from engine.mlx_worker.fingerprint import fingerprint
from engine.mlx_worker.kv_cache import PLAIN, KvForm
from engine.mlx_worker.kv_size import kv_bytes_per_token
from engine.mlx_worker.start_checks import (
    OptionsError,
    Vocabulary,
    check_draft,
    check_model,
    check_options,
)
from engine.model_source import resolve
from engine.options import WorkerOptions

# For the rare model whose configuration does not say how long its context is.
_UNKNOWN_CONTEXT_TOKENS = 32768
# Weights that are read between two words about how far it is.
_GROUP_BYTES = 64 * 2**20

ToldProgress = Callable[[str, int, int], None]
"""Called with a stage of wire.LOADING_STAGES, and with done and total in bytes; total 0 when unknown."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory. Made and used in the model thread, but for the tokenizer.

    draft: the model that proposes tokens to it, if any.
    """

    model: nn.Module
    tokenizer: TokenizerWrapper
    eos_token_ids: frozenset[int]
    info: ModelInfo
    draft: nn.Module | None


def load_model(options: WorkerOptions, told: ToldProgress = lambda *_: None) -> LoadedModel:
    """Load what options.model names. Call it in the model thread: streams belong to threads.

    Raises NoSuchModelError, OptionsError, or whatever mlx-lm and the hub client raise.
    """
    check_options(options)
    location, name = resolve(options.model)
    if not Path(location).exists():
        told("download", 0, 0)
    model, tokenizer, config = load(location, lazy=True, return_config=True)
    check_model(model, options)
    _read_weights(model, told)
    draft = _load_draft(model, _vocabulary(config, tokenizer), options) if options.draft_model else None
    kv_bytes = kv_bytes_per_token(model, KvForm.of(options))
    if draft is not None:
        kv_bytes += kv_bytes_per_token(draft, PLAIN)
    directory = Path(location) if Path(location).exists() else hf_repo_to_path(location)
    info = ModelInfo(
        name=name,
        source=options.model,
        architecture=str(config.get("model_type", "")),
        parameters=get_total_parameters(model),
        vocab_size=_vocab_size(config, tokenizer),
        context_tokens=_context_tokens(config, options),
        has_chat_template=bool(tokenizer.has_chat_template),
        fingerprint=fingerprint(directory),
        kv_bytes_per_token=kv_bytes,
    )
    return LoadedModel(model, tokenizer, frozenset(tokenizer.eos_token_ids), info, draft)


def _load_draft(model: nn.Module, vocabulary: Vocabulary, options: WorkerOptions) -> nn.Module:
    """The draft model, checked. Raises OptionsError for one that cannot be loaded, too."""
    try:
        draft, tokenizer, config = load(resolve(options.draft_model)[0], return_config=True)
    except Exception as error:  # As for the model itself.
        reason = str(error) or type(error).__name__
        raise OptionsError(f"engine.draft_model: cannot load {options.draft_model}: {reason}") from error
    check_draft(model, vocabulary, draft, _vocabulary(config, tokenizer))
    return draft


def _vocabulary(config: dict[str, Any], tokenizer: TokenizerWrapper) -> Vocabulary:
    return Vocabulary(_vocab_size(config, tokenizer), tokenizer._tokenizer.get_vocab())


def _read_weights(model: nn.Module, told: ToldProgress) -> None:
    """Evaluate what was loaded lazily, group by group."""
    weights = [array for _, array in tree_flatten(model.parameters())]
    total = sum(array.nbytes for array in weights)
    done, group, group_bytes = 0, [], 0
    told("weights", 0, total)
    for array in weights:
        group.append(array)
        group_bytes += array.nbytes
        if group_bytes >= _GROUP_BYTES or done + group_bytes == total:
            mx.eval(group)
            done, group, group_bytes = done + group_bytes, [], 0
            told("weights", done, total)


def _setting(config: dict[str, Any], key: str) -> int:
    """A number of the configuration, looked up in text_config too, where multimodal models keep it."""
    value = config.get(key) or config.get("text_config", {}).get(key)
    return int(value) if value else 0


def _vocab_size(config: dict[str, Any], tokenizer: TokenizerWrapper) -> int:
    """Rows of the embedding, which may be more than the tokenizer knows; ids from it on would crash MLX."""
    return _setting(config, "vocab_size") or len(tokenizer._tokenizer)


def _context_tokens(config: dict[str, Any], options: WorkerOptions) -> int:
    """The model's context, or the option where it is set and smaller."""
    own = _setting(config, "max_position_embeddings") or _UNKNOWN_CONTEXT_TOKENS
    return min(own, options.max_context_tokens) if options.max_context_tokens else own
