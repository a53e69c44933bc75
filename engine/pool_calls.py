"""Calls to workers that are no streams: counting tokens, and tokenising ahead."""

import asyncio
import itertools

from engine.contract import EngineError
from engine.pool_worker import PoolWorker
from engine.requests import GenerationRequest, ModelInput
from engine.warm_prompts import WarmPrompt, WarmPrompts
from engine.wire import Count, Counted, Tokenise, Tokenised
from flowcontrol.reasons import Reason


class PoolCalls:
    """The calls that workers have not answered, and the prompts that are ready to be submitted."""

    def __init__(self, warm: WarmPrompts) -> None:
        self._warm = warm
        self._numbers = itertools.count(1)
        self._counting: dict[int, tuple[int, asyncio.Future[int]]] = {}

    async def count(self, worker: PoolWorker, model_input: ModelInput) -> int:
        """Raises EngineError; WORKER_LOST when that worker is lost meanwhile."""
        call = next(self._numbers)
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._counting[call] = (worker.index, answer)
        try:
            worker.send(Count(call, model_input))
            return await answer
        finally:
            del self._counting[call]

    def tokenise(self, worker: PoolWorker, request: GenerationRequest, now_s: float) -> int:
        """Have a prompt tokenised. Returns its number, 0 when no answer would be kept."""
        call = next(self._numbers)
        if not self._warm.ask(call, now_s):
            return 0
        worker.send(Tokenise(call, request))
        return call

    def take_warm(self, call: int, now_s: float) -> WarmPrompt | None:
        """The answer to tokenise, if it is there. Either way it is forgotten."""
        return self._warm.take(call, now_s)

    def forget_warm(self, call: int) -> None:
        self._warm.forget(call)

    def take(self, message: Counted | Tokenised) -> None:
        """A worker answers."""
        if isinstance(message, Tokenised):
            if message.reason is None:
                self._warm.answer(message.call, WarmPrompt(message.ids, message.took_s))
            else:
                self._warm.forget(message.call)  # The submitted request will say what is wrong with it.
            return
        _, answer = self._counting.get(message.call, (0, None))
        if answer is None or answer.done():
            return
        if message.reason is None:
            answer.set_result(message.tokens)
        else:
            answer.set_exception(EngineError(message.reason, message.message, field=message.field))

    def lose(self, worker: int) -> None:
        """A worker is gone. What it was to tokenise is tokenised when it is submitted."""
        error = EngineError(Reason.WORKER_LOST, "the model's worker process was lost", retry_after_s=1.0)
        for index, answer in self._counting.values():
            if index == worker and not answer.done():
                answer.set_exception(error)

    def end(self, error: EngineError) -> None:
        """Every call fails."""
        self._warm.clear()
        for _, answer in self._counting.values():
            if not answer.done():
                answer.set_exception(error)
