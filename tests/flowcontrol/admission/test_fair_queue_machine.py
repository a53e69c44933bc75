"""The fair queue against a list of entries from which everything is worked out anew."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flowcontrol.admission.ask import Ask, ServiceClass
from flowcontrol.admission.entry import Entry
from flowcontrol.admission.fair_queue import Ahead, FairQueue, QueueOptions
from flowcontrol.admission.tenants import Tenant, TenantLimits

# Powers of two, so that virtual times are exact.
WEIGHTS = (1, 1, 2, 0.5)
CLASSES = st.sampled_from(ServiceClass)
TENANTS = st.integers(0, len(WEIGHTS) - 1)
IN_FLIGHT = st.dictionaries(CLASSES, st.integers(0, 4))


@dataclass
class Waiting:
    """An entry of the reference: plain values, so that the reference can be copied."""

    number: int
    tenant: int
    own_class: ServiceClass
    effective: ServiceClass
    prompt_tokens: int
    output_tokens: int
    since_s: int
    leaves_s: int

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens


@dataclass
class Reference:
    """Waiting in the order of arrival; virtual times by tenant; lifts by tenant and class."""

    options: QueueOptions
    waiting: list[Waiting] = field(default_factory=list)
    virtual: dict[int, float] = field(default_factory=dict)
    lifts: dict[tuple[int, ServiceClass], float] = field(default_factory=dict)
    last: dict[ServiceClass, int] = field(default_factory=dict)

    def tokens(self) -> int:
        return sum(w.tokens for w in self.waiting)

    def of(self, tenant: int) -> list[Waiting]:
        return [w for w in self.waiting if w.tenant == tenant]

    def room(self, tenant: int, tokens: int) -> bool:
        free_requests = self.options.max_requests - len(self.waiting)
        free_tokens = self.options.max_tokens - self.tokens()
        if free_requests < 1 or tokens > free_tokens:
            return False
        own = self.of(tenant)
        return not own or (
            len(own) + 1 <= free_requests and sum(w.tokens for w in own) + tokens <= free_tokens
        )

    def time(self, tenant: int, c: ServiceClass) -> float:
        return self.virtual.get(tenant, 0) + self.lifts.get((tenant, c), 0)

    def lift(self, tenant: int, c: ServiceClass, time: float) -> None:
        self.lifts[tenant, c] = max(self.lifts.get((tenant, c), 0), time - self.virtual.get(tenant, 0))

    def entry_time(self, tenant: int, c: ServiceClass) -> float:
        tenants = {w.tenant for w in self.waiting if w.effective == c}
        if tenant in tenants:
            return self.time(tenant, c)
        others = tenants or {self.last.get(c, tenant)}
        return max(self.time(tenant, c), min(self.time(other, c) for other in others))

    def enter(self, new: Waiting) -> None:
        self.lift(new.tenant, new.effective, self.entry_time(new.tenant, new.effective))
        self.waiting.append(new)
        self.waiting.sort(key=lambda w: w.number)

    def raised_at(self, w: Waiting) -> float:
        if not self.options.ageing_s or w.effective == ServiceClass.SYSTEM:
            return math.inf
        return w.since_s + (w.effective - w.own_class + 1) * self.options.ageing_s

    def age(self, now_s: int) -> None:
        due = [w for w in self.waiting if self.raised_at(w) <= now_s]
        for w in sorted(due, key=lambda w: (self.raised_at(w), w.number)):
            self.waiting.remove(w)
            while self.raised_at(w) <= now_s:
                w.effective = ServiceClass(w.effective + 1)
            self.enter(w)

    def newest_first(self) -> bool:
        half_full = len(self.waiting) > self.options.max_requests / 2
        return self.options.lifo_under_overload and (half_full or self.tokens() > self.options.max_tokens / 2)

    def pop(
        self, limit: int, in_flight: Mapping[ServiceClass, int], ready: Callable[[Waiting], bool]
    ) -> Waiting | None:
        def has_its_share(c: ServiceClass) -> bool:
            return in_flight.get(c, 0) >= self.options.reserved.get(c, 0) * limit

        for c in sorted(ServiceClass, key=lambda c: (has_its_share(c), -c)):
            newest = self.newest_first()
            heads: dict[int, Waiting] = {}
            for w in self.waiting if newest else reversed(self.waiting):
                if w.effective == c:
                    heads[w.tenant] = w
            turn = sorted(
                heads.values(), key=lambda w: (self.time(w.tenant, c), -w.number if newest else w.number)
            )
            for i, w in enumerate(turn):
                if ready(w):
                    for passed in turn[:i]:
                        self.lift(passed.tenant, c, self.time(w.tenant, c))
                    self.waiting.remove(w)
                    self.virtual[w.tenant] = self.virtual.get(w.tenant, 0) + w.tokens / WEIGHTS[w.tenant]
                    self.last[c] = w.tenant
                    return w
        return None

    def order(self, limit: int, in_flight: Mapping[ServiceClass, int]) -> list[int]:
        trial, started, numbers = copy.deepcopy(self), dict(in_flight), []
        while (w := trial.pop(limit, started, lambda _: True)) is not None:
            started[w.own_class] = started.get(w.own_class, 0) + 1
            numbers.append(w.number)
        return numbers

    def ahead(self, tenant: int, c: ServiceClass) -> Ahead:
        w_tokens = sum(w.tokens for w in self.waiting if w.effective == c and w.tenant == tenant)
        until = self.entry_time(tenant, c) + w_tokens / WEIGHTS[tenant]
        requests = prompt_tokens = output_tokens = 0.0
        for w in self.waiting:
            share = float(w.effective > c or (w.effective == c and w.tenant == tenant))
            if w.effective == c and w.tenant != tenant:
                total = sum(x.tokens for x in self.of(w.tenant) if x.effective == c)
                before = (until - self.time(w.tenant, c)) * WEIGHTS[w.tenant]
                share = min(total, max(0, before)) / total
            requests += share
            prompt_tokens += share * w.prompt_tokens
            output_tokens += share * w.output_tokens
        return Ahead(round(requests), prompt_tokens, output_tokens)


class FairQueueMatchesTheReference(RuleBasedStateMachine):
    @initialize(
        max_requests=st.sampled_from([40, 12, 4, 0]),
        max_tokens=st.sampled_from([400, 60, 20, 0]),
        ageing_s=st.sampled_from([3, 2, 0]),
        newest_first=st.booleans(),
        reserved=st.dictionaries(CLASSES, st.sampled_from([0, 0.25, 0.5]), max_size=2),
    )
    def begin(
        self,
        max_requests: int,
        max_tokens: int,
        ageing_s: int,
        newest_first: bool,
        reserved: dict[ServiceClass, float],
    ) -> None:
        options = QueueOptions(max_requests, max_tokens, 0, ageing_s, newest_first, reserved, 0)
        self.queue = FairQueue(options)
        self.reference = Reference(options)
        self.tenants = [
            Tenant(f"t{i}", TenantLimits(weight, 0, 0, 0, ServiceClass.SYSTEM), burst_s=1, now_s=0)
            for i, weight in enumerate(WEIGHTS)
        ]
        self.entries: list[Entry] = []
        self.numbers: dict[Entry, int] = {}
        self.now_s = 0

    @rule(
        requests=st.lists(
            st.tuples(TENANTS, CLASSES, st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=8
        ),
        ttl_s=st.sampled_from([100, 20, 6, 1, 0]),
        deadline_in_s=st.none() | st.integers(0, 20),
    )
    def push(
        self,
        requests: list[tuple[int, ServiceClass, int, int]],
        ttl_s: int,
        deadline_in_s: int | None,
    ) -> None:
        """Those for which there is room. A request: tenant, class, tokens of the prompt and of the output."""
        deadline_s = None if deadline_in_s is None else self.now_s + deadline_in_s
        leaves_s = self.now_s + (ttl_s if deadline_in_s is None else min(ttl_s, deadline_in_s))
        for tenant, c, prompt_tokens, output_tokens in requests:
            room = self.reference.room(tenant, prompt_tokens + output_tokens)
            full = self.queue.full_for(self.tenants[tenant], prompt_tokens + output_tokens)
            assert room == (full == "")
            if room:
                entry = Entry(
                    Ask("", c, prompt_tokens, 0, deadline_s),
                    self.tenants[tenant],
                    service_class=c,
                    output_tokens=output_tokens,
                    since_s=self.now_s,
                    expires_s=self.now_s + ttl_s,
                )
                number = self.numbers[entry] = len(self.entries)
                self.entries.append(entry)
                self.queue.push(entry)
                self.reference.enter(
                    Waiting(number, tenant, c, c, prompt_tokens, output_tokens, self.now_s, leaves_s)
                )

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """Also an entry that has left."""
        if self.entries:
            entry = data.draw(st.sampled_from(self.entries))
            self.queue.remove(entry)
            number = self.numbers[entry]
            self.reference.waiting = [w for w in self.reference.waiting if w.number != number]

    @rule(
        limit=st.integers(1, 8),
        in_flight=IN_FLIGHT,
        held_back=st.sets(TENANTS),
        max_tokens=st.sampled_from([5, 20]),
        times=st.integers(1, 3),
    )
    def pop(
        self,
        limit: int,
        in_flight: dict[ServiceClass, int],
        held_back: set[int],
        max_tokens: int,
        times: int,
    ) -> None:
        """held_back: tenants of which nothing is ready; of the others what has no more than max_tokens is."""
        for _ in range(times):
            self.reference.age(self.now_s)
            expected = self.reference.pop(
                limit, in_flight, lambda w: w.tenant not in held_back and w.tokens <= max_tokens
            )
            asked: list[Entry] = []

            def ready(entry: Entry, asked: list[Entry] = asked) -> bool:
                asked.append(entry)
                return self.tenants.index(entry.tenant) not in held_back and entry.tokens <= max_tokens

            popped = self.queue.pop(self.now_s, limit=limit, in_flight=in_flight, ready=ready)
            assert (None if popped is None else self.numbers[popped]) == (
                None if expected is None else expected.number
            )
            assert len(set(asked)) == len(asked)

    @rule(tenant=TENANTS, diff=st.integers(-9, 9))
    def settle(self, tenant: int, diff: int) -> None:
        self.queue.settle(self.tenants[tenant], diff)
        virtual = self.reference.virtual
        virtual[tenant] = virtual.get(tenant, 0) + diff / WEIGHTS[tenant]

    @rule(after_s=st.integers(1, 4))
    def time_passes(self, after_s: int) -> None:
        self.now_s += after_s
        due = [w for w in self.reference.waiting if w.leaves_s <= self.now_s]
        next_s = self.queue.next_deadline()
        # An owner that waits for the deadline misses nothing and does not wake for nothing.
        assert bool(due) == (next_s is not None and next_s <= self.now_s)
        assert [self.numbers[entry] for entry in self.queue.expired(self.now_s)] == [w.number for w in due]
        self.reference.waiting = [w for w in self.reference.waiting if w not in due]

    @rule(tenant=TENANTS, c=CLASSES, limit=st.integers(1, 8), in_flight=IN_FLIGHT)
    def look(self, tenant: int, c: ServiceClass, limit: int, in_flight: dict[ServiceClass, int]) -> None:
        self.reference.age(self.now_s)
        order = self.queue.order(self.now_s, limit=limit, in_flight=in_flight)
        assert [self.numbers[entry] for entry in order] == self.reference.order(limit, in_flight)
        ahead = self.queue.ahead(self.tenants[tenant], c, self.now_s)
        expected = self.reference.ahead(tenant, c)
        assert ahead.requests == pytest.approx(expected.requests, abs=1)
        assert ahead.prompt_tokens == pytest.approx(expected.prompt_tokens)
        assert ahead.output_tokens == pytest.approx(expected.output_tokens, abs=1e-6)

    @invariant()
    def counts_are_the_references(self) -> None:
        waiting = self.reference.waiting
        assert len(self.queue) == len(waiting) <= self.reference.options.max_requests
        assert self.queue.tokens == self.reference.tokens() <= self.reference.options.max_tokens
        own_classes = [w.own_class for w in waiting]
        assert self.queue.queued() == {c: own_classes.count(c) for c in ServiceClass}
        for i, tenant in enumerate(self.tenants):
            own = self.reference.of(i)
            assert (tenant.queued, tenant.queued_tokens) == (len(own), sum(w.tokens for w in own))
            assert tenant.virtual_tokens == self.reference.virtual.get(i, 0)
        assert self.queue.next_deadline() == min((w.leaves_s for w in waiting), default=None)


# With coverage it would take three times as long.
TestFairQueueMatchesTheReference = pytest.mark.no_cover(FairQueueMatchesTheReference.TestCase)
