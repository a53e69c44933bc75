"""Metrics sent by OTLP to a collector, which is real but for what it does with them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from tests.service.calls import endless, generate
from tests.service.metered import metered, scraped


class CollectingServicer(metrics_service_pb2_grpc.MetricsServiceServicer):
    """Keeps the latest request."""

    def __init__(self) -> None:
        self.latest: pb.ExportMetricsServiceRequest | None = None
        self.came = asyncio.Event()

    async def Export(self, request: Any, context: Any) -> pb.ExportMetricsServiceResponse:
        self.latest = request
        self.came.set()
        return pb.ExportMetricsServiceResponse()

    def metrics(self) -> Iterator[Metric]:
        assert self.latest is not None
        for resource in self.latest.resource_metrics:
            for scope in resource.scope_metrics:
                yield from scope.metrics

    def metric(self, name: str) -> Metric:
        [metric] = [metric for metric in self.metrics() if metric.name == name]
        return metric


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[CollectingServicer, str]]:
    """A collector and its endpoint."""
    servicer = CollectingServicer()
    server = grpc.aio.server()
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield servicer, f"http://127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def test_a_collector_gets_what_a_scrape_shows() -> None:
    async with collector() as (collected, endpoint):
        async with metered(changes={"otlp_endpoint": endpoint, "otlp_interval_s": 0.1}) as local:
            await generate(local.stubs.generation, endless(20))
            seen = await scraped(local)
            collected.came.clear()
            await collected.came.wait()
        # At its end the server has sent a last time.
        ttft = collected.metric("penstock.stream.ttft")
        [point] = ttft.histogram.data_points
        assert (point.count, ttft.unit) == (1, "s")
        assert point.sum == seen.sum("penstock_stream_ttft_seconds_sum")
        assert {each.key: each.value.string_value for each in point.attributes} == {
            "model": "scripted", "class": "default", "arm": "control"
        }  # fmt: skip
        assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
        tokens = collected.metric("penstock.tokens").sum
        assert tokens.is_monotonic
        assert {
            each.attributes[0].value.string_value: each.as_int for each in tokens.data_points
        } == {"prompt": 4, "cached_prompt": 0, "completion": 20}  # fmt: skip
        assert collected.latest is not None
        [resource] = collected.latest.resource_metrics
        attributes = {each.key: each.value.string_value for each in resource.resource.attributes}
        assert attributes["service.name"] == "penstock"


async def test_a_collector_that_is_away_does_not_hold_up_scrapes_or_the_end() -> None:
    # Nothing listens on port 9 (discard).
    changes = {"otlp_endpoint": "http://127.0.0.1:9", "otlp_interval_s": 0.05}
    async with metered(changes=changes) as local:
        await generate(local.stubs.generation, endless(20))
        assert (await scraped(local)).sum("penstock_tokens_total", kind="completion") == 20
