"""The spans of a stream, from the moments that it noted."""

from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from engine.requests import ChatInput, GenerationRequest
from flowcontrol.admission.ask import ServiceClass
from flowcontrol.reasons import Reason
from service.observation import Cause, StreamLabels, StreamOutcome
from service.telemetry.ended_spans import EndedSpans
from service.telemetry.stream_trace import Moment, RecordedStream, trace_of
from tests.engine.requests import generation
from tests.service.drivers import START_S, Clock

WALL_S = 1_700_000_000
LABELS = StreamLabels("tiny", ServiceClass.DEFAULT, "control")


def outcome(**changes: Any) -> StreamOutcome:
    fields: dict[str, Any] = {
        "labels": LABELS,
        "tenant": "",
        "request_id": "named",
        "cause": None,
        "reason": "stop",
        "queue_s": 1.0,
        "ttft_s": 3.0,
        "duration_s": 8.0,
        "stalled_s": 0.0,
        "stalls": 0,
        "decode_s": 5.0,
        "prompt_tokens": 7,
        "cached_tokens": 0,
        "completion_tokens": 4,
        "stages_s": {},
    }
    return StreamOutcome(**fields | changes)


class Recording:
    """A stream whose clock the test turns; `at` does so and notes a moment."""

    def __init__(self, request: GenerationRequest | None = None) -> None:
        self.clock = Clock()
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        processor = SimpleSpanProcessor(self.exporter)
        provider.add_span_processor(processor)
        self.tracer = provider.get_tracer("test")
        self.below = EndedSpans(processor, provider.resource, "test")
        self.span = self.tracer.start_span("rpc")
        self.trace = RecordedStream(
            self.span, self.below, request or generation(), self.clock, lambda: WALL_S * 10**9
        )

    def at(self, after_s: float, moment: Moment, **attributes: Any) -> None:
        self.clock.now_s = START_S + after_s
        self.trace.note(moment, **attributes)

    def ended(self, after_s: float, **changes: Any) -> None:
        self.clock.now_s = START_S + after_s
        self.trace.ended(outcome(**changes))
        self.span.end()

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    @property
    def children(self) -> list[tuple[str, float, float]]:
        """Name, beginning and end in seconds since the stream asked."""
        return [
            (span.name, _since_s(span.start_time), _since_s(span.end_time))
            for span in self.spans
            if span.name != "rpc"
        ]

    @property
    def stream(self) -> ReadableSpan:
        return self.spans[-1]

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(self.stream.attributes or {})

    @property
    def events(self) -> list[tuple[str, float]]:
        return [(event.name, _since_s(event.timestamp)) for event in self.stream.events]


def _since_s(time_ns: int | None) -> float:
    assert time_ns is not None
    return (time_ns - WALL_S * 10**9) / 1e9


@pytest.fixture
def recording() -> Recording:
    return Recording()


def test_stages_as_the_engine_told_them(recording: Recording) -> None:
    recording.at(2.5, Moment.PREFILL)
    recording.at(7.0, Moment.ROW_ENDED)
    told = {"queue": 2.0, "tokenise": 0.5, "cache_lookup": 0.1, "prefill": 1.0, "first_token": 3.0}
    recording.ended(8.0, stages_s=told)
    assert recording.children == [
        ("queue", 0.0, 2.0),
        ("tokenise", 1.0, 1.5),
        ("prefill", 2.0, 3.0),
        ("decode", 3.0, 7.0),
    ]


def test_stages_of_a_stream_that_ends_early(recording: Recording) -> None:
    recording.at(2.0, Moment.PREFILL)
    recording.at(2.5, Moment.PREFILL)
    recording.ended(5.0, cause=Cause.CLIENT, reason="cancelled")
    assert recording.children == [("queue", 0.0, 2.0), ("prefill", 2.0, 3.0), ("decode", 3.0, 5.0)]
    assert recording.attributes["penstock.cause"] == "client"


def test_stages_of_a_stream_without_a_token(recording: Recording) -> None:
    recording.at(2.0, Moment.PREFILL)
    recording.ended(4.0, ttft_s=None)
    assert recording.children == [("queue", 0.0, 2.0), ("prefill", 2.0, 4.0)]
    assert "gen_ai.response.time_to_first_chunk" not in recording.attributes


