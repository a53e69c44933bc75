"""What every Engine does when it is tuned, or told to restart a worker, while streams run."""

import asyncio
from dataclasses import replace

import pytest

from engine.contract import AS_CONFIGURED, EngineError, EngineTuning, WorkerState
from engine.events import Event, Interrupted, Token
from engine.requests import PartsInput
from flowcontrol.reasons import Reason
from tests.engine.conformance import LONG_PROMPT, ended, run, varied
from tests.engine.requests import Sink, generation
from tests.engine.subjects import Subject
from tests.engine.waiting import eventually

SMALL = EngineTuning(prefill_step_tokens=8, max_prefix_cache_bytes=0, max_parked_kv_bytes=None)


async def whole(subject: Subject) -> None:
    """Wait until every worker is ready."""
    await eventually(
        lambda: all(worker.state is WorkerState.READY for worker in subject.engine.snapshot().workers), 90.0
    )


def restart_all(subject: Subject) -> None:
    for worker in subject.engine.snapshot().workers:
        subject.engine.restart_worker(worker.index, "a test")


def restarting_sink(subject: Subject, *, at: int) -> Sink:
    """Has all workers restarted after so many tokens, as soon as its call has returned."""

    def react(event: Event) -> None:
        if isinstance(event, Token) and len(sink.ids) == at:
            asyncio.get_running_loop().call_soon(restart_all, subject)

    sink = Sink(react)
    return sink


class Tuning:
    """Other values change when something is computed, never what."""

    async def test_a_stream_that_is_tuned_under_way_gives_the_same_tokens(self, subject: Subject) -> None:
        reference = await run(subject, varied(LONG_PROMPT, max_tokens=40))
        sinks = [Sink() for _ in range(3)]
        for sink in sinks:
            subject.engine.submit(varied(LONG_PROMPT, max_tokens=40), sink)
            subject.engine.tune(SMALL)
            assert subject.engine.snapshot().tuning == SMALL
        await eventually(lambda: all(sink.ids for sink in sinks))
        subject.engine.tune(AS_CONFIGURED)
        await ended(*sinks)
        assert subject.engine.snapshot().tuning == AS_CONFIGURED
        assert [sink.ids for sink in sinks] == [reference.ids] * 3

    @pytest.mark.parametrize(
        ("name", "value"),
        [("prefill_step_tokens", 0), ("max_prefix_cache_bytes", -1), ("max_parked_kv_bytes", -1)],
    )
    async def test_values_that_cannot_be_are_named(self, subject: Subject, name: str, value: int) -> None:
        with pytest.raises(ValueError, match=f"^{name} must be at least "):
            replace(AS_CONFIGURED, **{name: value})


class Restarting:
    """A worker is restarted on purpose."""

    async def test_its_streams_go_on_without_a_token_lost(self, subject: Subject) -> None:
        await whole(subject)
        request = varied(LONG_PROMPT, max_tokens=60)
        reference = await run(subject, request)
        before = subject.engine.snapshot()
        sink, paused = restarting_sink(subject, at=5), Sink()
        resting = subject.engine.submit(varied(max_tokens=20), paused)
        subject.engine.pause(resting)
        subject.engine.submit(request, sink)
        await ended(sink)
        assert sink.ids == reference.ids
        assert sink.text == reference.text
        assert sum(isinstance(event, Interrupted) for event in sink.events) == 1
        subject.engine.resume(resting)
        await ended(paused)
        assert len(paused.ids) == 20
        await whole(subject)
        after = subject.engine.snapshot()
        assert [
            now.restarts - then.restarts for now, then in zip(after.workers, before.workers, strict=True)
        ] == [1] * len(before.workers)
        assert after.failovers - before.failovers == 2
        await subject.settled()

    async def test_a_prompt_in_pieces_goes_on(self, subject: Subject) -> None:
        await whole(subject)
        reference = await run(subject, varied(LONG_PROMPT))
        sink = Sink()
        stream = subject.engine.submit(varied(PartsInput()), sink)
        text = LONG_PROMPT.text
        subject.engine.add_prompt_part(stream, text[:100], last=False)
        restart_all(subject)
        subject.engine.add_prompt_part(stream, text[100:], last=True)
        await ended(sink)
        assert sink.ids == reference.ids
        await whole(subject)
        await subject.settled()

    @pytest.mark.parametrize("index", [-1, 17])
    async def test_a_worker_that_is_not_there_is_named(self, subject: Subject, index: int) -> None:
        with pytest.raises(EngineError, match=f"^index: there is no worker {index}; allowed: 0") as refused:
            subject.engine.restart_worker(index, "a test")
        assert (refused.value.reason, refused.value.field) == (Reason.INVALID_REQUEST, "index")


class RestartingOutOfTurn:
    """Uses an engine of its own."""

    async def test_a_worker_without_its_model_is_not_restarted(self, unstarted: Subject) -> None:
        with pytest.raises(EngineError) as refused:
            unstarted.engine.restart_worker(0, "a test")
        assert refused.value.reason is Reason.MODEL_LOADING
        await unstarted.engine.stop()
        with pytest.raises(EngineError) as refused:
            unstarted.engine.restart_worker(0, "a test")
        assert refused.value.reason is Reason.DRAINING

    async def test_stop_while_a_worker_restarts(self, fresh: Subject) -> None:
        await whole(fresh)
        sink = restarting_sink(fresh, at=2)
        fresh.engine.submit(generation(max_tokens=200), sink)
        await eventually(lambda: any(isinstance(event, Interrupted) for event in sink.events))
        await fresh.engine.stop()
        count = len(sink.events)
        await asyncio.sleep(0)
        assert len(sink.events) == count
