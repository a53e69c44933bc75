"""What is kept of a stream, so that it can go on with another worker."""

from dataclasses import dataclass, field

import msgspec

from engine.contract import EventSink
from engine.events import Finished
from engine.requests import GenerationRequest, PartsInput
from engine.wire import Command, PromptPart, Submit


@dataclass(slots=True, eq=False)
class StreamRecord:
    """One stream from submit to its end. Times are in seconds of one clock.

    number: streams are served in its order. keys: of its input, see engine.affinity. warm_s: what
    tokenising took before it was submitted. worker: index of the one that has it. delivered: tokens
    that its sink has had. unproven: no token since it came to its worker. strikes, on_trial: see
    engine.suspects. whole: the last piece of its prompt is there. lost: its worker was, and it has not
    gone on yet. position: told of its place in the queue. given_s: when it came to its worker.
    """

    number: int
    request: GenerationRequest
    sink: EventSink
    keys: tuple[int, ...]
    submitted_s: float
    warm_s: float = 0.0
    worker: int | None = None
    delivered: list[int] = field(default_factory=list)
    paused: bool = False
    unproven: bool = True
    strikes: int = 0
    on_trial: bool = False
    whole: bool = True
    lost: bool = False
    position: int = 0
    given_s: float = 0.0
    _pieces: list[str] = field(default_factory=list)
    _queued_s: float = 0.0
    _first_token_s: float | None = None

    def __post_init__(self) -> None:
        self.whole = not isinstance(self.request.input, PartsInput)

    def add_piece(self, text: str, *, last: bool) -> None:
        """The next piece of a prompt that is not whole."""
        if text:
            self._pieces.append(text)
        self.whole = last

    def commands(self) -> list[Command]:
        """What gives the stream to a worker as it is now: prompt, and output to go on after."""
        request = self.request
        if self.delivered:
            held = request.resume_ids + tuple(self.delivered)
            request = msgspec.structs.replace(request, resume_ids=held)
        commands: list[Command] = [Submit(self.number, request)]
        if isinstance(request.input, PartsInput) and (self._pieces or self.whole):
            self._pieces = ["".join(self._pieces)]
            commands.append(PromptPart(self.number, self._pieces[0], self.whole))
        return commands

    def take_token(self, token_id: int, now_s: float) -> None:
        """The sink gets a token."""
        self.delivered.append(token_id)
        if self._first_token_s is None:
            self._first_token_s = now_s
            self._queued_s = self.given_s - self.submitted_s
        self.unproven = self.on_trial = False
        self.strikes = 0

    def finished(self, end: Finished, now_s: float) -> Finished:
        """The end as the whole stream had it; a worker knows only of the time that the stream was there."""
        changes = {"tokenise_s": end.tokenise_s + self.warm_s}
        first_s = self._first_token_s
        if first_s is None or first_s >= self.given_s:
            changes["queue_s"] = end.queue_s + self.given_s - self.submitted_s
        else:
            changes["queue_s"] = self._queued_s
            changes["prefill_s"] = first_s - self.submitted_s - self._queued_s
            changes["decode_s"] = now_s - first_s
        return msgspec.structs.replace(end, **changes)
