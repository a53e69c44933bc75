"""What every Engine does. A module of tests subclasses these and gives a `subject` fixture."""

import asyncio
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest

from engine.contract import EngineError
from engine.events import Event, Finished, FinishReason, Token
from engine.requests import ChatInput, GenerationRequest, ModelInput, TextInput, TokenInput
from flowcontrol.reasons import Reason
from tests.engine.requests import PROMPT, Sink, generation
from tests.engine.subjects import MAX_BATCH_ROWS, Subject
from tests.engine.waiting import eventually

_TIMEOUT_S = 60.0
LONG_PROMPT = TextInput("One day a fox met a cat in the old forest. " * 5)


async def ended(*sinks: Sink) -> None:
    async with asyncio.timeout(_TIMEOUT_S):
        for sink in sinks:
            await sink.ended.wait()


async def run(subject: Subject, request: GenerationRequest) -> Sink:
    sink = Sink()
    subject.engine.submit(request, sink)
    await ended(sink)
    return sink


def varied(model_input: ModelInput = PROMPT, **changes: Any) -> GenerationRequest:
    """Sampled, so that its tokens differ from each other whatever the model is."""
    return generation(model_input, temperature=1.0, seed=11, **changes)


def boundary_stop(tokens: list[Token]) -> str:
    """A string that first occurs in the output across the boundary of two tokens, past the first few."""
    whole, before = "".join(token.text for token in tokens), ""
    for left, right in pairwise(tokens):
        before += left.text
        stop = left.text[-2:] + right.text[:2]
        start = len(before) - len(left.text[-2:])
        if len(left.text) > 1 and len(right.text) > 1 and start > 8 and whole.find(stop) == start:
            return stop
    raise AssertionError(f"no two tokens to take a stop string from: {whole!r}")


class Endings:
    """How a stream runs and how it ends."""

    async def test_events_come_after_submit_has_returned(self, subject: Subject) -> None:
        sink = Sink()
        stream = subject.engine.submit(generation(), sink)
        assert sink.events == []
        await ended(sink)
        assert {event.stream for event in sink.events} == {stream}

    async def test_streams_have_different_numbers(self, subject: Subject) -> None:
        sinks = [Sink() for _ in range(3)]
        numbers = {subject.engine.submit(generation(max_tokens=2), sink) for sink in sinks}
        await ended(*sinks)
        assert len(numbers) == 3

    async def test_one_end_and_nothing_after_it(self, subject: Subject) -> None:
        sink = await run(subject, generation())
        count = len(sink.events)
        await run(subject, generation())
        assert len(sink.events) == count
        assert [isinstance(event, Token) for event in sink.events].count(True) == 24
        assert sum(isinstance(event, Finished) for event in sink.events) == 1

    @pytest.mark.parametrize("prompt", [PROMPT, LONG_PROMPT])
    async def test_prefill_comes_before_tokens_and_only_grows(
        self, subject: Subject, prompt: ModelInput
    ) -> None:
        sink = await run(subject, generation(prompt, max_tokens=3))
        prefills = sink.prefills
        assert prefills
        assert sink.events[: len(prefills)] == prefills
        assert [prefill.done for prefill in prefills] == sorted(prefill.done for prefill in prefills)
        assert {prefill.total for prefill in prefills} == {sink.finished.prompt_tokens}
        assert all(prefill.done <= prefill.total for prefill in prefills)

    @pytest.mark.parametrize("count", [1, 2, 17])
    async def test_max_tokens_gives_exactly_that_many(self, subject: Subject, count: int) -> None:
        sink = await run(subject, generation(max_tokens=count))
        assert sink.finished.reason is FinishReason.LENGTH
        assert sink.finished.completion_tokens == len(sink.ids) == count
        assert (sink.finished.stop_string, sink.finished.stop_token_id) == ("", None)

    async def test_without_max_tokens_the_engine_has_a_default(self, subject: Subject) -> None:
        sink = await run(subject, generation(max_tokens=None))
        assert sink.finished.reason is FinishReason.LENGTH
        assert len(sink.ids) == 32

    async def test_the_same_request_gives_the_same_stream(self, subject: Subject) -> None:
        first, second = await run(subject, varied()), await run(subject, varied())
        assert (first.ids, first.text) == (second.ids, second.text)

    async def test_stop_string_across_tokens_ends_the_text_before_it(self, subject: Subject) -> None:
        whole = await run(subject, varied())
        stop = boundary_stop(whole.tokens)
        sink = await run(subject, varied(stop_strings=(stop, "never to be seen")))
        assert sink.finished.reason is FinishReason.STOP
        assert sink.finished.stop_string == stop
        assert sink.text == whole.text[: whole.text.find(stop)]
        assert sink.ids == whole.ids[: len(sink.ids)]
        assert len(sink.ids) < len(whole.ids)

    async def test_text_held_for_a_stop_string_is_given_at_the_end(self, subject: Subject) -> None:
        whole = await run(subject, varied())
        last = next(token.text for token in reversed(whole.tokens) if token.text)
        sink = await run(subject, varied(stop_strings=(last + "\0",)))
        assert sink.finished.reason is FinishReason.LENGTH
        assert sink.finished.text.endswith(last)
        assert sink.text == whole.text

    async def test_stop_token_ends_the_stream_and_is_no_output(self, subject: Subject) -> None:
        whole = await run(subject, varied())
        index = next(i for i, token_id in enumerate(whole.ids) if i >= 3 and whole.ids.index(token_id) == i)
        sink = await run(subject, varied(stop_token_ids=(whole.ids[index],)))
        assert sink.finished.reason is FinishReason.STOP
        assert sink.finished.stop_token_id == whole.ids[index]
        assert sink.ids == whole.ids[:index]
        assert sink.finished.completion_tokens == index

    async def test_no_stop_before_min_tokens(self, subject: Subject) -> None:
        first = (await run(subject, varied())).tokens[0]
        by_id = await run(subject, varied(stop_token_ids=(first.token_id,), min_tokens=8))
        by_text = await run(subject, varied(stop_strings=(first.text,), min_tokens=8))
        assert len(by_id.ids) >= 8
        assert len(by_text.ids) >= 8

    async def test_eos_ends_a_stream_unless_it_is_ignored(self, subject: Subject) -> None:
        bias = {subject.eos_token_id: 100.0}
        ends = await run(subject, generation(logit_bias=bias, ignore_eos=False))
        assert ends.finished.reason is FinishReason.STOP
        assert (ends.ids, ends.finished.stop_token_id) == ([], subject.eos_token_id)
        goes_on = await run(subject, generation(logit_bias=bias, ignore_eos=True, max_tokens=5))
        assert goes_on.finished.reason is FinishReason.LENGTH
        assert goes_on.ids == [subject.eos_token_id] * 5
        assert goes_on.text == ""

    @pytest.mark.parametrize("alternatives", [None, 0, 3])
    async def test_logprobs_as_many_as_asked_for(self, subject: Subject, alternatives: int | None) -> None:
        sink = await run(subject, generation(max_tokens=4, logprobs=alternatives))
        for token in sink.tokens:
            if alternatives is None:
                assert token.logprobs is None
                continue
            assert token.logprobs is not None
            assert token.logprobs.logprob <= 0
            values = [logprob for _, logprob in token.logprobs.top]
            assert len(values) == alternatives
            assert values == sorted(values, reverse=True)

    @pytest.mark.parametrize(
        "model_input",
        [PROMPT, ChatInput((("user", "What is a fox?"),)), TokenInput((5, 6, 7))],
        ids=["text", "chat", "tokens"],
    )
    async def test_tokens_counted_are_the_tokens_used(
        self, subject: Subject, model_input: ModelInput
    ) -> None:
        counted = await subject.engine.count_tokens(model_input)
        sink = await run(subject, generation(model_input, max_tokens=1))
        assert counted == sink.finished.prompt_tokens > 0


