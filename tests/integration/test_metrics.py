"""Metrics of the server process: its lines, its port, and what the embedded model's numbers are."""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.processes import SCRIPTED, ServerProcess, penstock
from tests.service.calls import GenerateCall, endless, generate
from tests.service.scrapes import Scrape, scrape
from tests.service.servers import stubs_of

FAST = {"ENGINE__CPU_BLAS": "none", "ENGINE__HEARTBEAT_INTERVAL_MS": "20"}


@contextmanager
def metered_server(log: Path, options: dict[str, str], **how: Any) -> Iterator[tuple[ServerProcess, str]]:
    """A server that is ready, and the URL of its metrics."""
    server = ServerProcess(log, options, **how)
    try:
        server.wait_listening()
        url = server.wait_metrics()
        server.wait_serving()
        yield server, url
    finally:
        server.stop()
    assert "Traceback" not in server.stderr(), server.stderr()


async def until(url: str, true_of: Callable[[Scrape], bool]) -> Scrape:
    """The first scrape of which it is true. The test's own timeout ends it otherwise."""
    while True:
        seen = await asyncio.to_thread(scrape, url)
        if true_of(seen):
            return seen
        await asyncio.sleep(0.02)


async def test_the_numbers_of_the_embedded_model(tmp_path: Path) -> None:
    with metered_server(tmp_path / "log", FAST) as (server, url):
        idle = await until(url, lambda seen: seen.sum("penstock_workers", state="ready") == 1)
        [info] = [each.labels for each in idle.families["penstock_cache_config_info"].samples]
        assert info["block_size"] == "64"
        assert int(info["num_gpu_blocks"]) > 0
        assert idle.sum("penstock_kv_cache_usage_perc") == 0
        async with stubs_of(server.address) as stubs:
            calls = [GenerateCall(stubs.generation) for _ in range(4)]
            await asyncio.gather(*(call.start(endless(400)) for call in calls))
            busy = await until(url, lambda seen: seen.sum("penstock_kv_cache_usage_perc") > 0)
            assert busy.sum("penstock_kv_cache_usage_perc") <= 1
            assert busy.sum("penstock_kv_bytes") > 0
            for call in calls:
                call.cancel()
            prompt = "Once upon a time there was a dragon. " * 16
            answers = [await generate(stubs.generation, endless(10, prompt=prompt)) for _ in range(2)]
            done = await until(
                url, lambda seen: seen.sum("penstock_prefix_cache_lookups_total", result="hit") == 1
            )
        usages = [answer.end.usage for answer in answers]
        cached = sum(usage.cached_prompt_tokens for usage in usages)
        assert done.sum("penstock_tokens_total", kind="cached_prompt") == cached > 0
        assert done.sum("penstock_stream_stage_seconds_count", stage="prefill") == 2
        assert done.sum("penstock_prefix_cache_bytes") > 0
        assert done.sum("penstock_worker_rss_bytes") > 0
        assert done.sum("penstock_decode_steps_total") > 0
        step_s = done.sum("penstock_worker_step_seconds_total")
        assert 0 < done.sum("penstock_worker_outside_model_seconds_total") < step_s
        assert done.sum("penstock_worker_restarts_total") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="grpcio-observability is there for Linux only")
async def test_grpcs_own_metrics(tmp_path: Path) -> None:
    with metered_server(tmp_path / "log", {"TELEMETRY__GRPC_METRICS": "true"}, **SCRIPTED) as (server, url):
        async with stubs_of(server.address) as stubs:
            await generate(stubs.generation, endless(5))
            method = "penstock.v1.GenerationService/Generate"
            # They come by a thread of their own, once a second.
            await until(url, lambda seen: "grpc_server_call_duration_seconds_count" in seen.names)
        seen = await until(url, lambda seen: seen.sum("grpc_server_call_started_total") >= 1)
        assert seen.sum("grpc_server_call_duration_seconds_count", grpc_method=method, grpc_status="OK") == 1


def test_a_metrics_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = penstock("serve", "--env", "test", PENSTOCK_TELEMETRY__PROMETHEUS_PORT=port)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"penstock: telemetry.prometheus_port: cannot listen on 127.0.0.1:{port}: ")
    assert len(done.stderr.splitlines()) == 1


def test_telemetry_can_be_off(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "log", {"TELEMETRY__ENABLED": "false"}, **SCRIPTED)
    try:
        server.wait_listening()
        server.wait_serving()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.rest_of_stdout() == ""
    finally:
        server.stop()
