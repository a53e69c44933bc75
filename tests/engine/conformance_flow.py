"""What every Engine does when streams pause, go on, join and leave."""

import asyncio
from typing import Any

import pytest

from engine.events import Event, Token
from engine.requests import GenerationRequest, TextInput
from tests.engine.conformance import LONG_PROMPT, ended, run, varied
from tests.engine.requests import Sink, generation
from tests.engine.subjects import MAX_BATCH_ROWS, Subject
from tests.engine.waiting import eventually

# Tokens enough for a pause to arrive before the end, however late the test's process gets its turn.
LONG = 100


async def more_tokens(sink: Sink, count: int) -> None:
    """Wait until the stream has so many tokens, or has ended."""
    await eventually(lambda: sink.ended.is_set() or len(sink.ids) >= count)


def pausing(subject: Subject, every_tokens: int) -> Sink:
    """A sink that pauses its stream at every n-th token."""

    def react(event: Event) -> None:
        if isinstance(event, Token) and len(sink.ids) % every_tokens == 0:
            subject.engine.pause(event.stream)

    sink = Sink(react)
    return sink


class Pausing:
    """A paused stream gives nothing, holds no row, and goes on exactly where it stopped."""

    async def test_no_token_while_paused_beyond_the_step_under_way(self, subject: Subject) -> None:
        sink = pausing(subject, 5)
        stream = subject.engine.submit(varied(max_tokens=LONG), sink)
        await subject.settled(paused=1)
        count = len(sink.ids)
        # The pause may cross to another process, which makes steps until it sees it.
        assert 5 <= count < LONG
        other = await run(subject, varied(max_tokens=40))
        assert len(other.ids) == 40
        assert len(sink.ids) == count
        subject.engine.cancel(stream)
        await subject.settled()

    @pytest.mark.parametrize("changes", [{"temperature": 1.0}, {"repetition_penalty": 1.3}])
    async def test_resumed_stream_goes_on_exactly_where_it_stopped(
        self, subject: Subject, changes: dict[str, Any]
    ) -> None:
        request = generation(LONG_PROMPT, seed=5, max_tokens=64, **changes)
        unpaused = await run(subject, request)
        sink = pausing(subject, 4)
        stream = subject.engine.submit(request, sink)
        pauses = 0
        while not sink.ended.is_set():
            seen = len(sink.ids)
            await more_tokens(sink, (seen // 4 + 1) * 4)
            await subject.settled(paused=1, unless=sink)
            subject.engine.resume(stream)
            pauses += 1
        assert pauses > 2
        assert (sink.ids, sink.text) == (unpaused.ids, unpaused.text)
        assert sink.finished.completion_tokens == 64

    async def test_pause_and_resume_in_one_go_change_nothing(self, subject: Subject) -> None:
        unpaused = await run(subject, varied(max_tokens=40))

        def twitch(event: Event) -> None:
            subject.engine.pause(event.stream)
            subject.engine.resume(event.stream)

        sink = Sink(twitch)
        subject.engine.submit(varied(max_tokens=40), sink)
        await ended(sink)
        assert (sink.ids, sink.text) == (unpaused.ids, unpaused.text)

    async def test_pause_before_the_first_token(self, subject: Subject) -> None:
        request = varied(max_tokens=LONG)
        unpaused = await run(subject, request)
        sink = Sink()
        stream = subject.engine.submit(request, sink)
        subject.engine.pause(stream)
        await subject.settled(paused=1)
        assert len(sink.ids) < LONG
        subject.engine.resume(stream)
        await ended(sink)
        assert sink.ids == unpaused.ids

    async def test_cancel_while_paused(self, subject: Subject) -> None:
        sink = pausing(subject, 2)
        stream = subject.engine.submit(varied(max_tokens=LONG), sink)
        await subject.settled(paused=1)
        subject.engine.cancel(stream)
        subject.engine.resume(stream)
        count = len(sink.events)
        await run(subject, generation())
        assert len(sink.events) == count
        await subject.settled()

    async def test_resume_of_a_stream_that_is_not_paused_does_nothing(self, subject: Subject) -> None:
        undisturbed = await run(subject, varied())
        sink = Sink(lambda event: subject.engine.resume(event.stream))
        subject.engine.submit(varied(), sink)
        await ended(sink)
        assert sink.ids == undisturbed.ids

    async def test_paused_rows_leave_their_places_to_others(self, subject: Subject) -> None:
        paused = [pausing(subject, 2) for _ in range(MAX_BATCH_ROWS)]
        streams = [
            subject.engine.submit(varied(max_tokens=LONG, cache_salt=f"row {n}"), sink)
            for n, sink in enumerate(paused)
        ]
        await subject.settled(paused=MAX_BATCH_ROWS)
        others = [Sink() for _ in range(MAX_BATCH_ROWS)]
        for n, sink in enumerate(others):
            subject.engine.submit(varied(cache_salt=f"row {n}"), sink)
        await ended(*others)
        assert not any(sink.ended.is_set() for sink in paused)
        for stream, sink in zip(streams, paused, strict=True):
            sink.react = lambda event: None
            subject.engine.resume(stream)
        await ended(*paused)
        assert all(sink.ids == paused[0].ids and len(sink.ids) == LONG for sink in paused)


def crowd() -> list[GenerationRequest]:
    """Requests that differ in prompt, length, seed and way of sampling."""
    openings = ["Once upon a time", "The fox", "In the old forest a small cat looked for", "Hello"]
    ways: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0},
        {"temperature": 0.8, "top_p": 0.9, "frequency_penalty": 0.5},
        {"temperature": 0.7, "top_k": 20, "min_p": 0.02},
        {"temperature": 1.0, "xtc_probability": 0.5, "repetition_penalty": 1.2},
    ]
    return [
        generation(
            TextInput(openings[n % len(openings)] * (1 + n % 3)),
            seed=1000 + n,
            max_tokens=10 + 3 * n,
            **ways[n % len(ways)],
        )
        for n in range(12)
    ]


