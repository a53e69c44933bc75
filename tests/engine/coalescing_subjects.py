"""A CoalescingEngine over a scripted one whose steps, and whose turns of the loop, the test makes."""

from collections.abc import Callable

from engine.coalescing import CoalescingEngine
from engine.contract import EngineError, EventSink
from engine.events import Event, Finished, FinishReason, Interrupted, Token
from engine.requests import GenerationRequest
from engine.scripted import ScriptedEngine
from flowcontrol.reasons import Reason
from tests.engine.requests import Sink
from tests.engine.subjects import seeded_words

TOKENS = 20


class CountingEngine(ScriptedEngine):
    """Keeps the numbers and sinks of its rows. forgotten: prepared requests that were given up.

    restarting: takes no stream, as a pool whose workers are lost while their streams live on.
    """

    def __init__(self) -> None:
        super().__init__(
            seeded_words,
            step_s=None,
            steps_per_turn=1,
            max_batch_rows=3,
            context_tokens=256,
            default_max_tokens=TOKENS,
            vocab_size=1024,
        )
        self.submitted: dict[int, EventSink] = {}
        self.forgotten: list[int] = []
        self.restarting = False

    def check_ready(self) -> None:
        if self.restarting:
            raise EngineError(Reason.MODEL_LOADING, "no worker is ready", retry_after_s=1.0)
        super().check_ready()

    def submit(self, request: GenerationRequest, sink: EventSink, *, prepared: int = 0) -> int:
        stream = super().submit(request, sink, prepared=prepared)
        self.submitted[stream] = sink
        return stream

    def prepare(self, request: GenerationRequest) -> int:
        return 7

    def forget(self, prepared: int) -> None:
        self.forgotten.append(prepared)


class Coalescing:
    """The engine, the one within it, and what is due in the next turn of the loop."""

    def __init__(self) -> None:
        self.inner = CountingEngine()
        self.due: list[Callable[[], None]] = []
        self.engine = CoalescingEngine(self.inner, soon=self.due.append)

    def turn(self) -> None:
        due = self.due.copy()
        self.due.clear()
        for function in due:
            function()

    def submit(
        self, request: GenerationRequest, react: Callable[[Event], None] = lambda event: None
    ) -> "Caller":
        caller = Caller(react)
        caller.number = self.engine.submit(request, caller)
        return caller

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.inner.step()

    @property
    def rows(self) -> int:
        """Rows that the inner engine has."""
        return self.inner.snapshot().workers[0].streams

    @property
    def paused_rows(self) -> int:
        return self.inner.snapshot().counters.paused_rows

    @property
    def generated(self) -> int:
        return self.inner.snapshot().counters.generated_tokens


class Caller(Sink):
    """One subscriber."""

    number = 0

    @property
    def interruptions(self) -> int:
        return sum(isinstance(event, Interrupted) for event in self.events)

    @property
    def has_all(self) -> bool:
        """Whether the stream ended well, with as many tokens as it has when nobody disturbs it."""
        end = self.events[-1] if self.events else None
        whole = isinstance(end, Finished) and end.reason is FinishReason.LENGTH
        return whole and len(self.ids) == TOKENS


def unbroken(request: GenerationRequest) -> list[int]:
    """The tokens that the request is answered with."""
    words = seeded_words(request)
    return [next(words)[0] for _ in range(TOKENS)]


def is_in_order(caller: Caller) -> bool:
    """All events are the caller's own; prefill, tokens, and at most one end after them."""
    if {event.stream for event in caller.events} - {caller.number}:
        return False
    firsts = [isinstance(event, Token) for event in caller.events if not isinstance(event, Interrupted)]
    ends = [event for event in caller.events if isinstance(event, Finished)]
    return len(ends) <= 1 and (not any(firsts) or firsts.index(True) <= len(caller.prefills))
