"""The engine without a server: mlx-lm's BatchGenerator in a process of its own.

Usage: python -m benchmarks.engine_alone OPTIONS, with a worker's options as JSON. It loads the BLAS and
the model as a worker does and greets with the name of the BLAS.
"""

import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec

from benchmarks.jobs import Job, Outcome, answer_jobs
from engine.mlx_worker.cpu_blas import load_cpu_blas
from engine.options import WorkerOptions


class _Slot:
    """One stream: a prompt at a time. began_s and first_s in seconds of perf_counter."""

    def __init__(self, prompts: list[list[int]]) -> None:
        self.prompts: Iterator[list[int]] = iter(prompts)
        self.began_s = 0.0
        self.waits_for_first = True


def run(generator: Any, prompts: list[list[int]], job: Job) -> Outcome:
    """Decode every prompt. generator: an empty BatchGenerator. prompts: token ids, in job.prompts' order."""
    slots: dict[int, _Slot] = {}
    first_token_s: list[float] = []
    tokens = 0

    def insert_next(slot: _Slot) -> None:
        prompt = next(slot.prompts, None)
        if prompt is not None:
            slot.began_s, slot.waits_for_first = time.perf_counter(), True
            (uid,) = generator.insert([list(prompt)], max_tokens=[job.max_tokens])
            slots[uid] = slot

    began_s = time.perf_counter()
    for number in range(job.streams):
        insert_next(_Slot(prompts[number :: job.streams]))
    while slots:
        _, responses = generator.next()
        now_s = time.perf_counter()
        tokens += len(responses)
        for response in responses:
            slot = slots[response.uid]
            if slot.waits_for_first:
                slot.waits_for_first = False
                first_token_s.append(now_s - slot.began_s)
            if response.finish_reason is not None:
                del slots[response.uid]
                insert_next(slot)
    return Outcome(time.perf_counter() - began_s, tokens, tokens, first_token_s)


def main() -> None:
    options = msgspec.json.decode(sys.argv[1], type=WorkerOptions)
    cpu_blas = load_cpu_blas(options.cpu_blas)
    # Only now, because these import mlx.
    import mlx.core as mx
    from mlx_lm.generate import BatchGenerator

    from engine.mlx_worker.model import load_model

    loaded = load_model(options)
    make_generator = partial(
        BatchGenerator,
        loaded.model,
        completion_batch_size=options.max_batch_rows,
        prefill_batch_size=options.prefill_batch_rows,
        prefill_step_size=options.prefill_step_tokens,
    )

    def work(job: Job) -> Outcome:
        prompts = [list(loaded.tokenizer.encode(prompt)) for prompt in job.prompts]
        generator = make_generator()
        try:
            return run(generator, prompts, job)
        finally:
            generator.close()

    # A worker warms up before it says that it is ready.
    work(Job(streams=options.max_batch_rows, prompts=["warm up"] * options.max_batch_rows, max_tokens=4))
    answer_jobs(cpu_blas, work)
    mx.clear_streams()


if __name__ == "__main__":
    main()
