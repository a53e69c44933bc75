"""Histograms: which bucket a value is in, sums, and what a stream's outcome adds."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.mlx_worker.row_prefixes import _LEAST_PROMPT_TOKENS
from service.observation import Cause, StreamOutcome
from service.telemetry.histograms import HistogramSnapshot, LabelledHistogram, StreamHistograms
from service.telemetry.kv_capacity import BLOCK_TOKENS
from service.telemetry.totals import StreamTotals
from tests.service.sinks import LABELS

OUTCOME = StreamOutcome(
    labels=LABELS,
    tenant="acme",
    request_id="mine",
    cause=None,
    reason="stop",
    queue_s=0.02,
    ttft_s=0.3,
    duration_s=2.3,
    stalled_s=0.0,
    stalls=0,
    decode_s=2.0,
    prompt_tokens=7,
    cached_tokens=3,
    completion_tokens=41,
    stages_s={"queue": 0.03, "prefill": 0.2},
)


def test_a_value_on_a_bound_is_in_its_bucket() -> None:
    histogram = LabelledHistogram("h", "s", "", (1.0, 2.0))
    histogram.add((0.0, 1.0, 1.0001, 2.0, 2.5), {"a": "x"})
    [point] = histogram.snapshot().points
    assert point.counts == (2, 2, 1)
    assert point.total == pytest.approx(6.5001)


@given(st.lists(st.lists(st.floats(0, 100), max_size=20), max_size=8))
def test_counts_and_sums_are_those_of_all_values(batches: list[list[float]]) -> None:
    bounds = (0.5, 1.0, 50.0)
    histogram = LabelledHistogram("h", "s", "", bounds)
    for batch in batches:
        histogram.add(batch, {"a": "x"})
    values = [value for batch in batches for value in batch]
    below = [sum(value <= bound for value in values) for bound in (*bounds, 1e9)]
    points = histogram.snapshot().points
    assert len(points) == bool(batches)
    for point in points:
        assert [sum(point.counts[: n + 1]) for n in range(len(below))] == below
        assert point.total == pytest.approx(sum(values))


def by_name(histograms: StreamHistograms) -> dict[str, HistogramSnapshot]:
    return {each.name: each for each in histograms.snapshot()}


def test_what_a_finished_stream_adds() -> None:
    histograms = StreamHistograms()
    histograms.first_token(LABELS, 0.3)
    histograms.gaps(LABELS, [0.05] * 40)
    histograms.ended(OUTCOME)
    found = by_name(histograms)
    sums = {
        name: [(sum(point.counts), round(point.total, 6)) for point in each.points]
        for name, each in found.items()
    }
    assert sums == {
        "penstock.stream.ttft": [(1, 0.3)],
        "penstock.stream.inter_token": [(40, 2.0)],
        "penstock.stream.queue": [(1, 0.02)],
        "penstock.stream.duration": [(1, 2.3)],
        "penstock.stream.throughput": [(1, 20.0)],
        "penstock.stream.stage": [(1, 0.03), (1, 0.2)],
        "gen_ai.server.time_to_first_token": [(1, 0.3)],
        "gen_ai.server.time_per_output_token": [(1, 0.05)],
        "gen_ai.server.request.duration": [(1, 2.3)],
    }
    [point] = found["penstock.stream.ttft"].points
    assert point.attributes == {"model": "scripted", "class": "default", "arm": "control"}
    [first, _] = found["penstock.stream.stage"].points
    assert first.attributes == {"model": "scripted", "stage": "queue"}


def test_a_stream_without_output_has_no_rate() -> None:
    histograms = StreamHistograms()
    for tokens in (0, 1):
        histograms.ended(replace(OUTCOME, completion_tokens=tokens, decode_s=0.0))
    histograms.ended(replace(OUTCOME, cause=Cause.CLIENT, reason="cancelled"))
    found = by_name(histograms)
    assert sum(found["penstock.stream.throughput"].points[0].counts) == 1
    assert not found["gen_ai.server.time_per_output_token"].points
    assert sum(found["gen_ai.server.time_to_first_token"].points[0].counts) == 2
    assert sum(found["gen_ai.server.request.duration"].points[0].counts) == 3


def test_totals_tell_finished_from_cancelled_and_failed() -> None:
    totals, other = StreamTotals(), replace(LABELS, arm="canary")
    totals.ended(OUTCOME)
    totals.ended(replace(OUTCOME, cause=Cause.DEADLINE, reason="cancelled"))
    totals.ended(replace(OUTCOME, labels=other, cause=Cause.SERVER, reason="WORKER_LOST"))
    snapshot = totals.snapshot()
    assert snapshot.ended == {
        LABELS: {"finished": 1, "cancelled": 1, "failed": 0},
        other: {"finished": 0, "cancelled": 0, "failed": 1},
    }
    assert snapshot.cancelled == {
        Cause.CLIENT: 0, Cause.DEADLINE: 1, Cause.ACK_TIMEOUT: 0, Cause.SERVER: 1
    }  # fmt: skip
    assert (snapshot.prompt_tokens, snapshot.cached_tokens, snapshot.completion_tokens) == (21, 9, 123)


def test_a_block_is_the_shortest_prefix_that_is_kept() -> None:
    assert BLOCK_TOKENS == _LEAST_PROMPT_TOKENS
