"""Lets equal requests in flight share one row of an engine."""

import asyncio
import itertools
from collections.abc import Callable
from hashlib import sha256

import msgspec

from engine.contract import Engine, EngineSnapshot, EngineTuning, EventSink
from engine.requests import GenerationRequest, ModelInput, PartsInput
from engine.shared_row import SharedRow, Subscriber

Soon = Callable[[Callable[[], None]], object]
"""Has a function called in a later turn of the event loop."""


def _in_the_next_turn(function: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(function)


class CoalescingEngine:
    """Implements Engine over another one. Equal requests whose output is determined are computed once.

    Requests are equal in all that decides the output: input, sampling, stopping, logprobs, resume_ids and
    cache_salt; and in prefix_cache and speculate, so that the arms of a canary do not share. At
    temperature 0 the seed decides nothing; otherwise it must be equal too, so sampled requests whose seed was
    drawn for them never share. Prompts that come in pieces never share either.

    A subscriber that joins gets what was generated before, of the Prefills the latest. Each one pauses,
    resumes and cancels by itself: the row is paused while all are, and cancelled with the last one. All
    events are kept, once for all subscribers, while one may still join and until the last one has taken
    them. An end is given to a paused subscriber that has had all tokens; other ends wait for its resume.
    Interrupted comes at once, also to one that is paused. The durations in Finished are those of the row,
    whenever a subscriber joined. Snapshots count rows.
    """

    def __init__(self, inner: Engine, *, soon: Soon = _in_the_next_turn) -> None:
        """inner: owned from here on."""
        self._inner = inner
        self._soon = soon
        # Negative: what is not shared keeps the number of the inner engine.
        self._numbers = itertools.count(-1, -1)
        self._subscribers: dict[int, Subscriber] = {}
        self._rows: dict[bytes, SharedRow] = {}

    async def start(self) -> None:
        await self._inner.start()

    async def stop(self) -> None:
        for subscriber in self._subscribers.values():
            subscriber.gone = True
        self._subscribers.clear()
        self._rows.clear()
        await self._inner.stop()

    def check_ready(self) -> None:
        self._inner.check_ready()

    def prepare(self, request: GenerationRequest) -> int:
        return self._inner.prepare(request)

    def forget(self, prepared: int) -> None:
        self._inner.forget(prepared)

    def submit(self, request: GenerationRequest, sink: EventSink, *, prepared: int = 0) -> int:
        if isinstance(request.input, PartsInput):
            return self._inner.submit(request, sink, prepared=prepared)
        key = _key(request)
        row = self._rows.get(key)
        if row is None:
            row = SharedRow(key, on_end=self._forget, on_gone=self._remove)
            row.stream = self._inner.submit(request, row.take, prepared=prepared)
            self._rows[key] = row
            return self._subscribe(row, sink).number
        self._inner.check_ready()
        if prepared:
            self._inner.forget(prepared)
        subscriber = self._subscribe(row, sink)
        self._settle(row)
        self._give_soon(subscriber)
        return subscriber.number

    def add_prompt_part(self, stream: int, text: str, *, last: bool) -> None:
        self._inner.add_prompt_part(stream, text, last=last)

    def cancel(self, stream: int) -> None:
        subscriber = self._subscribers.get(stream)
        if subscriber is None:
            self._inner.cancel(stream)
            return
        self._remove(subscriber)
        self._settle(subscriber.row)

    def pause(self, stream: int) -> None:
        subscriber = self._subscribers.get(stream)
        if subscriber is None:
            self._inner.pause(stream)
            return
        subscriber.paused = True
        self._settle(subscriber.row)

    def resume(self, stream: int) -> None:
        subscriber = self._subscribers.get(stream)
        if subscriber is None:
            self._inner.resume(stream)
            return
        if subscriber.paused:
            subscriber.paused = False
            self._settle(subscriber.row)
            self._give_soon(subscriber)

    async def count_tokens(self, model_input: ModelInput) -> int:
        return await self._inner.count_tokens(model_input)

    def tune(self, tuning: EngineTuning) -> None:
        self._inner.tune(tuning)

    def restart_worker(self, index: int, why: str) -> None:
        self._inner.restart_worker(index, why)

    def snapshot(self) -> EngineSnapshot:
        return self._inner.snapshot()

    def _subscribe(self, row: SharedRow, sink: EventSink) -> Subscriber:
        subscriber = Subscriber(next(self._numbers), row, sink)
        row.subscribers.append(subscriber)
        self._subscribers[subscriber.number] = subscriber
        return subscriber

    def _remove(self, subscriber: Subscriber) -> None:
        """It has had the end, or wants no more."""
        subscriber.gone = True
        del self._subscribers[subscriber.number]
        subscriber.row.subscribers.remove(subscriber)

    def _settle(self, row: SharedRow) -> None:
        """Let the engine do what the subscribers want together."""
        if row.ended:
            return
        if not row.subscribers:
            self._forget(row)
            self._inner.cancel(row.stream)
        elif row.wanted == row.paused:
            row.paused = not row.wanted
            (self._inner.pause if row.paused else self._inner.resume)(row.stream)

    def _give_soon(self, subscriber: Subscriber) -> None:
        """A call of the subscriber's own must have returned before its sink is called."""

        self._soon(lambda: subscriber.row.give(subscriber))

    def _forget(self, row: SharedRow) -> None:
        """Nobody can join any more."""
        if self._rows.get(row.key) is row:
            del self._rows[row.key]


def _key(request: GenerationRequest) -> bytes:
    """Equal for requests with the same output. A digest, since inputs are long."""
    sampling = request.sampling
    biases = sorted(sampling.logit_bias.items())  # A dict has an order, which decides nothing.
    seed = sampling.seed if sampling.temperature != 0 else 0
    sampling = msgspec.structs.replace(sampling, seed=seed, logit_bias={})
    request = msgspec.structs.replace(request, sampling=sampling)
    return sha256(msgspec.msgpack.encode((request, biases))).digest()
