"""What every Engine does with a stream that was lost and is taken up again."""

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from engine.events import Finished, FinishReason
from engine.requests import GenerationRequest, TokenInput
from flowcontrol.reasons import Reason
from tests.engine.conformance import LONG_PROMPT, boundary_stop, ended, run, varied
from tests.engine.conformance_flow import more_tokens, pausing
from tests.engine.requests import Sink, generation
from tests.engine.subjects import SPLIT_CHARACTER, SPLIT_CHARACTER_IDS, Subject


def resumed(request: GenerationRequest, ids: Iterable[int]) -> GenerationRequest:
    return msgspec.structs.replace(request, resume_ids=tuple(ids))


async def resume_everywhere(subject: Subject, request: GenerationRequest) -> Sink:
    """Cut a stream after each of its tokens: each rest is that of the whole. Returns the whole."""
    whole = await run(subject, request)
    sinks = [Sink() for _ in range(len(whole.ids) + 1)]
    for cut, sink in enumerate(sinks):
        subject.engine.submit(resumed(request, whole.ids[:cut]), sink)
    await ended(*sinks)
    for cut, sink in enumerate(sinks):
        held_by_caller = "".join(token.text for token in whole.tokens[:cut])
        assert sink.ids == whole.ids[cut:], f"after {cut} tokens"
        assert held_by_caller + sink.text == whole.text
        assert end_of(sink) == end_of(whole)
    return whole


def end_of(sink: Sink) -> tuple[Any, ...]:
    """All of Finished that does not depend on where the stream was cut."""
    end = sink.finished
    return end.reason, end.stop_string, end.stop_token_id, end.prompt_tokens, end.completion_tokens


WAYS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "seed": 11},
    {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "seed": 12},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.4},
    {"temperature": 1.0, "xtc_probability": 0.5, "xtc_threshold": 0.05, "seed": 13},
]


