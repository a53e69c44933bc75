"""Every query of the rules and of the dashboard, answered by a real Prometheus from the real metrics."""

import asyncio
import math
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from benchmarks import dashboard
from benchmarks.dashboard import Query
from benchmarks.prometheus import DEPLOYED, Prometheus, find, free_port, running_prometheus
from penstock.tenant import tenant_metadata
from tests.integration.processes import SCRIPTED, running_server
from tests.service.calls import GenerateCall, endless, generate
from tests.service.eventually import eventually
from tests.service.servers import Stubs, stubs_of

NO_DATA = frozenset({"Prefix cache A", "annotation Worker restarts"})
"""Queries of known metrics that give nothing: the scripted engine has no prefix cache in which anything is
looked up, and no worker is restarted."""

MISSING = "no prometheus and promtool here: deploy/prometheus/fetch.sh build/prometheus fetches them"

# A scrape may take as long; on a busy machine 0.2 s were too few.
SCRAPE_S = 0.5
# In which all must have been answered, and for a whole test.
WITHIN_S, TIMEOUT_S = 100.0, 240
pytestmark = [
    pytest.mark.skipif(find("prometheus") is None or find("promtool") is None, reason=MISSING),
    pytest.mark.timeout(TIMEOUT_S),
]
# A limit that requests come up against and that moves, since no token comes within 1 ms; a reader that stalls
# is ended soon; a tenant has a quota. An objective that is breached at once for the same reason, so that
# actions are told, and a feature with both arms.
OPTIONS = {
    "STREAM_REGISTRY__MAX_ACTIVE_STREAMS": "5",
    "STREAM_REGISTRY__ADAPTIVE_LIMITS__ADJUSTMENT_INTERVAL_MS": "100",
    "STREAM_REGISTRY__ADAPTIVE_LIMITS__MIN_STREAMS": "3",
    "STREAM_REGISTRY__ADAPTIVE_LIMITS__MIN_SAMPLES": "1",
    "STREAM_REGISTRY__ADAPTIVE_LIMITS__TARGET_LATENCY_MS": "1",
    "STREAM_REGISTRY__BACKPRESSURE__ACK_TIMEOUT_MS": "300",
    "STREAM_REGISTRY__BACKPRESSURE__MAX_BACKLOG_TOKENS": "16",
    "ADMISSION__QUEUE__MAX_REQUESTS": "4",
    "ADMISSION__TENANTS__MAX_STREAMS": "8",
    "SLO__EVALUATION_INTERVAL_MS": "200",
    "SLO__FAST_WINDOW_MS": "1000",
    "SLO__SLOW_WINDOW_MS": "2000",
    "SLO__MIN_SAMPLES": "1",
    "SLO__INTER_TOKEN_P95_MS": "1",
    "REMEDIATION__MODE": "dry_run",
    "FEATURES__PREFIX_CACHE__ENABLED": "false",
    "FEATURES__PREFIX_CACHE__CANARY_PERCENT": "50",
}
# Wide enough for all that happened since the server started.
VARIABLES = {
    "instance": ".*",
    "model": ".*",
    "class": ".*",
    "arm": ".*",
    "__rate_interval": "10m",
    "__interval": "10m",
}


