"""Rows and requests for tests of generators."""

from dataclasses import replace
from typing import Any

import mlx.core as mx

from engine.events import Event, Token
from engine.mlx_worker.generator import Generator, RowInput, Step
from engine.mlx_worker.model import LoadedModel
from engine.requests import GenerationRequest, TextInput
from engine.wire import Pause, Resume
from tests.engine.loop_driver import LoopDriver
from tests.engine.requests import Sink, generation

TOKENS = 20
DRAFT_TOKENS = 3
"""Of the fixture `drafted`."""
PROMPT = TextInput("One day a fox met a cat in the old forest. The cat was hungry.")


def requests() -> list[GenerationRequest]:
    """Greedy, sampled in every way, with what looks back at the output, and with log-probabilities."""
    return [
        generation(PROMPT, max_tokens=TOKENS),
        generation(TextInput("The"), max_tokens=TOKENS, logprobs=2),
        generation(PROMPT, max_tokens=TOKENS, temperature=1.0, seed=3),
        generation(PROMPT, max_tokens=TOKENS, temperature=0.8, seed=4, top_p=0.9, top_k=30, min_p=0.01),
        generation(PROMPT, max_tokens=TOKENS, temperature=0.9, seed=5, xtc_probability=0.5, logprobs=0),
        generation(
            PROMPT, max_tokens=TOKENS, temperature=0.7, seed=6, repetition_penalty=1.3, presence_penalty=0.4
        ),
        generation(PROMPT, max_tokens=TOKENS, frequency_penalty=1.5, logit_bias={40: 3.0}),
        generation(PROMPT, max_tokens=TOKENS, min_tokens=12, ignore_eos=False, logit_bias={1: 9.0}),
    ]


def assert_same(sinks: list[Sink], references: list[Sink]) -> None:
    for sink, reference in zip(sinks, references, strict=True):
        assert (sink.ids, sink.text) == (reference.ids, reference.text)
        assert sink.finished.reason == reference.finished.reason
        assert sink.finished.completion_tokens == reference.finished.completion_tokens
        assert [token.logprobs for token in sink.tokens] == [token.logprobs for token in reference.tokens]


def pause_and_resume(driver: LoopDriver, event: Event) -> None:
    if isinstance(event, Token) and len(driver.sinks[event.stream].ids) % 3 == 0:
        driver.loop.hand_over(Pause(event.stream))
        driver.loop.hand_over(Resume(event.stream))


def row_input(loaded: LoadedModel, request: GenerationRequest, **changes: Any) -> RowInput:
    assert isinstance(request.input, TextInput)
    ids = list(loaded.tokenizer.encode(request.input.text))
    row = RowInput(
        tokens=ids,
        cache=None,
        covered=[],
        prompt_tokens=len(ids),
        sampling=request.sampling,
        min_tokens=0,
        ending_ids=(),
        logprobs=None,
        open=False,
    )
    return replace(row, **changes)


def steps(generator: Generator, tokens: int, prefill_tokens: int = 64) -> list[Step]:
    """Steps until the rows have so many tokens together."""
    done: list[Step] = []
    while sum(len(step.tokens) for step in done) < tokens:
        done.append(generator.next(prefill_tokens))
        assert len(done) < 200
    return done


def ids_of(done: list[Step]) -> list[int]:
    return [token.token_id for step in done for token in step.tokens]


def arrays(cache: list[Any]) -> list[mx.array]:
    held = [part for layer in cache for part in (layer.keys, layer.values)]
    return [array for part in held for array in (part if isinstance(part, tuple | list) else (part,))]