def invalid_requests(subject: Subject) -> Iterable[tuple[str, GenerationRequest]]:
    vocab, context = subject.model.vocab_size, subject.model.context_tokens
    yield "sampling.top_k", generation(top_k=vocab)
    yield "sampling.logit_bias", generation(logit_bias={vocab: 1.0})
    yield "stopping.stop_token_ids", generation(stop_token_ids=(vocab,))
    yield "tokens.ids", generation(TokenInput((1, vocab)))
    yield "tokens.ids", generation(TokenInput((1,) * context))
    yield "tokens.ids", generation(TokenInput((1,) * (context + 50)), max_tokens=None)
    yield "stopping.max_tokens", generation(TokenInput((1, 2)), max_tokens=context - 1)
    yield "stopping.min_tokens", generation(max_tokens=3, min_tokens=4)


class Refusals:
    """What only the model can tell comes as Failed, and harms nobody else."""

    async def test_invalid_request_fails_with_its_field_and_others_go_on(self, subject: Subject) -> None:
        alone = await run(subject, varied(max_tokens=60))
        bystander = Sink()
        subject.engine.submit(varied(max_tokens=60), bystander)
        for field, request in invalid_requests(subject):
            sink = await run(subject, request)
            assert (sink.failed.reason, sink.failed.field) == (Reason.INVALID_REQUEST, field)
            assert sink.failed.message.startswith(f"{field}: ")
            assert len(sink.events) == 1
        await ended(bystander)
        assert bystander.ids == alone.ids
        await subject.settled()

    async def test_the_largest_that_fits_is_accepted(self, subject: Subject) -> None:
        context = subject.model.context_tokens
        sink = await run(subject, generation(TokenInput((5,) * (context - 2)), max_tokens=2))
        assert sink.finished.completion_tokens == 2

    async def test_the_default_is_clipped_to_the_room_that_is_left(self, subject: Subject) -> None:
        context = subject.model.context_tokens
        sink = await run(subject, generation(TokenInput((5,) * (context - 3)), max_tokens=None))
        assert sink.finished.completion_tokens == 3

    async def test_a_failure_that_was_cancelled_is_not_told(self, subject: Subject) -> None:
        sink = Sink()
        stream = subject.engine.submit(generation(top_k=subject.model.vocab_size), sink)
        subject.engine.cancel(stream)
        await run(subject, generation())
        assert sink.events == []

    async def test_calls_on_unknown_streams_do_nothing(self, subject: Subject) -> None:
        ended_stream = (await run(subject, generation(max_tokens=2))).finished.stream
        for stream in (ended_stream, 10**9):
            subject.engine.pause(stream)
            subject.engine.resume(stream)
            subject.engine.cancel(stream)
        assert len((await run(subject, generation())).ids) == 24


