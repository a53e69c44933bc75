"""One run: a scenario's callers, the governor and the plant in virtual time."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

from benchmarks.simulation.historic import HistoricLimit
from benchmarks.simulation.plant import Plant, Row
from benchmarks.simulation.scenarios import Scenario
from benchmarks.simulation.workload import Request, draw_request
from flowcontrol.admission.ask import Ask, Outcome, Refusal
from flowcontrol.admission.governor import Governor
from flowcontrol.admission.ticket import Ticket, TicketState
from flowcontrol.limits.contract import LimitOptions

# How often the engine's counters reach the governor, and how often the state is noted.
_OBSERVE_S = 0.25
_SAMPLE_S = 0.5
# Callers of a closed loop begin within this time.
_STAGGER_S = 2.0
# What has not ended so long after the last arrival never does.
_DRAIN_S = 240.0
# A deadline that is over already is met this much later: time must go on.
_LEAST_S = 0.001


@dataclass(slots=True)
class Stream:
    """One request from asking to its end; times are None for what did not happen."""

    request: Request
    asked_s: float
    caller: int | None = None
    solo_s: float = 0.0
    admitted_s: float | None = None
    first_s: float | None = None
    ended_s: float | None = None
    refused_s: float | None = None
    refusal: str = ""
    paused_s: float = 0.0

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_s is None else self.first_s - self.asked_s

    @property
    def between_tokens_s(self) -> float | None:
        """Mean time between tokens while its reader read; None for one token or none."""
        if self.ended_s is None or self.first_s is None or self.request.output_tokens < 2:
            return None
        return (self.ended_s - self.first_s - self.paused_s) / (self.request.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class Sample:
    """The state at one moment. plant_waiting: admitted rows that wait for a place in the batch."""

    at_s: float
    limit: int
    in_flight: int
    queued: int
    plant_waiting: int


@dataclass(slots=True)
class Record:
    """What a run gave."""

    streams: list[Stream] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    evictions: int = 0


class Run:
    """Drives the governor as the server does: ask, observe, prompt known, first token, end and decide."""

    def __init__(
        self,
        scenario: Scenario,
        governor: Governor,
        *,
        seed: int,
        historic: HistoricLimit | None = None,
        limits: Sequence[tuple[float, LimitOptions]] = (),
        places: bool = True,
    ) -> None:
        """limits: (from, options) that an operator sets on the way. places: whether the plant tells who waits
        in front of its batch.
        """
        self._scenario = scenario
        self._governor = governor
        self._historic = historic
        self._places = places
        self._plant = Plant(scenario.plant)
        self._record = Record()
        self._now_s = 0.0
        self._decided_s = -_LEAST_S
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._scheduled = 0
        self._streams: dict[Row, tuple[Stream, Ticket]] = {}
        self._waiting: dict[Ticket, Stream] = {}
        # Rows that found no place when the governor was last told, and those that are new since.
        self._without_place: dict[Row, None] = {}
        self._submitted: list[Row] = []
        self._callers = [Random(f"{seed} {n}") for n in range(scenario.callers)]
        if scenario.kv_told:
            governor.describe_model(kv_bytes_per_token=1, full_batch_step_s=0)
        self._schedule(seed, limits)

    def run(self) -> Record:
        end_s = self._scenario.duration_s + _DRAIN_S
        while self._now_s < end_s and (self._streams or self._waiting or self._arrivals_left()):
            event_s = self._events[0][0]
            decide_s = max(self._governor.next_deadline(), self._decided_s + _LEAST_S)
            self._now_s = min(event_s, decide_s)
            if decide_s <= event_s:
                self._decide()
            else:
                heapq.heappop(self._events)[2]()
        self._record.evictions = self._plant.evictions
        return self._record

    def _schedule(self, seed: int, limits: Sequence[tuple[float, LimitOptions]]) -> None:
        scenario = self._scenario
        for arrival in scenario.arrivals(seed):
            self._at(arrival.at_s, partial(self._ask, arrival.request, None))
        for number, random in enumerate(self._callers):
            self._at(random.random() * _STAGGER_S, partial(self._call, number))
        for from_s, factor in scenario.speeds:
            self._at(from_s, partial(self._set_speed, factor))
        for from_s, options in limits:
            self._at(from_s, partial(self._configure, options))
        self._at(0.0, self._observe)
        self._at(0.0, self._sample)

    def _at(self, at_s: float, do: Callable[[], None]) -> None:
        self._scheduled += 1
        heapq.heappush(self._events, (at_s, self._scheduled, do))

    def _arrivals_left(self) -> bool:
        return self._now_s < self._scenario.duration_s

    def _set_speed(self, factor: float) -> None:
        self._plant.speed = factor

    def _configure(self, options: LimitOptions) -> None:
        scenario = self._scenario
        self._governor.configure(
            options,
            target_ttft_s=scenario.target_ttft_s,
            target_latency_s=scenario.target_latency_s,
            now_s=self._now_s,
        )
        self._decide()

    def _observe(self) -> None:
        plant = self._plant
        self._governor.observe(plant.decode_steps, plant.decoding_rows, self._now_s)
        self._at(self._now_s + _OBSERVE_S, self._observe)

    def _sample(self) -> None:
        seen = self._governor.snapshot(self._now_s)
        in_flight, queued = sum(seen.in_flight.values()), sum(seen.queued.values())
        self._record.samples.append(
            Sample(self._now_s, seen.limit.limit, in_flight, queued, self._plant.waiting_rows)
        )
        self._at(self._now_s + _SAMPLE_S, self._sample)

    # Callers.

    def _call(self, caller: int) -> None:
        """A caller of a closed loop asks, until the scenario is over."""
        if self._arrivals_left():
            [(tenant, _)] = self._scenario.tenants
            request = draw_request(self._scenario.mix(self._now_s), tenant, self._callers[caller])
            self._ask(request, caller)

    def _ask(self, request: Request, caller: int | None) -> None:
        stream = Stream(request, self._now_s, caller)
        stream.solo_s = self._scenario.plant.solo_ttft_s(request.prompt_tokens)
        self._record.streams.append(stream)
        ask = Ask(request.tenant, request.service_class, request.estimated_tokens, request.max_tokens, None)
        answer = self._governor.ask(ask, self._now_s)
        if isinstance(answer, Refusal):
            self._refused(stream, answer)
        elif answer.state is TicketState.ADMITTED:
            self._start(stream, answer)
        else:
            self._waiting[answer] = stream

    def _refused(self, stream: Stream, refusal: Refusal) -> None:
        stream.refused_s = self._now_s
        stream.refusal = refusal.reason
        again_s = self._now_s + max(_LEAST_S, refusal.retry_after_s)
        if again_s >= self._scenario.duration_s:
            return
        if stream.caller is not None or self._scenario.retries:
            self._at(again_s, partial(self._ask, stream.request, stream.caller))

    # The server's part.

    def _decide(self) -> None:
        self._decided_s = self._now_s
        for ticket in self._governor.decide(self._now_s):
            stream = self._waiting.pop(ticket)
            if ticket.state is TicketState.ADMITTED:
                self._start(stream, ticket)
            else:
                assert ticket.refusal is not None
                ticket.end(Outcome.IGNORED, 0, self._now_s)
                self._refused(stream, ticket.refusal)

    def _start(self, stream: Stream, ticket: Ticket) -> None:
        stream.admitted_s = self._now_s
        request = stream.request
        ticket.prompt_known(request.prompt_tokens)
        row = Row(request.prompt_tokens, request.output_tokens, request.pause_tokens)
        self._streams[row] = (stream, ticket)
        self._plant.submit(row)
        self._submitted.append(row)
        self._begin_turn()

    def _begin_turn(self) -> None:
        if not self._plant.busy and (takes_s := self._plant.begin()) is not None:
            self._at(self._now_s + takes_s, self._finish_turn)
            if self._places:
                self._tell_places()

    def _tell_places(self) -> None:
        """The engine tells who waits in front of its batch, and who does not, or no more."""
        waiting = dict.fromkeys(self._plant.without_place)
        without = [row for row in waiting if row not in self._without_place]
        within = [row for row in (*self._without_place, *self._submitted) if row not in waiting]
        self._without_place, self._submitted = waiting, []
        for row in (*without, *within):
            self._streams[row][1].place_known(row not in waiting)
        if within and self._waiting:
            self._decide()

    def _finish_turn(self) -> None:
        turn = self._plant.finish()
        for row in turn.first_tokens:
            stream, ticket = self._streams[row]
            stream.first_s = self._now_s
            ticket.first_token(self._now_s)
            if self._historic is not None and stream.admitted_s is not None:
                self._historic.measured(self._now_s - stream.admitted_s)
        for row in turn.paused:
            stream, _ = self._streams[row]
            pause_s = stream.request.pause_s
            stream.paused_s += pause_s
            self._at(self._now_s + pause_s, partial(self._resume, row))
        callers = [self._end(row) for row in turn.finished]
        if callers:
            self._decide()
        self._begin_turn()
        for caller in callers:
            if caller is not None:
                self._call(caller)

    def _resume(self, row: Row) -> None:
        self._plant.resume(row)
        self._begin_turn()

    def _end(self, row: Row) -> int | None:
        stream, ticket = self._streams.pop(row)
        stream.ended_s = self._now_s
        ticket.end(Outcome.SUCCESS, stream.request.output_tokens, self._now_s)
        return stream.caller
