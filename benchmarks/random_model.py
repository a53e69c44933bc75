"""Makes a Llama with random weights: 5.3 M parameters, float32.

Usage: python -m benchmarks.random_model DIRECTORY [words] [wide | layers]. Its tokenizer is that of the
embedded model, filled up so that every id has a text. With `words` every id is a word of its own, so that the
text of an answer has the tokens of the answer when it comes back in a prompt; the context is 8,192 tokens.
The wider a model, the smaller the share of attention in a prompt's time: with `wide` it has 34 M parameters,
with `layers` two layers of Llama 3 8B's shape and 470 M parameters in all. (A prompt is computed without the
last layer's attention, since of the last layer it takes keys and values only.)
"""

import json
import sys
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.llama import Model, ModelArgs

from benchmarks.words import FIRST_WORD, VOCABULARY, word
from engine.model_source import EMBEDDED, resolve

_CONFIG = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "intermediate_size": 704,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-05,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "eos_token_id": 1,
}


_WIDE = {
    "hidden_size": 1024,
    "num_hidden_layers": 2,
    "intermediate_size": 2816,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
}
_LAYERS = {
    "hidden_size": 4096,
    "num_hidden_layers": 2,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
SHAPES: dict[str, dict[str, int]] = {"": {}, "wide": _WIDE, "layers": _LAYERS}
"""What another shape changes."""
_WORDS_CONTEXT_TOKENS = 8192


def make(directory: Path, *, words: bool = False, shape: str = "") -> None:
    """Write config, weights and tokenizer into a directory that exists. shape: one of SHAPES."""
    mx.random.seed(0)
    config = _CONFIG | SHAPES[shape]
    if words:
        config |= {"max_position_embeddings": _WORDS_CONTEXT_TOKENS}
    model = Model(ModelArgs.from_dict(config))
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(directory / "model.safetensors"), weights, metadata={"format": "mlx"})
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    embedded = Path(resolve(EMBEDDED)[0])
    settings = json.loads((embedded / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["model_max_length"] = config["max_position_embeddings"]
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    tokenizer = json.loads((embedded / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    if words:
        tokenizer["model"] |= {"merges": [], "ignore_merges": True}
        tokenizer["pre_tokenizer"]["add_prefix_space"] = True
        special = [text for text, token_id in vocabulary.items() if token_id < FIRST_WORD]
        texts = [*special, *(f"Ġ{word(token_id)}" for token_id in range(FIRST_WORD, VOCABULARY))]
        vocabulary.clear()
        vocabulary.update((text, token_id) for token_id, text in enumerate(texts))
    for token_id in range(len(vocabulary), VOCABULARY):
        vocabulary[f"Ġfiller{token_id}"] = token_id
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")


if __name__ == "__main__":
    told = sys.argv[2:]
    make(Path(sys.argv[1]), words="words" in told, shape=next((name for name in SHAPES if name in told), ""))
    print("made", flush=True)