class Crowds:
    """Streams beside a stream do not change it."""

    async def test_joining_and_leaving_streams_do_not_change_each_others_tokens(
        self, subject: Subject
    ) -> None:
        alone = [await run(subject, request) for request in crowd()]
        sinks: list[tuple[int, Sink]] = []
        for n, request in enumerate(crowd()):
            sink = pausing(subject, 7) if n % 4 == 1 else Sink()
            sinks.append((subject.engine.submit(request, sink), sink))
            # More arrive while the first ones decode; some of them leave again.
            passer_by = Sink(lambda event: subject.engine.cancel(event.stream)) if n % 2 else Sink()
            subject.engine.submit(generation(max_tokens=5 + n), passer_by)
            if n % 3 == 2:
                first = sinks[0][1]
                await more_tokens(first, len(first.ids) + 1)

        while not all(sink.ended.is_set() for _, sink in sinks):
            for stream, _ in sinks:
                subject.engine.resume(stream)
            await asyncio.sleep(0.01)
        for (_, sink), reference in zip(sinks, alone, strict=True):
            assert (sink.ids, sink.text) == (reference.ids, reference.text)
        await subject.settled()

    async def test_more_streams_than_rows_are_all_served(self, subject: Subject) -> None:
        sinks = [Sink() for _ in range(3 * MAX_BATCH_ROWS)]
        for n, sink in enumerate(sinks):
            subject.engine.submit(varied(cache_salt=f"row {n}"), sink)
        await ended(*sinks)
        assert all(sink.ids == sinks[0].ids for sink in sinks)

    async def test_counters_count_what_was_generated(self, subject: Subject) -> None:
        await subject.settled()
        before = subject.engine.snapshot().counters
        await run(subject, generation(max_tokens=20))

        def counted() -> bool:
            after = subject.engine.snapshot().counters
            return (
                after.generated_tokens - before.generated_tokens == 20
                and after.decode_steps - before.decode_steps >= 20
            )

        await eventually(counted)
