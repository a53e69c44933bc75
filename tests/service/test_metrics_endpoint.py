"""The HTTP endpoint itself: what it answers to whom, and when it cannot."""

import asyncio
import socket
from dataclasses import replace

import pytest
from opentelemetry.sdk.metrics import MeterProvider

from service.server import BindError
from service.telemetry.collection import Collection
from service.telemetry.endpoint import MetricsEndpoint
from service.telemetry.readers import ScrapeReader
from tests.service.metered import TELEMETRY, counting_engine, metered, scraped, url_of
from tests.service.scrapes import Answer, ask
from tests.service.servers import serving


async def asked(url: str, method: str = "GET") -> Answer:
    return await asyncio.to_thread(ask, url, method)


async def test_only_metrics_are_there_and_only_to_be_got() -> None:
    async with metered() as local:
        url = url_of(local)
        good = await asked(url)
        assert good.status == 200
        assert good.headers["Content-Type"].startswith("text/plain; version=")
        for path in ("", "/", "/metrics/", "/debug", "/favicon.ico", "/metrics2"):
            assert (await asked(url.removesuffix("/metrics") + path)).status == 404, path
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
            answer = await asked(url, method)
            assert (answer.status, answer.headers["Allow"]) == (405, "GET"), method


async def test_clients_that_say_nothing_hold_up_nobody() -> None:
    async with metered() as local:
        host, _, port = local.server.metrics_address.rpartition(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(8)]
        silent[0].sendall(b"GET /metrics HTTP/1.1\r\n")
        try:
            assert (await asked(url_of(local))).status == 200
        finally:
            for each in silent:
                each.close()
        assert (await asked(url_of(local))).status == 200


async def test_scrapes_at_the_same_time_are_whole() -> None:
    async with metered() as local:
        names = (await scraped(local)).names
        many = await asyncio.gather(*(scraped(local) for _ in range(8)))
        assert all(each.names == names for each in many)


async def test_a_loop_that_does_not_answer_is_said() -> None:
    stopped = asyncio.new_event_loop()
    collection = Collection((), lambda: (), stopped, timeout_s=0.05)
    reader = ScrapeReader(collection)
    provider = MeterProvider([reader], shutdown_on_exit=False)
    endpoint = MetricsEndpoint(collection, reader.registry)
    url = f"http://{endpoint.open('127.0.0.1', 0)}/metrics"
    try:
        answer = await asked(url)
        assert (answer.status, answer.body) == (503, b"the event loop did not answer for 0.05 s\n")
        stopped.close()
        assert (await asked(url)).status == 503
    finally:
        await asyncio.to_thread(endpoint.close)
        provider.shutdown()


async def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            BindError, match=f"telemetry.prometheus_port: cannot listen on 127.0.0.1:{port}: "
        ):
            async with metered(changes={"prometheus_port": port}):
                pass


async def test_the_port_is_free_again_when_the_server_has_stopped() -> None:
    async with metered() as local:
        port = int(local.server.metrics_address.rpartition(":")[2])
    async with serving(counting_engine(), telemetry=replace(TELEMETRY, prometheus_port=port)) as again:
        assert again.server.metrics_address == f"127.0.0.1:{port}"


async def test_without_telemetry_there_is_no_endpoint() -> None:
    async with serving(counting_engine()) as local:
        assert local.server.metrics_address == ""
