"""Trains the embedded model on the grammar's corpus and writes it as a folder that mlx_lm loads.

Run from the root of the repository: python -m training.train
"""

import argparse
import ctypes
import json
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

# One thread of OpenBLAS for each of the two workers below.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
try:
    # Its sgemm replaces the wheel's reference one, as long as it is loaded before mlx.
    ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)
except OSError:
    print("libopenblas.so.0 not found: training will take several times as long", flush=True)

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.llama import Model, ModelArgs
from tokenizers import Tokenizer

from training.corpus import documents
from training.data import batches
from training.tokenizer import BOS, EOS, plain_text, save_tokenizer, train_tokenizer

TOKENIZER_DOCUMENTS = 20_000
VALIDATION_SEED_OFFSET = 1_000_003
TOKENS_PER_STEP = 1024
SHORT_TOKENS, LONG_TOKENS = 256, 512
FIRST_SHARE, LONG_SHARE = 0.75, 0.05
WORKERS = 2

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "vocab_size": 1024,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "torch_dtype": "float32",
}


@dataclass(frozen=True)
class Result:
    """What a training run ended with; losses in nats per token."""

    steps: int
    tokens: int
    parameters: int
    seconds: float
    train_loss: float
    validation_loss: float


def mean_loss(model: Model, rows: mx.array) -> mx.array:
    """Cross-entropy of next tokens over int32 rows [batch, length + 1], in nats."""
    loss: mx.array = nn.losses.cross_entropy(model(rows[:, :-1]), rows[:, 1:], reduction="mean")
    return loss


class Trainer:
    """AdamW over one model; each worker thread has a replica and computes the gradients of its share."""

    def __init__(self, steps: int, peak_rate: float, seed: int) -> None:
        mx.random.seed(seed)
        args = ModelArgs.from_dict(CONFIG)
        self.model = Model(args)
        mx.eval(self.model.parameters())
        self._replicas = [Model(args) for _ in range(WORKERS)]
        self._pool = ThreadPoolExecutor(WORKERS)
        warmup = max(1, steps // 20)
        schedule = optim.join_schedules(
            [
                optim.linear_schedule(0.0, peak_rate, warmup),
                optim.cosine_decay(peak_rate, steps - warmup, peak_rate / 50),
            ],
            [warmup],
        )
        self._optimizer = optim.AdamW(learning_rate=schedule, betas=[0.9, 0.98], weight_decay=0.05)

    def step(self, rows: np.ndarray) -> float:
        """Update the parameters once and return the mean loss before the update."""
        parameters = self.model.parameters()
        shares = np.array_split(rows, WORKERS)
        results = list(self._pool.map(self._gradients, self._replicas, [parameters] * WORKERS, shares))
        gradients = tree_map(lambda *parts: sum(parts) / WORKERS, *[gradient for _, gradient in results])
        gradients, _ = optim.clip_grad_norm(gradients, 1.0)
        self._optimizer.update(self.model, gradients)
        mx.eval(self.model.parameters(), self._optimizer.state)
        return sum(loss for loss, _ in results) / WORKERS

    def close(self) -> None:
        """End the worker threads."""
        self._pool.shutdown()

    @staticmethod
    def _gradients(replica: Model, parameters: Any, rows: np.ndarray) -> tuple[float, Any]:
        """Loss and gradients of the rows; runs in a worker, so all that it returns is evaluated."""
        replica.update(parameters)
        loss, gradients = nn.value_and_grad(replica, lambda batch: mean_loss(replica, batch))(mx.array(rows))
        mx.eval(loss, gradients)
        return loss.item(), gradients


def validation_loss(model: Model, tokenizer: Tokenizer, seed: int) -> float:
    """Mean loss over 64 windows of documents that training does not see."""
    held_out = batches(tokenizer, seed + VALIDATION_SEED_OFFSET, SHORT_TOKENS, 8)
    return float(np.mean([mean_loss(model, mx.array(rows)).item() for rows in islice(held_out, 8)]))


def training_rows(tokenizer: Tokenizer, seed: int, steps: int) -> Iterator[np.ndarray]:
    """One array of rows a step: stories without leaning, then with it, and long windows in the last part."""
    first, last = int(steps * FIRST_SHARE), int(steps * LONG_SHARE)
    short_rows, long_rows = TOKENS_PER_STEP // SHORT_TOKENS, TOKENS_PER_STEP // LONG_TOKENS
    yield from islice(batches(tokenizer, seed, SHORT_TOKENS, short_rows, leaning=False), first)
    yield from islice(batches(tokenizer, seed + 1, SHORT_TOKENS, short_rows), steps - first - last)
    yield from islice(batches(tokenizer, seed + 2, LONG_TOKENS, long_rows), last)


def train(
    tokenizer: Tokenizer, steps: int, peak_rate: float, seed: int, minutes: float
) -> tuple[Model, Result]:
    """Train for the steps, or until the minutes are over."""
    trainer = Trainer(steps, peak_rate, seed)
    start, losses = time.monotonic(), [0.0]
    for step, rows in enumerate(training_rows(tokenizer, seed, steps), 1):
        losses.append(trainer.step(rows))
        spent = time.monotonic() - start
        if step % 100 == 0 or step == steps:
            speed, left = step * TOKENS_PER_STEP / spent, (steps - step) * spent / step / 60
            loss = np.mean(losses[-100:])
            print(
                f"step {step}/{steps}  loss {loss:.3f}  {speed:,.0f} tokens/s  ETA {left:.1f} min", flush=True
            )
        if spent > 60 * minutes:
            print("out of time", flush=True)
            break
    trainer.close()
    parameters = sum(array.size for _, array in tree_flatten(trainer.model.parameters()))
    result = Result(
        steps=step,
        tokens=step * TOKENS_PER_STEP,
        parameters=parameters,
        seconds=round(time.monotonic() - start),
        train_loss=round(float(np.mean(losses[-100:])), 4),
        validation_loss=round(validation_loss(trainer.model, tokenizer, seed), 4),
    )
    return trainer.model, result


def save_model(model: Model, tokenizer: Tokenizer, result: Result, folder: Path) -> None:
    """Write weights (float32), configuration and the run's figures into the folder."""
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    ids = {"bos_token_id": tokenizer.token_to_id(BOS), "eos_token_id": tokenizer.token_to_id(EOS)}
    files = {
        "config.json": CONFIG | ids,
        "generation_config.json": ids,
        "training.json": asdict(result) | {"perplexity": round(math.exp(result.validation_loss), 3)},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Train from scratch with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("engine/embedded"))
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30.0, help="stop after this time, whatever the step")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    texts = (plain_text(document) for document in islice(documents(options.seed), TOKENIZER_DOCUMENTS))
    tokenizer = train_tokenizer(texts)
    save_tokenizer(tokenizer, options.out)
    model, result = train(tokenizer, options.steps, options.rate, options.seed, options.minutes)
    save_model(model, tokenizer, result, options.out)
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
