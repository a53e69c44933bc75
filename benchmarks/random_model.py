"""Makes a Llama with random weights: 5.3 M parameters, float32.

Usage: python -m benchmarks.random_model DIRECTORY. Peers were measured on such a model. Its tokenizer is
that of the embedded model, filled up so that every id has a text.
"""

import json
import sys
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.llama import Model, ModelArgs

from engine.model_source import EMBEDDED, resolve

_VOCABULARY = 4096
_CONFIG = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "intermediate_size": 704,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-05,
    "vocab_size": _VOCABULARY,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "eos_token_id": 1,
}


def make(directory: Path) -> None:
    """Write config, weights and tokenizer into a directory that exists."""
    mx.random.seed(0)
    model = Model(ModelArgs.from_dict(_CONFIG))
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(directory / "model.safetensors"), weights, metadata={"format": "mlx"})
    (directory / "config.json").write_text(json.dumps(_CONFIG), encoding="utf-8")
    embedded = Path(resolve(EMBEDDED)[0])
    (directory / "tokenizer_config.json").write_bytes((embedded / "tokenizer_config.json").read_bytes())
    tokenizer = json.loads((embedded / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    for token_id in range(len(vocabulary), _VOCABULARY):
        vocabulary[f"Ġfiller{token_id}"] = token_id
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
    print("made", flush=True)
