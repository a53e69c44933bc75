"""The queue of admission: bounded, in classes, fair between tenants."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from flowcontrol.admission.alarms import Alarms
from flowcontrol.admission.ask import ServiceClass
from flowcontrol.admission.entry import Entry
from flowcontrol.admission.fair_band import Band, Place
from flowcontrol.admission.fair_share import FairShare
from flowcontrol.admission.tenants import Tenant


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """max_requests, max_tokens: bounds on what waits. ttl_s: how long a request may wait.

    ageing_s: each time that a request has waited this long its class is raised by one; 0 for never.
    lifo_under_overload: whether a tenant's newest request goes first while the queue is more than half full.
    reserved: share of the limit that a class gets before higher classes take more; 0 or absent for none.
    credit_s: a tenant that asked for less than its fair share for so long goes first until it has caught up.
    """

    max_requests: int
    max_tokens: int
    ttl_s: float
    ageing_s: float
    lifo_under_overload: bool
    reserved: Mapping[ServiceClass, float]
    credit_s: float


@dataclass(frozen=True, slots=True)
class Ahead:
    """What would start before a new request."""

    requests: int
    prompt_tokens: float
    output_tokens: float


class FairQueue:
    """Requests that wait for admission. The caller's clock never goes back.

    Which one `pop` gives:
    1. A request's effective class is its own, raised by one for each ageing_s that it has waited.
    2. Classes with less in flight than their reserved share of the limit go first, the higher before the
       lower; then the other classes, the higher before the lower. The share keeps no slot empty.
    3. Within a class the tenant with the least virtual time: tokens charged so far, in all classes, / weight.
       After time in which the tenant had nothing waiting in the class it is lifted to that of the others,
       less the credit of FairShare; after time in which nothing was ready, to all of it (start-time fair
       queueing, Goyal et al. 1996; VTC, Sheng et al. 2024).
    4. Of a tenant the oldest; with lifo_under_overload the newest while the queue is more than half full.

    Only the first of each tenant in a class is asked whether it is ready, and holds back nobody else.
    """

    def __init__(self, options: QueueOptions) -> None:
        self._options = options
        # Highest class first.
        self._bands = {c: Band(c) for c in sorted(ServiceClass, reverse=True)}
        self._places: dict[Entry, Place] = {}
        self._tokens = 0
        self._pushed = 0
        self._share = FairShare(options.credit_s)
        self._expiry = Alarms()
        self._ageing = Alarms()

    def __len__(self) -> int:
        return len(self._places)

    @property
    def tokens(self) -> int:
        """Prompt and expected output of all that waits."""
        return self._tokens

    def queued(self) -> dict[ServiceClass, int]:
        """Requests that wait, by their own class, for every class."""
        counts = dict.fromkeys(ServiceClass, 0)
        for entry in self._places:
            counts[entry.service_class] += 1
        return counts

    def full_for(self, tenant: Tenant, tokens: int) -> str:
        """Why there is no room for one more request of so many tokens, for its caller; "" when there is room.

        Besides the bounds, a tenant may have as much waiting as is still free, but always one request, so
        one never fills the queue (dynamic threshold, Choudhury & Hahne 1998, alpha = 1).
        """
        free_requests = self._options.max_requests - len(self)
        free_tokens = self._options.max_tokens - self._tokens
        if free_requests < 1:
            return f"{len(self)} requests wait, as many as may"
        if tokens > free_tokens:
            return f"{self._tokens} tokens wait, and {tokens} more would be over {self._options.max_tokens}"
        if tenant.queued >= free_requests:
            return f"{tenant.queued} requests of this tenant wait, as many as one may have of what is free"
        if tenant.queued_tokens + tokens > free_tokens:
            return f"{tenant.queued_tokens} tokens of this tenant wait, and {free_tokens} more fit"
        return ""

    def push(self, entry: Entry) -> None:
        """Let entry wait; the caller has asked full_for. Raises ValueError when it waits already."""
        if entry in self._places:
            raise ValueError("the entry is in the queue already")
        self._pushed += 1
        place = Place(self._pushed, entry, entry.service_class, entry.tokens, entry.ask.prompt_tokens)
        self._places[entry] = place
        self._tokens += place.tokens
        entry.tenant.queued += 1
        entry.tenant.queued_tokens += place.tokens
        self._bands[place.service_class].add(place, self._share.credit(entry.since_s))
        deadline_s = math.inf if entry.ask.deadline_s is None else entry.ask.deadline_s
        self._expiry.add(min(entry.expires_s, deadline_s), place, len(self))
        self._ageing.add(self._raised_at(place), place, len(self))

    def remove(self, entry: Entry) -> None:
        """It left; nothing if it is not in the queue."""
        if (place := self._places.get(entry)) is not None:
            self._bands[place.service_class].discard(place)
            self._left(place)

    def pop(
        self,
        now_s: float,
        *,
        limit: int,
        in_flight: Mapping[ServiceClass, int],
        ready: Callable[[Entry], bool],
    ) -> Entry | None:
        """Take out the next entry that is ready and charge its tenant; None when none is.

        limit: on streams in flight. in_flight: streams by class. Ask `expired` before: an entry whose time
        has passed is not looked for here.
        """
        self._age(now_s)
        newest = self._newest_first(len(self), self._tokens)
        for band in self._turn(self._bands.values(), limit, in_flight):
            if (place := band.take(newest, ready)) is not None:
                self._left(place)
                self._share.served(place.entry.tenant, place.tokens, now_s)
                return place.entry
        return None

    def settle(self, tenant: Tenant, tokens_diff: int) -> None:
        """Correct what a pop charged. tokens_diff: really used - charged."""
        tenant.charge(tokens_diff)
        for band in self._bands.values():
            band.heads = None

    def expired(self, now_s: float) -> list[Entry]:
        """Take out and return those with expires_s or ask.deadline_s not after now_s, the oldest first."""
        places: list[Place] = []
        while (place := self._expiry.pop_due(now_s)) is not None:
            self.remove(place.entry)
            places.append(place)
        return [place.entry for place in sorted(places)]

    def next_deadline(self) -> float | None:
        """When `expired` must be asked next; None when nobody waits."""
        return self._expiry.next_s()

    def ahead(self, tenant: Tenant, service_class: ServiceClass, now_s: float) -> Ahead:
        """What would start before a new request of this tenant and class; an estimate.

        All of higher effective classes. In its own class all that its tenant has waiting there, w tokens,
        which brings the tenant's virtual time from v to v' = v + w / weight; and of each other tenant what
        starts before its virtual time u gets to v': min(its tokens, (v' - u) x its weight), in parts of
        requests. As more may come of the others, it is at least w by the tenant's share of what was served
        lately. Reserved shares, ageing to come and newest first are left out.
        """
        self._age(now_s)
        band = self._bands[service_class]
        own_tokens = band.flows[tenant].tokens if tenant in band.flows else 0
        time = band.entry_time(tenant, self._share.credit(now_s)) + own_tokens / tenant.limits.weight
        requests = prompt_tokens = tokens = 0.0
        flows = (f for c in ServiceClass if c >= service_class for f in self._bands[c].flows.values())
        for flow in flows:
            share = flow.share_before(time) if flow.service_class == service_class else 1.0
            requests += share * len(flow.places)
            prompt_tokens += share * flow.prompt_tokens
            tokens += share * flow.tokens
        # Those of others who come later overtake it, as they have done lately.
        overtaken = own_tokens / self._share.share(tenant, now_s)
        more = max(1.0, overtaken / tokens) if tokens else 1.0
        return Ahead(round(more * requests), more * prompt_tokens, more * (tokens - prompt_tokens))

    def order(self, now_s: float, *, limit: int, in_flight: Mapping[ServiceClass, int]) -> list[Entry]:
        """In which the entries would be popped now if all were ready and each stayed in flight."""
        self._age(now_s)
        shadows = {tenant: tenant.shadow() for tenant in {entry.tenant for entry in self._places}}
        bands = [band.trial(shadows) for band in self._bands.values()]
        started = {c: in_flight.get(c, 0) for c in ServiceClass}
        requests, tokens = len(self), self._tokens
        order: list[Entry] = []
        while turn := self._turn(bands, limit, started):
            place = turn[0].take(self._newest_first(requests, tokens), lambda _: True)
            assert place is not None
            order.append(place.entry)
            started[place.entry.service_class] += 1
            requests -= 1
            tokens -= place.tokens
        return order

    def _turn(self, bands: Iterable[Band], limit: int, in_flight: Mapping[ServiceClass, int]) -> list[Band]:
        """Those with anything waiting, in the order in which they are served. bands: highest class first."""

        def has_its_share(band: Band) -> bool:
            share = self._options.reserved.get(band.service_class, 0.0)
            return in_flight.get(band.service_class, 0) >= share * limit

        # Sorting is stable: both parts stay in the order of classes.
        return sorted((band for band in bands if band.flows), key=has_its_share)

    def _newest_first(self, requests: int, tokens: int) -> bool:
        overloaded = 2 * requests > self._options.max_requests or 2 * tokens > self._options.max_tokens
        return self._options.lifo_under_overload and overloaded

    def _left(self, place: Place) -> None:
        place.waiting = False
        del self._places[place.entry]
        self._tokens -= place.tokens
        place.entry.tenant.queued -= 1
        place.entry.tenant.queued_tokens -= place.tokens

    def _age(self, now_s: float) -> None:
        """Raise the effective classes of those whose time has come."""
        while (place := self._ageing.pop_due(now_s)) is not None:
            self._bands[place.service_class].discard(place)
            while self._raised_at(place) <= now_s:
                place.service_class = ServiceClass(place.service_class + 1)
            self._bands[place.service_class].add(place, self._share.credit(now_s))
            self._ageing.add(self._raised_at(place), place, len(self))

    def _raised_at(self, place: Place) -> float:
        """When its effective class is raised next; infinite for never."""
        if not self._options.ageing_s or place.service_class == ServiceClass.SYSTEM:
            return math.inf
        steps = place.service_class - place.entry.service_class + 1
        return place.entry.since_s + steps * self._options.ageing_s
