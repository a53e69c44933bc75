"""One request at the governor, from asking to its end."""

from enum import Enum
from typing import Protocol

from flowcontrol.admission.ask import Ask, Outcome, Refusal, ServiceClass
from flowcontrol.admission.entry import Entry
from flowcontrol.admission.tenants import Tenant


class TicketState(Enum):
    """Where a request is."""

    WAITING = "waiting"
    ADMITTED = "admitted"
    """It holds a permit."""
    REFUSED = "refused"
    """It waited, and will not be admitted."""
    ENDED = "ended"


class Owner(Protocol):
    """Who gave the ticket; told what becomes of it."""

    def prompt_known(self, ticket: "Ticket", tokens: int) -> None: ...
    def place_known(self, ticket: "Ticket", has_place: bool) -> None: ...
    def left_engine(self, ticket: "Ticket") -> None: ...
    def first_token(self, ticket: "Ticket", now_s: float) -> None: ...
    def ended(self, ticket: "Ticket", outcome: Outcome, output_tokens: int, now_s: float) -> None: ...


class Ticket(Entry):
    """A request that was not refused at once. Made by the governor; the caller must end it, whatever happens.

    After `end` the caller asks the governor to `decide`: somebody else's waiting may be over.
    """

    __slots__ = (
        "_owner",
        "admitted_s",
        "doubtful",
        "first_token_s",
        "has_place",
        "interrupted",
        "prefill_tokens",
        "prompt_tokens",
        "refusal",
        "state",
        "waited_in_engine",
    )

    def __init__(
        self,
        owner: Owner,
        ask: Ask,
        tenant: Tenant,
        *,
        service_class: ServiceClass,
        output_tokens: int,
        since_s: float,
        expires_s: float,
    ) -> None:
        super().__init__(
            ask,
            tenant,
            service_class=service_class,
            output_tokens=output_tokens,
            since_s=since_s,
            expires_s=expires_s,
        )
        self._owner = owner
        self.state = TicketState.WAITING
        self.refusal: Refusal | None = None
        """Why the waiting ended badly, in state REFUSED."""
        self.prompt_tokens = ask.prompt_tokens
        """Estimated until the prompt is known."""
        self.doubtful = False
        """Whether it was predicted to be far too late when that was last looked at."""
        self.admitted_s = 0.0
        self.first_token_s: float | None = None
        self.prefill_tokens = 0
        """To compute before this stream's first token: its own and those under way when it was admitted."""
        self.has_place: bool | None = None
        """Whether the engine has a place for it in its batch; None before it has told, and in the end."""
        self.waited_in_engine = False
        """Whether it had none at any time: more streams were in flight than the engine can run."""
        self.interrupted = False
        """Whether it lost its worker: nothing is learned from its times."""

    def prompt_known(self, tokens: int) -> None:
        """The engine has tokenised the prompt."""
        self._owner.prompt_known(self, tokens)

    def place_known(self, has_place: bool) -> None:
        """Whether the engine has a place for the stream in its batch. When it gets one, ask for `decide`."""
        self._owner.place_known(self, has_place)

    def left_engine(self) -> None:
        """The engine has ended the stream, and its place is free; the stream may have more to do."""
        self._owner.left_engine(self)

    def first_token(self, now_s: float) -> None:
        """The first token is there. Later calls do nothing."""
        self._owner.first_token(self, now_s)

    def end(self, outcome: Outcome, output_tokens: int, now_s: float) -> None:
        """Give the permit back, or leave the queue. Later calls do nothing."""
        self._owner.ended(self, outcome, output_tokens, now_s)
