"""Tiny models with random weights in directories of their own."""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from engine.model_source import EMBEDDED, resolve

VOCABULARY = 1024
_HIDDEN = 64
_CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 96,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512,
    },
    # Leaves its KV cache to mlx-lm, so that it can have a rotating one.
    "qwen2": {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 96,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512,
    },
    # A state in place of a KV cache, which cannot go back.
    "mamba": {
        "intermediate_size": 64,
        "state_size": 4,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": 4,
    },
    # A KV cache that cannot be batched.
    "llama4": {
        "num_hidden_layers": 4,
        "attention_bias": False,
        "attention_chunk_size": 16,
        "head_dim": 32,
        "interleave_moe_layer_step": 2,
        "intermediate_size": 64,
        "intermediate_size_mlp": 64,
        "max_position_embeddings": 512,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_experts_per_tok": 1,
        "num_local_experts": 2,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "use_qk_norm": False,
    },
    # Its attention cannot be computed with a quantised KV cache.
    "afm7": {
        "hidden_dim": _HIDDEN,
        "num_layers": 2,
        "num_kv_reuse_layers": 1,
        "num_heads": 2,
        "num_kv_heads": 1,
    },
}


def make_model(
    directory: Path, kind: str = "llama", *, vocabulary: int = VOCABULARY, layers: int = 2, seed: int = 1
) -> str:
    """Write a model with the embedded model's tokenizer into a directory to be made. Returns its path."""
    directory.mkdir()
    config = {
        "model_type": kind,
        "hidden_size": _HIDDEN,
        "num_hidden_layers": layers,
        "vocab_size": vocabulary,
        "eos_token_id": 1,
        **_CONFIGS[kind],
    }
    if kind == "llama4":
        config = {"model_type": kind, "eos_token_id": 1, "text_config": config}
    module = importlib.import_module(f"mlx_lm.models.{kind}")
    mx.random.seed(seed)
    weights = dict(tree_flatten(module.Model(module.ModelArgs.from_dict(config)).parameters()))
    mx.save_safetensors(str(directory / "model.safetensors"), weights, metadata={"format": "mlx"})
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(resolve(EMBEDDED)[0]) / name, directory / name)
    return str(directory)


def rename_a_token(directory: str) -> None:
    """Give the model's tokenizer another vocabulary of the same size."""
    file = Path(directory) / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    # A token that no merge is made of.
    longest = max(vocabulary, key=len)
    vocabulary["another"] = vocabulary.pop(longest)
    tokenizer["model"]["merges"] = []
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
