"""What every Engine does with a prompt that comes in pieces."""

import asyncio
import random
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest

from engine.contract import EngineError
from engine.requests import PartsInput, TextInput
from flowcontrol.reasons import Reason
from tests.engine.conformance import LONG_PROMPT, ended, run, varied
from tests.engine.requests import Sink
from tests.engine.subjects import Subject
from tests.engine.waiting import eventually

# Characters of one, two and four bytes, words and runs that a tokenizer joins over any cut.
MIXED = TextInput("Once upon a time, für Zoë 🦊🐉 the  catcatcat sat.\n\n" * 4)


def cut_at(text: str, positions: Iterable[int]) -> list[str]:
    bounds = [0, *sorted(positions), len(text)]
    return [text[start:end] for start, end in pairwise(bounds)]


def random_cuts(text: str, count: int, seed: int) -> list[str]:
    """Some of the pieces are empty."""
    rng = random.Random(seed)
    return cut_at(text, [rng.randint(0, len(text)) for _ in range(count)])


def begin(subject: Subject, sink: Sink, **changes: Any) -> int:
    return subject.engine.submit(varied(model_input=PartsInput(), **changes), sink)


async def send(subject: Subject, stream: int, pieces: list[str], *, between_s: float = 0.0) -> None:
    for piece in pieces[:-1]:
        subject.engine.add_prompt_part(stream, piece, last=False)
        await asyncio.sleep(between_s)
    subject.engine.add_prompt_part(stream, pieces[-1], last=True)


class Parts:
    """The stream is that of the same text in one piece."""

    @pytest.mark.parametrize("prompt", [LONG_PROMPT, MIXED], ids=["plain", "mixed"])
    async def test_cut_anywhere_equals_one_piece(self, subject: Subject, prompt: TextInput) -> None:
        whole = await run(subject, varied(model_input=prompt))
        text = prompt.text
        ways = [
            [text],
            [text, ""],
            ["", text],
            list(text),
            cut_at(text, [len(text) - 1]),
            cut_at(text, range(7, len(text), 7)),
            *(random_cuts(text, 9, seed) for seed in range(6)),
        ]
        sinks = [Sink() for _ in ways]
        # With time between the pieces of some, so that their beginnings are computed meanwhile.
        await asyncio.gather(
            *(
                send(subject, begin(subject, sink), way, between_s=0.003 * (n % 2))
                for n, (sink, way) in enumerate(zip(sinks, ways, strict=True))
            )
        )
        await ended(*sinks)
        for sink in sinks:
            assert (sink.ids, sink.text) == (whole.ids, whole.text)
            assert sink.finished.prompt_tokens == whole.finished.prompt_tokens
        await subject.settled()

    async def test_nothing_is_generated_before_the_last_piece(self, subject: Subject) -> None:
        sink = Sink()
        stream = begin(subject, sink)
        subject.engine.add_prompt_part(stream, LONG_PROMPT.text, last=False)
        await run(subject, varied())
        assert not sink.ids
        assert not sink.ended.is_set()
        subject.engine.add_prompt_part(stream, "", last=True)
        await ended(sink)
        assert sink.ids == (await run(subject, varied(model_input=LONG_PROMPT))).ids

    async def test_prefill_only_grows_and_comes_before_tokens(self, subject: Subject) -> None:
        sink = Sink()
        stream = begin(subject, sink, max_tokens=3)
        await send(subject, stream, cut_at(LONG_PROMPT.text, [60, 150]), between_s=0.02)
        await ended(sink)
        prefills = sink.prefills
        assert sink.events[: len(prefills)] == prefills
        assert prefills[-1].total == sink.finished.prompt_tokens
        for values in ([p.done for p in prefills], [p.total for p in prefills]):
            assert values == sorted(values)
        assert all(prefill.done <= prefill.total for prefill in prefills)

    async def test_resumed_with_its_prompt_in_pieces(self, subject: Subject) -> None:
        whole = await run(subject, varied(model_input=LONG_PROMPT))
        for cut in (1, 13, 24):
            sink = Sink()
            stream = begin(subject, sink, resume_ids=whole.ids[:cut])
            await send(subject, stream, random_cuts(LONG_PROMPT.text, 5, cut), between_s=0.01)
            await ended(sink)
            assert sink.ids == whole.ids[cut:]
            assert sink.finished.completion_tokens == 24
        await subject.settled()

    @pytest.mark.parametrize("resume_after", [1, 3])
    async def test_paused_between_the_pieces(self, subject: Subject, resume_after: int) -> None:
        sink = Sink()
        stream = begin(subject, sink, max_tokens=100)
        pieces = cut_at(LONG_PROMPT.text, [50, 100])
        for count, piece in enumerate(pieces, start=1):
            subject.engine.pause(stream)
            subject.engine.add_prompt_part(stream, piece, last=count == len(pieces))
            if count == resume_after:
                subject.engine.resume(stream)
            await asyncio.sleep(0.01)
        subject.engine.resume(stream)
        await ended(sink)
        assert sink.ids == (await run(subject, varied(model_input=LONG_PROMPT, max_tokens=100))).ids


