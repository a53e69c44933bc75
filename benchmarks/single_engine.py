"""One stream through the generator that a worker would use, in a process of its own.

Usage: python -m benchmarks.single_engine OPTIONS, with a worker's options as JSON; draft_model "random"
stands for a small model with random weights. It greets with the name of the BLAS and then answers each line,
a Stream as JSON, with an Answer.
"""

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from engine.mlx_worker.cpu_blas import load_cpu_blas
from engine.model_source import EMBEDDED, resolve
from engine.options import WorkerOptions
from engine.requests import Sampling

RANDOM = "random"
_PREFILL_TOKENS = 512
_PROMPT_TOKENS = 24
_GREEDY: dict[str, Any] = {
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "penalty_context_tokens": 1,
    "logit_bias": {},
    "seed": 0,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.1,
}
_DRAFT = {"hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 96, "head_dim": 32}


class Stream(msgspec.Struct, frozen=True):
    """tokens: of output. temperature: 0 for greedy."""

    tokens: int
    temperature: float


class Answer(msgspec.Struct, frozen=True):
    """elapsed_s: of decoding. steps: that gave tokens. kv_bytes: at the end, those of the draft included."""

    elapsed_s: float
    tokens: int
    steps: int
    kv_bytes: int


def make_draft(directory: Path) -> None:
    """Write a random Llama with the embedded model's vocabulary and tokenizer into an empty directory."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.llama import Model, ModelArgs

    embedded = Path(resolve(EMBEDDED)[0])
    config = json.loads((embedded / "config.json").read_text(encoding="utf-8")) | _DRAFT
    mx.random.seed(0)
    weights = dict(tree_flatten(Model(ModelArgs.from_dict(config)).parameters()))
    mx.save_safetensors(str(directory / "model.safetensors"), weights, metadata={"format": "mlx"})
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((embedded / name).read_bytes())


def _run(generator: Any, stream: Stream) -> Answer:
    """Decode one stream. generator: an empty Generator; it is closed."""
    from engine.mlx_worker.generator import RowInput

    prompt = list(range(2, 2 + _PROMPT_TOKENS))
    uid = generator.insert(
        RowInput(
            tokens=prompt,
            cache=None,
            covered=[],
            prompt_tokens=len(prompt),
            sampling=Sampling(**_GREEDY | {"temperature": stream.temperature}),
            min_tokens=0,
            ending_ids=(),
            logprobs=None,
            open=False,
        )
    )
    # From the first token on: only decoding is compared.
    while not generator.next(_PREFILL_TOKENS).tokens:
        pass
    tokens = steps = 0
    began_s = time.perf_counter()
    while tokens < stream.tokens:
        given = len(generator.next(_PREFILL_TOKENS).tokens)
        tokens += given
        steps += given > 0
    elapsed_s = time.perf_counter() - began_s
    kept = generator.extract(uid)
    generator.close()
    return Answer(elapsed_s, tokens, steps, sum(int(layer.nbytes) for layer in kept[0]))


def main() -> None:
    options = msgspec.json.decode(sys.argv[1], type=WorkerOptions)
    cpu_blas = load_cpu_blas(options.cpu_blas)
    # Only now, because these import mlx.
    import mlx.core as mx

    from engine.mlx_worker.generators import generator_maker
    from engine.mlx_worker.model import load_model

    with tempfile.TemporaryDirectory() as directory:
        if options.draft_model == RANDOM:
            make_draft(Path(directory))
            options = replace(options, draft_model=directory)
        loaded = load_model(options)
    make_generator = generator_maker(loaded, options)
    print(cpu_blas, flush=True)
    for line in sys.stdin:
        stream = msgspec.json.decode(line, type=Stream)
        print(msgspec.json.encode(_run(make_generator(), stream)).decode(), flush=True)
    mx.clear_streams()


if __name__ == "__main__":
    main()