class Cancelling:
    """A cancelled stream is silent at once and its row is free."""

    @pytest.mark.parametrize("after_tokens", [1, 5])
    async def test_no_event_after_cancel_and_the_row_is_free(
        self, subject: Subject, after_tokens: int
    ) -> None:
        def cancel_at_its_token(event: Event) -> None:
            if len(sink.ids) == after_tokens:
                subject.engine.cancel(event.stream)

        sink = Sink(cancel_at_its_token)
        subject.engine.submit(generation(max_tokens=200), sink)
        await eventually(lambda: len(sink.ids) == after_tokens)
        await run(subject, generation())
        assert len(sink.ids) == after_tokens
        assert not sink.ended.is_set()
        await subject.settled()

    async def test_cancel_right_after_submit(self, subject: Subject) -> None:
        sink = Sink()
        subject.engine.cancel(subject.engine.submit(generation(LONG_PROMPT), sink))
        await run(subject, generation())
        assert sink.events == []
        await subject.settled()

    async def test_cancel_of_a_stream_that_waits_for_a_row(self, subject: Subject) -> None:
        running = [Sink() for _ in range(MAX_BATCH_ROWS)]
        for n, sink in enumerate(running):
            subject.engine.submit(generation(max_tokens=60, cache_salt=f"row {n}"), sink)
        waiting = Sink()
        stream = subject.engine.submit(generation(), waiting)
        await eventually(lambda: all(sink.ids for sink in running))
        subject.engine.cancel(stream)
        count = len(waiting.events)
        await ended(*running)
        assert len(waiting.events) == count
        assert all(len(sink.ids) == 60 for sink in running)
        await subject.settled()

    async def test_a_sink_may_cancel_a_stream_beside_it(self, subject: Subject) -> None:
        """Also in the step that has a token for both of them."""

        def cancel_the_others(event: Event) -> None:
            if len(sinks[1].ids) == 3:
                for stream, sink in zip(streams, sinks, strict=True):
                    if sink is not sinks[1]:
                        subject.engine.cancel(stream)
                counts.extend(len(sink.events) for sink in sinks)

        counts: list[int] = []
        sinks = [Sink(), Sink(cancel_the_others), Sink()]
        streams = [subject.engine.submit(generation(), sink) for sink in sinks]
        await ended(sinks[1])
        assert [len(sinks[0].events), len(sinks[2].events)] == [counts[0], counts[2]]
        assert len(sinks[1].ids) == 24
        await subject.settled()


class Lifecycle:
    """Start, stop, and what is refused outside of them. Uses an engine of its own."""

    async def test_nothing_is_accepted_before_start(self, unstarted: Subject) -> None:
        with pytest.raises(EngineError) as refused:
            unstarted.engine.submit(generation(), Sink())
        assert refused.value.reason is Reason.MODEL_LOADING
        assert refused.value.retry_after_s is not None
        with pytest.raises(EngineError):
            await unstarted.engine.count_tokens(PROMPT)
        await unstarted.engine.stop()

    async def test_stop_is_final_silent_and_idempotent(self, fresh: Subject) -> None:
        running, refused = Sink(), Sink()
        fresh.engine.submit(generation(max_tokens=200), running)
        await eventually(lambda: running.ids)
        counting = asyncio.create_task(fresh.engine.count_tokens(PROMPT))
        await asyncio.sleep(0)
        fresh.engine.submit(generation(top_k=10**6), refused)
        count = len(running.events)
        at_the_same_time = asyncio.create_task(fresh.engine.stop())
        await fresh.engine.stop()
        await at_the_same_time
        await fresh.engine.stop()
        assert len(running.events) == count
        assert refused.events == []
        for _ in range(2):
            with pytest.raises(EngineError) as error:
                fresh.engine.submit(generation(), Sink())
            assert error.value.reason is Reason.DRAINING
        # A call that was under way is answered or refused, but never left waiting.
        async with asyncio.timeout(_TIMEOUT_S):
            assert isinstance((await asyncio.gather(counting, return_exceptions=True))[0], int | EngineError)
        fresh.engine.cancel(1)
        fresh.engine.pause(1)
        fresh.engine.resume(1)
