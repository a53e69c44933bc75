"""A replay leaves the stop strings where the lost stream left them, and refuses what no stream gives."""

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.contract import EngineError
from engine.events import FinishReason
from engine.requests import GenerationRequest
from engine.resumption import replay
from engine.stop_strings import StopStringMatcher
from flowcontrol.reasons import Reason
from tests.engine.requests import generation

LETTERS = "abc"


def text_of(token_id: int) -> str:
    """Token 0 ends, 1 to 3 are letters, the others have no text."""
    return LETTERS[token_id - 1] if 1 <= token_id <= len(LETTERS) else ""


def replayed(request: GenerationRequest, matcher: StopStringMatcher | None = None) -> FinishReason | None:
    stopping = request.stopping
    return replay(
        request,
        max_tokens=stopping.max_tokens or 0,
        ending_ids={0},
        text_of=text_of,
        stops=matcher if matcher is not None else StopStringMatcher(stopping.stop_strings),
    )


class Unbroken:
    """The stream that a request gives when the model draws these tokens.

    last: the reason, when its tokens themselves end it; None when it goes on or a stop token ends it.
    """

    def __init__(self, request: GenerationRequest, drawn: list[int]) -> None:
        stopping, matcher = request.stopping, StopStringMatcher(request.stopping.stop_strings)
        self.ids: list[int] = []
        self.texts: list[str] = []
        self.last: FinishReason | None = None
        self.by_stop_token = False
        for token_id in drawn:
            if token_id == 0 and len(self.ids) >= stopping.min_tokens:
                self.by_stop_token = True
                break
            self.ids.append(token_id)
            may_stop = len(self.ids) >= stopping.min_tokens
            self.texts.append(matcher.push(text_of(token_id), may_stop=may_stop))
            if matcher.stopped_by:
                self.last = FinishReason.STOP
                break
            if len(self.ids) == stopping.max_tokens:
                self.last = FinishReason.LENGTH
                break
        self.text = "".join(self.texts) + matcher.flush()


REQUESTS = st.builds(
    generation,
    max_tokens=st.integers(1, 12),
    min_tokens=st.integers(0, 5),
    stop_strings=st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=3).map(tuple),
)


@given(request=REQUESTS, drawn=st.lists(st.integers(0, 4), max_size=16), data=st.data())
def test_replay_and_rest_give_the_text_of_the_unbroken_stream(
    request: GenerationRequest, drawn: list[int], data: st.DataObject
) -> None:
    unbroken = Unbroken(request, drawn)
    cut = data.draw(st.integers(0, len(unbroken.ids)))
    matcher = StopStringMatcher(request.stopping.stop_strings)
    end = replayed(request_with(request, unbroken.ids[:cut]), matcher)
    rest = ""
    for count, token_id in enumerate(unbroken.ids[cut:], start=cut + 1):
        rest += matcher.push(text_of(token_id), may_stop=count >= request.stopping.min_tokens)
    assert "".join(unbroken.texts[:cut]) + rest + matcher.flush() == unbroken.text
    assert end is (unbroken.last if cut == len(unbroken.ids) else None)


@given(request=REQUESTS, drawn=st.lists(st.integers(0, 4), max_size=16), more=st.integers(0, 4))
def test_a_token_after_the_end_is_refused(request: GenerationRequest, drawn: list[int], more: int) -> None:
    unbroken = Unbroken(request, drawn)
    assume(unbroken.last is not None or unbroken.by_stop_token)
    beyond = [*unbroken.ids, 0 if unbroken.by_stop_token else more]
    with pytest.raises(EngineError) as refused:
        replayed(request_with(request, beyond))
    assert (refused.value.reason, refused.value.field) == (Reason.INVALID_REQUEST, "resume.token_ids")
    assert refused.value.message.startswith("resume.token_ids: ")


def request_with(request: GenerationRequest, ids: list[int]) -> GenerationRequest:
    stopping = request.stopping
    changes: dict[str, Any] = {name: getattr(stopping, name) for name in stopping.__struct_fields__}
    return generation(resume_ids=ids, **changes)


def test_a_stop_token_before_min_tokens_is_output() -> None:
    assert replayed(generation(max_tokens=4, min_tokens=2, resume_ids=(0, 0))) is None
    with pytest.raises(EngineError, match="has 0 at index 2, which ends the stream"):
        replayed(generation(max_tokens=4, min_tokens=2, resume_ids=(1, 0, 0)))
