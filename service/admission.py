"""Between the servicer and the governor: asks for streams, wakes those whose waiting is over."""

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from engine.contract import EngineError, EngineSnapshot, EngineState
from engine.requests import GenerationRequest
from flowcontrol.admission.ask import Ask, Outcome, Refusal, ServiceClass
from flowcontrol.admission.governor import Governor
from flowcontrol.admission.tenants import TenantOptions
from flowcontrol.admission.ticket import Ticket, TicketState
from flowcontrol.reasons import Reason
from penstock.v1 import generation_pb2 as pb
from service.errors import ServiceError
from service.options import AdmissionOptions
from service.prompt_size import PromptSizes, text_bytes
from service.start_message import StartMessage
from service.step_count import StepCount

_log = structlog.get_logger("penstock.admission")

# How often the engine's counters are read, and how often those who wait are told their position.
_OBSERVE_S = 0.25
_LEAST_PAUSE_S = 0.002
_OUTLOOK_S = 1.0
# What a request may take from the caller to us.
_ON_ITS_WAY_S = 0.05

_CLASSES: dict[int, ServiceClass] = {
    pb.PRIORITY_BULK: ServiceClass.BULK,
    pb.PRIORITY_DEFAULT: ServiceClass.DEFAULT,
    pb.PRIORITY_INTERACTIVE: ServiceClass.INTERACTIVE,
    pb.PRIORITY_SYSTEM: ServiceClass.SYSTEM,
}


class Engines(Protocol):
    """What admission needs to know of the engines, all together: ModelHost, or a single Engine."""

    def check_ready(self) -> None:
        """Raises EngineError when no stream could be taken now."""

    def snapshot(self) -> EngineSnapshot: ...


class Seat:
    """A stream's ticket. Made by Admission.ask; `end` must be called once, whatever happens."""

    def __init__(self, admission: "Admission", ticket: Ticket, request: GenerationRequest) -> None:
        self.position = 0
        """Its place in line, 1 is next; 0 while unknown or when it does not wait."""
        self.wait_s = 0.0
        """Until it may start, as things stand; 0 while unknown."""
        self.changed: Callable[[], None] = lambda: None
        """Called when the waiting is over, and when the position has changed."""
        self._admission = admission
        self._ticket = ticket
        self._prompt_bytes = text_bytes(request)
        self._resumed_tokens = len(request.resume_ids)

    @property
    def waiting(self) -> bool:
        return self._ticket.state is TicketState.WAITING

    @property
    def admitted(self) -> bool:
        return self._ticket.state is TicketState.ADMITTED

    @property
    def refusal(self) -> ServiceError | None:
        """Why the waiting ended badly."""
        return refused(self._ticket.refusal) if self._ticket.refusal is not None else None

    @property
    def out_of_time(self) -> bool:
        """Whether the caller's deadline has passed, for the caller at least, who began to count before us."""
        deadline_s = self._ticket.ask.deadline_s
        return deadline_s is not None and self._admission.clock() >= deadline_s - _ON_ITS_WAY_S

    @property
    def tenant(self) -> str:
        return self._ticket.tenant.name

    @property
    def service_class(self) -> ServiceClass:
        return self._ticket.service_class

    def prompt_known(self, tokens: int) -> None:
        """The engine has tokenised the prompt, or more of it. tokens: those of a resumed stream included."""
        self._ticket.prompt_known(tokens)
        self._admission.sizes.learn(self._prompt_bytes, tokens - self._resumed_tokens)
        self._prompt_bytes = 0

    def place_known(self, has_place: bool) -> None:
        """Whether the engine has a place for it in its batch."""
        waited = self._ticket.has_place is False
        self._ticket.place_known(has_place)
        if waited and has_place:
            self._admission.decide()

    def left_engine(self) -> None:
        """The engine has ended the stream, though not all of it is sent."""
        self._ticket.left_engine()

    def first_token(self) -> None:
        self.place_known(True)
        self._ticket.first_token(self._admission.clock())

    def interrupted(self) -> None:
        """Its worker was lost. Its times say no more how fast the engine is."""
        self._ticket.interrupted = True

    def end(self, outcome: Outcome, output_tokens: int) -> None:
        """Give the permit back, or leave the queue; whoever may start now is told. Later calls do nothing."""
        self._admission.end(self._ticket, outcome, output_tokens)


