"""The streams in flight, and when their permits will be free."""

from collections.abc import Sequence

from flowcontrol.admission.ask import ServiceClass
from flowcontrol.admission.gate import Gate
from flowcontrol.admission.places import EnginePlaces
from flowcontrol.admission.ticket import Ticket

# What is left of a stream that has run for longer than expected, as a share of what was expected.
_OVERDUE_SHARE = 0.25
# From this spread on the order in which streams end tells nothing.
_UNFORESEEN_SPREAD = 0.5


class Permits:
    """The tickets that hold a permit."""

    def __init__(self) -> None:
        self._tickets: dict[Ticket, None] = {}
        self.by_class: dict[ServiceClass, int] = dict.fromkeys(ServiceClass, 0)
        self.prefill_tokens = 0
        """Prompt tokens of streams that have no first token yet."""
        self.kv_tokens = 0
        """Prompt and expected output of all streams in flight."""
        self.output_tokens = 0
        """Expected of all streams in flight."""
        self.places = EnginePlaces()
        # Streams of which the engine has told that it has a place for them in its batch, or none.
        self._told = {True: 0, False: 0}
        self.decoding = 0
        """Streams that have their first token."""

    def __len__(self) -> int:
        return len(self._tickets)

    def add(self, ticket: Ticket, now_s: float) -> None:
        ticket.admitted_s = now_s
        self._tickets[ticket] = None
        self.by_class[ticket.service_class] += 1
        self.prefill_tokens += ticket.prompt_tokens
        self.output_tokens += ticket.output_tokens
        self.kv_tokens += ticket.prompt_tokens + ticket.output_tokens
        ticket.prefill_tokens = self.prefill_tokens

    def prompt_known(self, ticket: Ticket, tokens: int) -> None:
        more = tokens - ticket.prompt_tokens
        ticket.prompt_tokens = tokens
        self.kv_tokens += more
        if ticket.first_token_s is None:
            self.prefill_tokens += more
            ticket.prefill_tokens += more

    def place_known(self, ticket: Ticket, has_place: bool) -> None:
        if has_place is not ticket.has_place:
            self.left_engine(ticket)
            self._told[has_place] += 1
            ticket.has_place = has_place
            ticket.waited_in_engine |= not has_place
            self.places.see(self._told[True], self._told[False])

    def left_engine(self, ticket: Ticket) -> None:
        if ticket.has_place is not None:
            self._told[ticket.has_place] -= 1
            ticket.has_place = None

    def next_interval(self) -> None:
        """What is seen of the engine's places counts for this interval and the next one."""
        self.places.next_interval(self._told[True], self._told[False])

    def first_token(self, ticket: Ticket, now_s: float) -> None:
        ticket.first_token_s = now_s
        self.place_known(ticket, True)
        self.prefill_tokens -= ticket.prompt_tokens
        self.decoding += 1

    def remove(self, ticket: Ticket) -> None:
        del self._tickets[ticket]
        self.left_engine(ticket)
        self.by_class[ticket.service_class] -= 1
        self.output_tokens -= ticket.output_tokens
        self.kv_tokens -= ticket.prompt_tokens + ticket.output_tokens
        if ticket.first_token_s is None:
            self.prefill_tokens -= ticket.prompt_tokens
        else:
            self.decoding -= 1

    def left_s(self, gate: Gate, now_s: float) -> list[float]:
        """For how long the streams that the engine has places for will still be there, the shortest first."""
        # In one loop: every request is judged by it, and there may be hundreds of streams.
        token_s = gate.hold_s(1)
        left_s = []
        for ticket in self._tickets:
            hold_s = ticket.output_tokens * token_s
            if ticket.first_token_s is None:
                due_s = ticket.admitted_s + gate.service_s(ticket.prefill_tokens)
                left_s.append(max(0.0, due_s - now_s) + hold_s)
            else:
                left_s.append(max(_OVERDUE_SHARE * hold_s, ticket.first_token_s + hold_s - now_s))
        left_s.sort()
        # Those that wait in the engine have everything before them, and so are the last ones.
        return left_s[: self.places.count]


def slot_wait_s(place: int, left_s: Sequence[float], hold_s: float, spread: float) -> float:
    """When the place-th of those who wait can run; 0 for one who can now.

    place: 1 for who is next, 0 or less while there is room. left_s: of Permits. hold_s: mean time
    for which one is held. spread: of HoldTime. Streams that end as foretold free their permits in the order
    of what is left of them, and again after those who take them; streams of which nothing can be foretold
    do so evenly, one in hold_s / n (Little's law). In between, in between.
    """
    if place <= 0 or not left_s:
        return 0.0
    rounds, turn = divmod(place - 1, len(left_s))
    in_order_s = left_s[turn] + rounds * hold_s
    evenly_s = place * hold_s / len(left_s)
    unforeseen = min(1.0, spread / _UNFORESEEN_SPREAD)
    return (1 - unforeseen) * in_order_s + unforeseen * evenly_s
