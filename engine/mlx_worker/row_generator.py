"""Rows on mlx-lm's BatchGenerator."""

import time
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import BatchGenerator, greedy_sampler

from engine.mlx_worker.generator import KvCache, PromptProgress, RowInput, Step, StepToken
from engine.mlx_worker.logprobs import token_logprobs
from engine.mlx_worker.sampling import make_processors, make_sampler

# The loop ends rows, the generator does not.
_NO_END = 1 << 60


class RowGenerator:
    """Implements Generator."""

    def __init__(self, model: nn.Module, *, max_rows: int, prefill_rows: int) -> None:
        self._generator = BatchGenerator(
            model, completion_batch_size=max_rows, prefill_batch_size=min(prefill_rows, max_rows)
        )
        self._logprobs: dict[int, int | None] = {}

    def insert(self, row: RowInput) -> int:
        processors = make_processors(
            row.sampling,
            prompt_tokens=row.prompt_tokens,
            min_tokens=row.min_tokens,
            ending_ids=row.ending_ids,
        )
        sampler = make_sampler(row.sampling, row.position)
        (uid,) = self._generator.insert(
            [list(row.tokens)],
            max_tokens=[_NO_END],
            caches=[row.cache],
            all_tokens=[list(row.covered)],
            # None means the generator's own sampler, which is the greedy one.
            samplers=[None if sampler is greedy_sampler else sampler],
            logits_processors=[processors],
        )
        self._logprobs[uid] = row.logprobs
        return int(uid)

    def remove(self, uid: int) -> None:
        if uid in self._logprobs:
            del self._logprobs[uid]
            self._generator.remove([uid])

    def extract(self, uid: int) -> tuple[KvCache, list[int]] | None:
        found = self._generator.extract_cache([uid]).get(uid)
        if found is None or not found[1]:
            return None
        cache, tokens = found
        # An unevaluated slice would keep the arrays of the whole batch in memory.
        mx.eval([layer.state for layer in cache])
        # The generator goes on changing its list in place.
        return cache, list(tokens)

    def next(self, prefill_tokens: int) -> Step:
        self._generator.prefill_step_size = self._generator._prompt_batch.prefill_step_size = prefill_tokens
        began_s = time.perf_counter()
        prompts, tokens = self._generator.next()
        model_s = time.perf_counter() - began_s
        return Step(
            [
                PromptProgress(each.uid, each.progress[0], each.progress[1], at_last=each.end_of_segment)
                for each in prompts
                # Of a row that begins with its last token nothing else is told.
                if not each.end_of_prompt or each.progress[1] == 1
            ],
            [StepToken(each.uid, each.token, self._chosen(each)) for each in tokens],
            model_s,
        )

    def _chosen(self, response: Any) -> Any:
        wanted = self._logprobs[response.uid]
        return None if wanted is None else token_logprobs(response.logprobs, response.token, wanted)

    @property
    def kv_bytes(self) -> int:
        return int(self._generator.prompt_cache_nbytes)

    def close(self) -> None:
        self._generator.close()