class Admission:
    """Asks the governor on behalf of streams. `keep_deciding` must run beside it."""

    def __init__(
        self, governor: Governor, engines: Engines, options: AdmissionOptions, clock: Callable[[], float]
    ) -> None:
        self.governor = governor
        self.sizes = PromptSizes()
        self.clock = clock
        self._engines = engines
        self._options = options
        self._steps = StepCount()
        self._waiting: dict[Ticket, Seat] = {}
        self._rearm = asyncio.Event()

    def ask(self, start: StartMessage, tenant: str, left_s: float | None) -> Seat:
        """A seat, admitted or waiting. left_s: until the caller's deadline. Raises ServiceError."""
        try:
            self._engines.check_ready()
        except EngineError as error:
            raise ServiceError.from_engine(error, "start.") from error
        now_s = self.clock()
        request = start.request
        given = self.governor.ask(
            Ask(
                tenant=tenant,
                service_class=self.asked_class(start),
                prompt_tokens=self.sizes.guess_tokens(request),
                max_tokens=max(1, self._max_tokens(start) - len(request.resume_ids)),
                deadline_s=None if left_s is None else now_s + left_s,
            ),
            now_s,
        )
        if isinstance(given, Refusal):
            raise refused(given)
        seat = Seat(self, given, request)
        if seat.waiting:
            self._waiting[given] = seat
            self._rearm.set()
        return seat

    def end(self, ticket: Ticket, outcome: Outcome, output_tokens: int) -> None:
        """What Seat.end does."""
        if ticket.state is TicketState.ENDED:
            return
        self._waiting.pop(ticket, None)
        now_s, deadline_s = self.clock(), ticket.ask.deadline_s
        out_of_time = deadline_s is not None and now_s >= deadline_s
        if outcome is Outcome.IGNORED and out_of_time and ticket.first_token_s is None:
            outcome = Outcome.DROPPED
        ticket.end(outcome, output_tokens, now_s)
        self.decide()

    def decide(self) -> None:
        """Let the governor decide, and tell those whose waiting is over."""
        if not self._may_decide:
            return  # Who waits goes on waiting: a permit would be of no use.
        for ticket in self.governor.decide(self.clock()):
            seat = self._waiting.pop(ticket, None)
            if seat is not None:
                seat.position, seat.wait_s = 0, 0.0
                seat.changed()

    def configure_tenants(self, options: TenantOptions) -> None:
        """Take other limits of tenants."""
        self.governor.configure_tenants(options, self.clock())
        self.decide()

    async def keep_deciding(self) -> None:
        """Observe the engine and decide whenever it is due, until cancelled."""
        told_s = observed_s = self.clock()
        while True:
            now_s = self.clock()
            if now_s - observed_s >= _OBSERVE_S:
                observed_s = now_s
                self._observe(now_s)
            self.decide()
            if now_s - told_s >= _OUTLOOK_S and self._waiting:
                told_s = now_s
                self._tell_positions(now_s)
            self._rearm.clear()
            try:
                async with asyncio.timeout(self._pause_s(observed_s)):
                    await self._rearm.wait()
            except TimeoutError:
                pass

    def _pause_s(self, observed_s: float) -> float:
        """Until there is something to do."""
        due_s = observed_s + _OBSERVE_S
        if self._may_decide:  # Else what is due to the governor stays due.
            due_s = min(due_s, self.governor.next_deadline())
        return max(due_s - self.clock(), _LEAST_PAUSE_S)

    @property
    def _may_decide(self) -> bool:
        """While the engine is away, time is nobody's fault. One that has failed refuses each in its turn."""
        return self._engines.snapshot().state in (EngineState.READY, EngineState.FAILED)

    def _observe(self, now_s: float) -> None:
        snapshot = self._engines.snapshot()
        if snapshot.state is EngineState.READY and snapshot.model is not None:
            self.governor.describe_model(
                kv_bytes_per_token=snapshot.model.kv_bytes_per_token,
                full_batch_step_s=snapshot.full_batch_step_s,
            )
            steps = self._steps.take(snapshot.workers)
            self.governor.observe(steps, snapshot.counters.running_rows, now_s)

    def _tell_positions(self, now_s: float) -> None:
        for ticket, outlook in self.governor.outlook(now_s).items():
            seat = self._waiting.get(ticket)
            if seat is not None and seat.position != outlook.position:
                seat.position, seat.wait_s = outlook.position, outlook.wait_s
                seat.changed()

    def asked_class(self, start: StartMessage) -> ServiceClass:
        """The class that a request asks for; its tenant may get a lower one."""
        return _CLASSES.get(start.priority, self._options.default_class)

    def _max_tokens(self, start: StartMessage) -> int:
        return start.request.stopping.max_tokens or self._options.default_max_tokens


def refused(refusal: Refusal) -> ServiceError:
    """The error that a refusal is to the caller."""
    retry_after_s = None if refusal.reason is Reason.DRAINING else refusal.retry_after_s
    return ServiceError(refusal.reason, refusal.message, retry_after_s=retry_after_s, quota=refusal.quota)
