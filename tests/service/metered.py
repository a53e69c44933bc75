"""Servers on the test's own loop that tell their metrics."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from engine.scripted import ScriptedEngine, counting_script
from service.options import TelemetryOptions
from tests.service.scrapes import Scrape, scrape
from tests.service.servers import LocalServer, serving

TELEMETRY = TelemetryOptions(
    prometheus_host="127.0.0.1",
    prometheus_port=0,
    otlp_endpoint="",
    otlp_interval_s=60.0,
    trace_sample_ratio=0.0,
    grpc_metrics=False,
    max_batch_rows=8,
)


def counting_engine(step_s: float = 0.002) -> ScriptedEngine:
    return ScriptedEngine(counting_script, step_s=step_s)


def url_of(local: LocalServer) -> str:
    return f"http://{local.server.metrics_address}/metrics"


async def scraped(local: LocalServer) -> Scrape:
    return await asyncio.to_thread(scrape, url_of(local))


@asynccontextmanager
async def metered(
    engine: ScriptedEngine | None = None, changes: dict[str, Any] | None = None, **serving_options: Any
) -> AsyncIterator[LocalServer]:
    """changes: fields of TelemetryOptions."""
    telemetry = replace(TELEMETRY, **(changes or {}))
    async with serving(engine or counting_engine(), telemetry=telemetry, **serving_options) as local:
        yield local
