"""What a trace tells of one stream: noted while it runs, made into spans when it ends."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

from opentelemetry import trace
from opentelemetry.util.types import AttributeValue

from engine.requests import ChatInput, GenerationRequest
from flowcontrol.reasons import Reason
from service.observation import StreamLabels, StreamOutcome

# A reader without credit for every other token would fill a trace with nothing else.
_MOST_MOMENTS = 200

_NS = 1e9


class Moment(StrEnum):
    """Something that happens to a stream at one time. Of those that are events, the event's name."""

    PREFILL = "prefill"
    """Its prompt begins to be computed."""
    ROW_ENDED = "row ended"
    """The engine has no more tokens for it."""
    ASSIGNED = "assigned"
    """A worker has it, from now on; with the worker's index and pid."""
    STALL = "stall"
    CREDIT = "credit"
    """The end of a stall."""
    PARK = "park"
    RESUME = "resume"
    """Its parked row goes on."""
    FAILOVER = "failover"
    """Its worker was lost; it goes on with another one."""
    REMEDIATION = "remediation"
    """The server acted on it by itself."""


_EVENTS = frozenset({Moment.PARK, Moment.RESUME, Moment.FAILOVER, Moment.REMEDIATION})
_OFTEN = frozenset({Moment.STALL, Moment.CREDIT, Moment.PARK, Moment.RESUME})


class StreamTrace(Protocol):
    """Is told what happens to a stream. Not for each token: a moment costs about as much as a log line."""

    def note(self, moment: Moment, **attributes: AttributeValue) -> None:
        """It happens now."""