@dataclass(frozen=True)
class Observed:
    """A server, and the Prometheus that reads its metrics."""

    address: str
    prometheus: Prometheus


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("observed")
    port = free_port()
    options = OPTIONS | {"TELEMETRY__PROMETHEUS_PORT": str(port)}
    program = find("prometheus")
    assert program is not None
    with (
        running_server(folder / "stderr", options, **SCRIPTED) as server,
        running_prometheus(
            program, folder, [f"127.0.0.1:{port}"], scrape_s=SCRAPE_S, evaluate_s=SCRAPE_S
        ) as prometheus,
    ):
        yield Observed(server.address, prometheus)


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "rules.yml"),
        ("test", "rules", "rules_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [str(find("promtool")), *arguments],
        cwd=DEPLOYED,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def test_every_query_of_the_dashboard_gives_data(observed: Observed) -> None:
    board = dashboard.dashboard()
    queries = [query for panel in dashboard.panels(board) for query in dashboard.queries(panel)]
    await all_answered(observed, [*queries, *dashboard.annotation_queries(board)])


async def test_every_recorded_rule_gives_data(observed: Observed) -> None:
    recorded = [rule for rule in observed.prometheus.rules() if rule["type"] == "recording"]
    assert recorded
    await all_answered(
        observed, [Query(rule["name"] + str(rule.get("labels", "")), rule["query"]) for rule in recorded]
    )


async def test_every_alert_is_evaluated_on_metrics_that_are_there(observed: Observed) -> None:
    async def alerts() -> list[dict[str, Any]]:
        await some_load(observed.address)
        return [rule for rule in observed.prometheus.rules() if rule["type"] == "alerting"]

    rules = await eventually(
        alerts, lambda seen: all(rule["health"] == "ok" for rule in seen), within_s=WITHIN_S
    )
    assert rules
    missing = unknown(observed.prometheus, [Query(rule["name"], rule["query"]) for rule in rules])
    assert missing == {}


async def test_every_variable_has_values(observed: Observed) -> None:
    variables = list(dashboard.variable_queries(dashboard.dashboard()))

    async def without() -> list[str]:
        await some_load(observed.address)
        return [name for name, *what in variables if not observed.prometheus.label_values(*what)]

    assert len(variables) == 4
    await eventually(without, lambda names: names == [], within_s=WITHIN_S)


async def all_answered(observed: Observed, queries: list[Query]) -> None:
    """Put load on the server until each query has given data once. On a busy machine a scrape may fail."""
    assert queries
    await scraped(observed.prometheus)
    left = [
        query for query in queries if not answer(observed.prometheus, query) and query.where not in NO_DATA
    ]

    async def unanswered() -> list[Query]:
        if left:
            await some_load(observed.address)
        left[:] = [query for query in left if not answer(observed.prometheus, query)]
        return left

    try:
        await eventually(unanswered, lambda seen: not seen, within_s=WITHIN_S)
    except AssertionError as error:
        missing = unknown(observed.prometheus, queries)
        raise AssertionError(f"metrics that are not there: {missing}; {error}") from error
    assert unknown(observed.prometheus, queries) == {}


async def scraped(prometheus: Prometheus) -> None:
    """Return when there is a first sample: what is counted before it, such as an action, is no increase."""

    async def names() -> set[str]:
        return prometheus.metric_names()

    await eventually(names, lambda seen: "penstock_remediation_actions_total" in seen, within_s=WITHIN_S)


def answer(prometheus: Prometheus, query: Query) -> bool:
    """Whether it gives a number. QueryError when it is not valid."""
    series = prometheus.instant(dashboard.substituted(query.expression, VARIABLES))
    return any(not math.isnan(float(one["value"][1])) for one in series)


def unknown(prometheus: Prometheus, queries: list[Query]) -> dict[str, set[str]]:
    """Metrics that Prometheus has never seen, and the queries that use them."""
    known = prometheus.metric_names()
    used = {query.where: dashboard.metrics_of(query.expression) - known for query in queries}
    return {where: names for where, names in used.items() if names}


async def some_load(address: str) -> None:
    """Streams of several classes, and of all the ways in which one ends."""
    async with stubs_of(address) as stubs:
        await asyncio.gather(
            *(finished(stubs, priority) for priority in (1, 2, 3) for _ in range(2)),
            cancelled(stubs),
            late(stubs),
            stalled(stubs),
            refused(stubs),
            *(crowding(stubs) for _ in range(12)),
        )


def refusable(call: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Refusals are part of the load."""

    async def asked(*arguments: Any) -> None:
        with suppress(grpc.aio.AioRpcError):
            await call(*arguments)

    return asked


@refusable
async def finished(stubs: Stubs, priority: int) -> None:
    await generate(stubs.generation, endless(20, priority=priority))


@refusable
async def cancelled(stubs: Stubs) -> None:
    async with GenerateCall(stubs.generation) as call:
        await call.start(endless(10_000))
        await call.read_chunks(2)


@refusable
async def late(stubs: Stubs) -> None:
    async with GenerateCall(stubs.generation, timeout_s=0.3) as call:
        await call.start(endless(10_000))
        await call.half_close()
        await call.rest()


@refusable
async def stalled(stubs: Stubs) -> None:
    """A reader that acks for a while, so that the stream stalls, goes on, and stalls for good."""
    async with GenerateCall(stubs.generation) as call:
        await call.start(endless(10_000, flow={"max_unacked_chunks": 2}))
        await call.read_chunks(2)
        await asyncio.sleep(SCRAPE_S)
        await call.ack(2)
        await call.rest()


@refusable
async def refused(stubs: Stubs) -> None:
    await generate(stubs.generation, endless(10, sampling={"top_p": 2}))


@refusable
async def crowding(stubs: Stubs) -> None:
    async with GenerateCall(stubs.generation, metadata=tenant_metadata("crowd")) as call:
        await call.start(endless(30))
        await call.half_close()
        await call.rest()
