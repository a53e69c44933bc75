"""Requests and sinks for tests of engines."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from engine.events import Assigned, Event, Failed, Finished, Prefill, Token
from engine.requests import GenerationRequest, ModelInput, Sampling, Stopping, TextInput

PROMPT = TextInput("Once upon a time there was")

_SAMPLING = Sampling(
    temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0,
    frequency_penalty=0.0, penalty_context_tokens=20, logit_bias={}, seed=1, xtc_probability=0.0,
    xtc_threshold=0.1,
)  # fmt: skip
# EOS is ignored, so that a test's number of tokens does not depend on the model.
_STOPPING = Stopping(max_tokens=24, min_tokens=0, stop_strings=(), stop_token_ids=(), ignore_eos=True)
_STOPPING_FIELDS = frozenset(Stopping.__struct_fields__)


def sampling(**changes: Any) -> Sampling:
    """Greedy, but for what is given."""
    return Sampling(**{name: getattr(_SAMPLING, name) for name in Sampling.__struct_fields__} | changes)


def stopping(**changes: Any) -> Stopping:
    """24 tokens, but for what is given."""
    return Stopping(**{name: getattr(_STOPPING, name) for name in Stopping.__struct_fields__} | changes)


def generation(
    model_input: ModelInput = PROMPT,
    *,
    logprobs: int | None = None,
    resume_ids: Iterable[int] = (),
    cache_salt: str = "",
    prefix_cache: bool = True,
    speculate: bool = True,
    **changes: Any,
) -> GenerationRequest:
    """A request with fields of Sampling and Stopping changed by name."""
    stop = {name: changes.pop(name) for name in list(changes) if name in _STOPPING_FIELDS}
    return GenerationRequest(
        model_input,
        sampling(**changes),
        stopping(**stop),
        logprobs,
        tuple(resume_ids),
        cache_salt,
        prefix_cache,
        speculate,
    )


class Sink:
    """Keeps the events of one stream; `react` is called with each one after it was kept.

    assigned: apart from the others, since engines without workers tell none.
    """

    def __init__(self, react: Callable[[Event], None] = lambda event: None) -> None:
        self.events: list[Event] = []
        self.assigned: list[Assigned] = []
        self.ended = asyncio.Event()
        self.react = react

    def __call__(self, event: Event) -> None:
        if isinstance(event, Assigned):
            self.assigned.append(event)
            return
        self.events.append(event)
        if isinstance(event, Finished | Failed):
            self.ended.set()
        self.react(event)

    @property
    def tokens(self) -> list[Token]:
        return [event for event in self.events if isinstance(event, Token)]

    @property
    def ids(self) -> list[int]:
        return [token.token_id for token in self.tokens]

    @property
    def prefills(self) -> list[Prefill]:
        return [event for event in self.events if isinstance(event, Prefill)]

    @property
    def end(self) -> Finished | Failed:
        """The last event, which must be an end."""
        last = self.events[-1]
        assert isinstance(last, Finished | Failed)
        return last

    @property
    def finished(self) -> Finished:
        assert isinstance(self.end, Finished), self.end
        return self.end

    @property
    def failed(self) -> Failed:
        assert isinstance(self.end, Failed), self.end
        return self.end

    @property
    def text(self) -> str:
        """The whole output of a stream that ended well."""
        return "".join(token.text for token in self.tokens) + self.finished.text