class Resuming:
    """A stream goes on with the token after those that the caller holds, as if it had never been cut."""

    @pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(way) or "greedy")
    async def test_after_every_token(self, subject: Subject, way: dict[str, Any]) -> None:
        whole = await resume_everywhere(subject, generation(max_tokens=16, **way))
        assert len(whole.ids) == 16

    async def test_with_a_prompt_of_several_slices(self, subject: Subject) -> None:
        await resume_everywhere(subject, generation(LONG_PROMPT, max_tokens=5))

    async def test_a_stop_string_that_began_before_the_cut(self, subject: Subject) -> None:
        stop = boundary_stop((await run(subject, varied())).tokens)
        whole = await resume_everywhere(subject, varied(stop_strings=(stop, "never to be seen")))
        assert whole.finished.stop_string == stop

    async def test_text_held_back_before_the_cut(self, subject: Subject) -> None:
        tokens = (await run(subject, varied())).tokens
        # All of the output but its first tokens is the beginning of a stop string.
        stop = "".join(token.text for token in tokens[3:]) + "\0"
        whole = await resume_everywhere(subject, varied(stop_strings=(stop,)))
        assert whole.finished.reason is FinishReason.LENGTH
        assert whole.finished.text

    async def test_a_character_that_is_cut(self, subject: Subject) -> None:
        """The output is of bytes only, so nearly every cut is within a character or beside a broken one."""
        bias = dict.fromkeys(SPLIT_CHARACTER_IDS, 100.0)
        # The penalty keeps the model from repeating one of the two for ever.
        request = generation(temperature=2.0, frequency_penalty=2.0, logit_bias=bias, seed=3)
        whole = await resume_everywhere(subject, request)
        assert set(whole.ids) == set(SPLIT_CHARACTER_IDS)
        assert SPLIT_CHARACTER in whole.text

    async def test_a_stop_token_comes_again(self, subject: Subject) -> None:
        ids = (await run(subject, varied())).ids
        stop = next(
            token_id for index, token_id in enumerate(ids) if index >= 5 and token_id not in ids[:index]
        )
        whole = await resume_everywhere(subject, varied(stop_token_ids=(stop,)))
        assert whole.finished.stop_token_id == stop

    async def test_min_tokens_are_counted_from_the_beginning(self, subject: Subject) -> None:
        first = (await run(subject, varied())).tokens[0]
        request = varied(min_tokens=8, stop_token_ids=(first.token_id,), stop_strings=(first.text,))
        assert len((await resume_everywhere(subject, request)).ids) >= 8

    async def test_the_default_length_is_that_of_the_whole(self, subject: Subject) -> None:
        whole = await run(subject, varied(max_tokens=None))
        sink = await run(subject, varied(max_tokens=None, resume_ids=whole.ids[:20]))
        assert whole.ids[:20] + sink.ids == whole.ids
        short = TokenInput((5,) * (subject.model.context_tokens - 6))
        whole = await run(subject, generation(short, max_tokens=None))
        sink = await run(subject, generation(short, max_tokens=None, resume_ids=whole.ids[:4]))
        assert (len(whole.ids), sink.ids) == (6, whole.ids[4:])

    async def test_the_whole_of_a_stream_gives_its_end_and_nothing_else(self, subject: Subject) -> None:
        stop = boundary_stop((await run(subject, varied())).tokens)
        for request in (varied(), varied(stop_strings=(stop,))):
            whole = await run(subject, request)
            sink = await run(subject, resumed(request, whole.ids))
            assert [type(event) for event in sink.events] == [Finished]
            assert sink.finished.text == whole.finished.text
            assert end_of(sink) == end_of(whole)

    async def test_an_end_that_was_cancelled_is_not_told(self, subject: Subject) -> None:
        whole = await run(subject, varied())
        sink = Sink()
        subject.engine.cancel(subject.engine.submit(varied(resume_ids=whole.ids), sink))
        await run(subject, generation())
        assert sink.events == []

    async def test_prefill_is_of_prompt_and_output_and_comes_first(self, subject: Subject) -> None:
        whole = await run(subject, varied())
        sink = await run(subject, varied(resume_ids=whole.ids[:20]))
        prefills = sink.prefills
        assert prefills
        assert sink.events[: len(prefills)] == prefills
        assert {prefill.total for prefill in prefills} == {sink.finished.prompt_tokens + 20}

    async def test_a_resumed_stream_pauses_like_any_other(self, subject: Subject) -> None:
        whole = await run(subject, varied(max_tokens=40))
        sink = pausing(subject, 3)
        stream = subject.engine.submit(varied(max_tokens=40, resume_ids=whole.ids[:9]), sink)
        subject.engine.pause(stream)
        subject.engine.resume(stream)
        while not sink.ended.is_set():
            await more_tokens(sink, (len(sink.ids) // 3 + 1) * 3)
            await subject.settled(paused=1, unless=sink)
            subject.engine.resume(stream)
        assert sink.ids == whole.ids[9:]


class RefusedResumes:
    """Tokens that no stream of the request gives are refused with the field."""

    async def refused(self, subject: Subject, request: GenerationRequest) -> None:
        sink = await run(subject, request)
        assert len(sink.events) == 1
        assert (sink.failed.reason, sink.failed.field) == (Reason.INVALID_REQUEST, "resume.token_ids")
        assert sink.failed.message.startswith("resume.token_ids: ")

    async def test_tokens_beyond_the_vocabulary(self, subject: Subject) -> None:
        await self.refused(subject, generation(resume_ids=(1, subject.model.vocab_size)))

    async def test_more_than_max_tokens(self, subject: Subject) -> None:
        await self.refused(subject, generation(max_tokens=3, resume_ids=(5, 6, 7, 8)))
        await self.refused(subject, generation(max_tokens=None, resume_ids=(5,) * 33))

    async def test_stop_tokens_and_what_follows_them(self, subject: Subject) -> None:
        eos = subject.eos_token_id
        await self.refused(subject, generation(stop_token_ids=(7,), resume_ids=(5, 7)))
        await self.refused(subject, generation(ignore_eos=False, resume_ids=(5, eos, 6)))
        await self.refused(subject, generation(ignore_eos=False, min_tokens=2, resume_ids=(5, eos, eos)))
        allowed = await run(subject, generation(ignore_eos=True, resume_ids=(5, eos, 6)))
        assert allowed.finished.completion_tokens == 24

    async def test_a_token_after_a_stop_string(self, subject: Subject) -> None:
        stop = boundary_stop((await run(subject, varied())).tokens)
        whole = await run(subject, varied(stop_strings=(stop,)))
        await self.refused(subject, varied(stop_strings=(stop,), resume_ids=[*whole.ids, 5]))

    async def test_others_go_on_and_nothing_is_left(self, subject: Subject) -> None:
        bystander, alone = Sink(), await run(subject, varied())
        subject.engine.submit(varied(), bystander)
        await self.refused(subject, generation(max_tokens=3, resume_ids=(5, 6, 7, 8)))
        await ended(bystander)
        assert bystander.ids == alone.ids
        await subject.settled()