class Children(Protocol):
    """Takes spans that have ended; service.telemetry.ended_spans is one."""

    def add(
        self,
        parent: trace.SpanContext,
        name: str,
        start_ns: int,
        end_ns: int,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> None: ...


class Untraced:
    """Notes nothing."""

    def note(self, moment: Moment, **attributes: AttributeValue) -> None:
        pass


UNTRACED = Untraced()


class RecordedStream:
    """A StreamTrace, and the StreamSink that makes the spans when it is told of the stream's end.

    The stream's span is the server span of its RPC, which ends after it; it gets the attributes and events,
    and children for what took time. Nothing of prompt or output is in them.
    """

    def __init__(
        self,
        span: trace.Span,
        children: Children,
        request: GenerationRequest,
        clock: Callable[[], float],
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """children: takes the spans below it. clock: the stream's, in seconds. wall_ns: that of the spans."""
        self._span = span
        self._context = span.get_span_context()
        self._children = children
        self._request = request
        self._clock = clock
        self._asked_s = clock()
        # One for all times of the stream, so that they keep their order and distances.
        self._wall_ns = wall_ns() - int(self._asked_s * _NS)
        self._moments: list[tuple[Moment, float, dict[str, AttributeValue]]] = []
        self._prefilled = False
        self._dropped = 0

    def note(self, moment: Moment, **attributes: AttributeValue) -> None:
        if moment is Moment.PREFILL and self._prefilled:
            return  # Told again with each slice of the prompt.
        self._prefilled = self._prefilled or moment is Moment.PREFILL
        if moment in _OFTEN and len(self._moments) >= _MOST_MOMENTS:
            self._dropped += 1
        else:
            self._moments.append((moment, self._clock(), attributes))

    def first_token(self, labels: StreamLabels, ttft_s: float) -> None:
        """See StreamSink, as for the next three."""

    def gaps(self, labels: StreamLabels, gaps_s: Sequence[float]) -> None:
        pass

    def refused(self, labels: StreamLabels | None, reason: Reason) -> None:
        """It has waited for nothing."""
        self._child("queue", self._asked_s, self._clock())

    def ended(self, outcome: StreamOutcome) -> None:
        end_s = self._clock()
        self._span.set_attributes(self._attributes(outcome))
        self._add_events()
        for name, from_s, until_s in self._stages(outcome, end_s):
            self._child(name, from_s, until_s)
        for from_s, until_s, _ in self._between(Moment.STALL, Moment.CREDIT, end_s):
            self._child("stalled", from_s, until_s)
        for from_s, until_s, attributes in self._between(Moment.ASSIGNED, Moment.FAILOVER, end_s):
            self._child("worker", from_s, until_s, attributes)

    def _attributes(self, outcome: StreamOutcome) -> dict[str, AttributeValue]:
        chat = isinstance(self._request.input, ChatInput)
        attributes: dict[str, AttributeValue] = {
            "gen_ai.operation.name": "chat" if chat else "text_completion",
            "gen_ai.provider.name": "penstock",
            "gen_ai.request.model": outcome.labels.model,
            "gen_ai.response.finish_reasons": (outcome.reason,),
            "gen_ai.usage.input_tokens": outcome.prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": outcome.cached_tokens,
            "gen_ai.usage.output_tokens": outcome.completion_tokens,
            "penstock.request_id": outcome.request_id,
            "penstock.tenant": outcome.tenant,
            "penstock.class": outcome.labels.service_class.name.lower(),
            "penstock.arm": outcome.labels.arm,
            "penstock.stalls": outcome.stalls,
            "penstock.stalled_s": outcome.stalled_s,
        }
        if outcome.cause is not None:
            attributes["penstock.cause"] = outcome.cause.value
        if outcome.ttft_s is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = outcome.ttft_s
        if self._dropped:
            attributes["penstock.dropped_moments"] = self._dropped
        return attributes

    def _add_events(self) -> None:
        held = len(self._request.resume_ids)
        if held:
            self._span.add_event("resumed stream", {"tokens": held}, self._ns(self._asked_s))
        for moment, at_s, attributes in self._moments:
            if moment in _EVENTS:
                self._span.add_event(moment.value, attributes, self._ns(at_s))

    def _stages(self, outcome: StreamOutcome, end_s: float) -> Iterator[tuple[str, float, float]]:
        """Name, beginning and end of each: as the engine told them, else as it looked from here."""
        permit_s = self._asked_s + outcome.queue_s
        first_s = None if outcome.ttft_s is None else self._asked_s + outcome.ttft_s
        row_end_s = self._at(Moment.ROW_ENDED, end_s)
        began_s = self._at(Moment.PREFILL, row_end_s if first_s is None else first_s)
        told = outcome.stages_s
        if "queue" in told:
            began_s = self._asked_s + told["queue"]
        yield "queue", self._asked_s, began_s
        if told.get("tokenise"):
            yield "tokenise", permit_s, permit_s + told["tokenise"]
        if began_s < row_end_s:
            yield "prefill", began_s, row_end_s if first_s is None else first_s
        if first_s is not None:
            yield "decode", first_s, row_end_s

    def _at(self, wanted: Moment, otherwise_s: float) -> float:
        """When it happened first."""
        return next((at_s for moment, at_s, _ in self._moments if moment is wanted), otherwise_s)

    def _between(
        self, opening: Moment, closing: Moment, end_s: float
    ) -> Iterator[tuple[float, float, dict[str, AttributeValue]]]:
        """The times from each `opening` to the next `closing`, or to the end, and the former's attributes."""
        opened: tuple[float, dict[str, AttributeValue]] | None = None
        for moment, at_s, attributes in self._moments:
            if moment is opening:
                opened = (at_s, attributes)
            elif moment is closing and opened is not None:
                yield opened[0], at_s, opened[1]
                opened = None
        # With moments dropped nobody knows whether it was closed.
        if opened is not None and not (self._dropped and opening in _OFTEN):
            yield opened[0], end_s, opened[1]

    def _child(
        self, name: str, from_s: float, until_s: float, attributes: dict[str, AttributeValue] | None = None
    ) -> None:
        self._children.add(self._context, name, self._ns(from_s), self._ns(until_s), attributes)

    def _ns(self, at_s: float) -> int:
        return self._wall_ns + int(at_s * _NS)


def trace_of(
    children: Children | None, request: GenerationRequest, clock: Callable[[], float]
) -> RecordedStream | None:
    """For the stream of the RPC that runs here; None when its span is not recorded, or children is None."""
    if children is None:
        return None
    span = trace.get_current_span()
    return RecordedStream(span, children, request, clock) if span.is_recording() else None
