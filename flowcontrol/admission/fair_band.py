"""What waits in one class, fair between tenants."""

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace

from flowcontrol.admission.ask import ServiceClass
from flowcontrol.admission.entry import Entry
from flowcontrol.admission.tenants import Tenant


@dataclass(slots=True, eq=False)
class Place:
    """An entry's place in the queue.

    number: order of arrival. service_class: the effective one. Tokens are those at the time of its push,
    so that sums stay exact when the entry's estimate changes.
    """

    number: int
    entry: Entry
    service_class: ServiceClass
    tokens: int
    prompt_tokens: int
    waiting: bool = True

    def __lt__(self, other: "Place") -> bool:
        return self.number < other.number


@dataclass(slots=True, eq=False)
class Flow:
    """What one tenant has waiting in one effective class, in order of arrival."""

    tenant: Tenant
    service_class: ServiceClass
    places: list[Place] = field(default_factory=list)
    tokens: int = 0
    prompt_tokens: int = 0

    def time(self) -> float:
        return self.tenant.virtual_time(self.service_class)

    def share_before(self, time: float) -> float:
        """The share of its tokens that starts before its virtual time gets to `time`."""
        tokens = (time - self.time()) * self.tenant.limits.weight
        return min(1.0, max(0.0, tokens) / max(1, self.tokens))


class Band:
    """What waits in one effective class, fair between tenants."""

    __slots__ = ("_last", "flows", "heads", "service_class")

    def __init__(self, service_class: ServiceClass) -> None:
        self.service_class = service_class
        self.flows: dict[Tenant, Flow] = {}
        self._last: Flow | None = None
        # Heap of flows by virtual time and number of what is next; items that are too low, or of empty
        # flows, are put right when met. None: to be built anew, for one may be too high or missing.
        self.heads: list[tuple[float, int, Flow]] | None = None

    def add(self, place: Place, credit: float) -> None:
        """credit: of FairShare."""
        tenant = place.entry.tenant
        flow = self.flows.get(tenant)
        if flow is None:
            tenant.lift(self.service_class, self.entry_time(tenant, credit))
            flow = self.flows[tenant] = Flow(tenant, self.service_class)
        # Not always at the end: an aged request is older than those whose class it was raised to.
        insort(flow.places, place)
        flow.tokens += place.tokens
        flow.prompt_tokens += place.prompt_tokens
        self.heads = None

    def discard(self, place: Place) -> None:
        flow = self.flows[place.entry.tenant]
        del flow.places[bisect_left(flow.places, place)]
        flow.tokens -= place.tokens
        flow.prompt_tokens -= place.prompt_tokens
        if not flow.places:
            del self.flows[place.entry.tenant]

    def entry_time(self, tenant: Tenant, credit: float) -> float:
        """Its virtual time when it has one more request waiting.

        If it had none: behind the least of those that wait, or the last one served when nobody waits, by
        credit at most.
        """
        time = tenant.virtual_time(self.service_class)
        if tenant in self.flows:
            return time
        last = self._last.time() if self._last else time
        return max(time, min((flow.time() for flow in self.flows.values()), default=last) - credit)

    def take(self, newest: bool, ready: Callable[[Entry], bool]) -> Place | None:
        """Take out and charge what is next and ready: of equal times and of a tenant the oldest or newest."""
        # A negative number is lower than a positive one, so heads may stay when `newest` ends.
        end, sign = (-1, -1) if newest else (0, 1)
        if self.heads is None:
            self.heads = [(f.time(), sign * f.places[end].number, f) for f in self.flows.values()]
            heapify(self.heads)
        heads = self.heads
        passed: list[Flow] = []
        while heads:
            flow = heads[0][2]
            if not flow.places:
                heappop(heads)
                continue
            place = flow.places[end]
            head = (flow.time(), sign * place.number, flow)
            if head != heads[0]:
                heapreplace(heads, head)
            elif ready(place.entry):
                # Who is held back by its own quota saves up nothing either.
                for other in passed:
                    other.tenant.lift(self.service_class, head[0])
                    self.heads = None
                self.discard(place)
                flow.tenant.charge(place.tokens)
                self._last = flow
                return place
            else:
                passed.append(heappop(heads)[2])
        self.heads = None
        return None

    def trial(self, shadows: Mapping[Tenant, Tenant]) -> "Band":
        """A copy to `take` from, which charges the shadows of the tenants."""
        trial = Band(self.service_class)
        for tenant, flow in self.flows.items():
            trial.flows[tenant] = Flow(shadows[tenant], self.service_class, flow.places.copy())
        return trial