def test_a_stream_that_only_waited(recording: Recording) -> None:
    recording.ended(4.0, ttft_s=None, queue_s=4.0)
    assert recording.children == [("queue", 0.0, 4.0)]


def test_a_stream_that_was_refused_while_it_waited(recording: Recording) -> None:
    recording.clock.now_s += 3.0
    recording.trace.refused(LABELS, Reason.QUEUE_TIMEOUT)
    assert recording.children == [("queue", 0.0, 3.0)]


def test_stalls_and_what_was_done_about_them(recording: Recording) -> None:
    recording.at(4.0, Moment.STALL)
    recording.at(4.5, Moment.PARK)
    recording.at(5.0, Moment.CREDIT)
    recording.at(5.0, Moment.RESUME)
    recording.at(6.0, Moment.STALL)
    recording.ended(8.0, stalls=2, stalled_s=3.0)
    assert recording.children[-2:] == [("stalled", 4.0, 5.0), ("stalled", 6.0, 8.0)]
    assert recording.events == [("park", 4.5), ("resume", 5.0)]
    assert recording.attributes["penstock.stalls"] == 2


def test_a_span_for_each_worker_that_had_it(recording: Recording) -> None:
    recording.at(1.0, Moment.ASSIGNED, worker=0, pid=100)
    recording.at(4.0, Moment.FAILOVER)
    recording.at(5.0, Moment.ASSIGNED, worker=1, pid=101)
    recording.ended(8.0)
    assert recording.children[-2:] == [("worker", 1.0, 4.0), ("worker", 5.0, 8.0)]
    assert [dict(span.attributes or {}) for span in recording.spans if span.name == "worker"] == [
        {"worker": 0, "pid": 100},
        {"worker": 1, "pid": 101},
    ]
    assert recording.events == [("failover", 4.0)]


def test_what_the_server_did_by_itself(recording: Recording) -> None:
    recording.at(4.0, Moment.REMEDIATION, action="shrink prefill slices", cause="ttft_p95")
    recording.ended(8.0)
    [event] = recording.stream.events
    assert (event.name, event.attributes) == (
        "remediation",
        {"action": "shrink prefill slices", "cause": "ttft_p95"},
    )


def test_a_trace_stays_small_however_often_a_stream_stalls(recording: Recording) -> None:
    for n in range(1000):
        recording.at(4.0 + n, Moment.STALL)
        recording.at(4.5 + n, Moment.CREDIT)
    recording.at(2000.0, Moment.FAILOVER)
    recording.ended(2000.0, stalls=1000)
    stalls = [child for child in recording.children if child[0] == "stalled"]
    assert stalls == [("stalled", 4.0 + n, 4.5 + n) for n in range(len(stalls))]
    assert 50 < len(stalls) <= 100
    assert recording.attributes["penstock.dropped_moments"] == 2000 - 2 * len(stalls)
    assert recording.events == [("failover", 2000.0)]


def test_a_stall_whose_end_was_not_noted_is_left_out(recording: Recording) -> None:
    recording.at(4.0, Moment.PARK)
    for n in range(1000):
        recording.at(5.0 + n, Moment.STALL)
        recording.at(5.5 + n, Moment.CREDIT)
    recording.ended(2000.0)
    stalls = [child for child in recording.children if child[0] == "stalled"]
    assert all(end_s - begin_s == 0.5 for _, begin_s, end_s in stalls)


def test_a_conversation_and_a_resumed_stream() -> None:
    recording = Recording(generation(ChatInput((("user", "a secret"),)), resume_ids=(4, 5)))
    recording.ended(8.0)
    assert recording.attributes["gen_ai.operation.name"] == "chat"
    [event] = recording.stream.events
    assert (event.name, event.attributes) == ("resumed stream", {"tokens": 2})
    assert "secret" not in "".join(span.to_json() for span in recording.spans)


def test_only_a_recorded_call_has_one(recording: Recording) -> None:
    assert trace_of(None, generation(), recording.clock) is None
    assert trace_of(recording.below, generation(), recording.clock) is None
    with recording.tracer.start_as_current_span("rpc"):
        assert trace_of(recording.below, generation(), recording.clock) is not None