class LongTexts:
    """Texts long enough to be tokenised beside: the order of a stream's commands is kept."""

    async def test_they_are_counted_and_refused(self, subject: Subject) -> None:
        text = TextInput("The fox. " * 4000)
        sink = Sink()
        subject.engine.submit(varied(model_input=text), sink)
        assert await subject.engine.count_tokens(text) >= 8000
        await ended(sink)
        assert (sink.failed.reason, sink.failed.field) == (Reason.INVALID_REQUEST, "prompt")

    async def test_one_that_is_cancelled_at_once_is_silent(self, subject: Subject) -> None:
        sinks = [Sink() for _ in range(4)]
        for sink in sinks:
            stream = subject.engine.submit(varied(model_input=TextInput("The fox. " * 4000)), sink)
            subject.engine.cancel(stream)
        await run(subject, varied())
        await subject.engine.count_tokens(TextInput("The fox. " * 4000))
        assert [sink.events for sink in sinks] == [[]] * 4
        await nothing_is_held(subject)


class LeavingParts:
    """A prompt that is never whole leaves nothing behind."""

    @pytest.mark.parametrize("pieces", [0, 1, 2])
    async def test_cancel_between_pieces_frees_everything(self, subject: Subject, pieces: int) -> None:
        sink = Sink()
        stream = begin(subject, sink)
        for piece in [LONG_PROMPT.text, LONG_PROMPT.text][:pieces]:
            subject.engine.add_prompt_part(stream, piece, last=False)
            await asyncio.sleep(0.02)
        subject.engine.cancel(stream)
        subject.engine.add_prompt_part(stream, "more", last=True)
        count = len(sink.events)
        await run(subject, varied())
        assert len(sink.events) == count
        await nothing_is_held(subject)

    async def test_a_prompt_that_grows_too_long_fails_before_its_last_piece(self, subject: Subject) -> None:
        sink = Sink()
        stream = begin(subject, sink)
        subject.engine.add_prompt_part(stream, "The fox", last=False)
        for _ in range(8):
            subject.engine.add_prompt_part(stream, " and the cat" * 100, last=False)
        await ended(sink)
        assert (sink.failed.reason, sink.failed.field) == (Reason.INVALID_REQUEST, "prompt_parts")
        count = len(sink.events)
        subject.engine.add_prompt_part(stream, "more", last=True)
        await run(subject, varied())
        assert len(sink.events) == count
        await nothing_is_held(subject)

    async def test_what_is_too_long_with_the_last_piece_fails(self, subject: Subject) -> None:
        sink = Sink()
        await send(subject, begin(subject, sink), ["The fox", " and the cat" * 400])
        await ended(sink)
        assert sink.failed.field == "prompt_parts"
        await nothing_is_held(subject)

    async def test_an_empty_prompt_fails_with_its_last_piece(self, subject: Subject) -> None:
        sink = Sink()
        await send(subject, begin(subject, sink), ["", "", ""])
        await ended(sink)
        assert (sink.failed.reason, sink.failed.field) == (Reason.INVALID_REQUEST, "prompt_parts")
        await nothing_is_held(subject)

    async def test_what_needs_no_prompt_is_refused_before_it_comes(self, subject: Subject) -> None:
        vocab = subject.model.vocab_size
        for field, changes in (
            ("sampling.top_k", {"top_k": vocab}),
            ("stopping.stop_token_ids", {"stop_token_ids": (vocab,)}),
            ("resume.token_ids", {"resume_ids": (vocab,)}),
        ):
            sink = Sink()
            stream = begin(subject, sink, **changes)
            subject.engine.add_prompt_part(stream, "The fox", last=False)
            await ended(sink)
            assert sink.failed.field == field
            subject.engine.add_prompt_part(stream, " sat", last=True)
        await nothing_is_held(subject)

    async def test_what_only_the_whole_prompt_tells_is_refused_at_its_end(self, subject: Subject) -> None:
        too_many = subject.model.context_tokens
        for field, changes in (
            ("stopping.max_tokens", {"max_tokens": too_many}),
            ("stopping.min_tokens", {"max_tokens": 3, "min_tokens": 4}),
            ("resume.token_ids", {"max_tokens": 3, "resume_ids": (5, 6, 7, 8)}),
        ):
            sink = Sink()
            await send(subject, begin(subject, sink, **changes), ["The fox", " sat"], between_s=0.01)
            await ended(sink)
            assert sink.failed.field == field
        await nothing_is_held(subject)

    async def test_pieces_of_other_streams_do_nothing(self, subject: Subject) -> None:
        sink = Sink()
        stream = subject.engine.submit(varied(), sink)
        for other in (stream, 10**9):
            subject.engine.add_prompt_part(other, "more", last=False)
            subject.engine.add_prompt_part(other, "more", last=True)
        await ended(sink)
        assert sink.ids == (await run(subject, varied())).ids

    async def test_a_prompt_that_is_not_there_cannot_be_counted(self, subject: Subject) -> None:
        with pytest.raises(EngineError) as refused:
            await subject.engine.count_tokens(PartsInput())
        assert refused.value.field == "prompt_parts"


async def nothing_is_held(subject: Subject) -> None:
    await subject.settled()

    def held() -> tuple[int, int]:
        counters = subject.engine.snapshot().counters
        return counters.kv_bytes, counters.parked_kv_bytes

    await eventually(lambda: held() == (0, 0))
