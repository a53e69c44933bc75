"""The real server, as a process with the embedded model, under pytest-grpc's fixture names.

Overridden: grpc_server and grpc_addr. Reused as they are: grpc_create_channel, grpc_channel, grpc_stub.
"""

from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from penstock.v1.generation_pb2_grpc import GenerationServiceStub
from tests.integration.processes import LIVE, ServerProcess, running_server
from tests.integration.tokens import CONTEXT_TOKENS
from tests.service.servers import Stubs, stubs_of

# Heartbeats carry the counters that tests wait for. No test but those on a server of their own is to
# see a timeout because the machine is busy.
SHARED_OPTIONS = {
    "ENGINE__CPU_BLAS": "none",
    "ENGINE__MAX_CONTEXT_TOKENS": str(CONTEXT_TOKENS),
    "ENGINE__HEARTBEAT_INTERVAL_MS": "20",
    "ENGINE__STUCK_AFTER_MS": "30000",
    "ENGINE__KILL_AFTER_MS": "60000",
    "STREAM_REGISTRY__MAX_ACTIVE_STREAMS": "40",
    "STREAM_REGISTRY__BACKPRESSURE__ACK_TIMEOUT_MS": "60000",
}

StartServer = Callable[..., ServerProcess]


@pytest.fixture(scope="session")
def grpc_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The server that most tests share."""
    log = tmp_path_factory.mktemp("shared") / "stderr"
    with running_server(log, SHARED_OPTIONS) as server:
        yield server


@pytest.fixture(scope="session")
def grpc_addr(grpc_server: ServerProcess) -> str:
    return grpc_server.address


@pytest.fixture(scope="session")
def grpc_stub_cls() -> type[GenerationServiceStub]:
    return GenerationServiceStub


@pytest_asyncio.fixture
async def stubs(grpc_addr: str) -> AsyncIterator[Stubs]:
    """All services of the shared server, on a channel of this test's own."""
    async with stubs_of(grpc_addr) as stubs:
        yield stubs


@pytest_asyncio.fixture
async def aio_grpc_channel(stubs: Stubs) -> grpc.aio.Channel:
    return stubs.channel


@pytest_asyncio.fixture
async def aio_grpc_stub(stubs: Stubs) -> Any:
    return stubs.generation


@pytest.fixture
def server_process(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers with options such as {"SERVER__DRAIN_GRACE_MS": "500"}; they are stopped after the test.

    Each one listens when it is returned, and waits for nothing more.
    """
    started: list[ServerProcess] = []

    def start(options: Mapping[str, str] | None = None, **how: Any) -> ServerProcess:
        server = ServerProcess(tmp_path / f"stderr-{len(started)}", options or {}, **how)
        started.append(server)
        server.wait_listening()
        return server

    yield start
    for server in started:
        server.stop()
    for server in started:
        assert "Traceback" not in server.stderr(), server.stderr()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the servers wrote when a test fails."""
    report = yield
    if report.failed:
        for server in LIVE:
            report.sections.append((f"stderr of server {server.pid}", server.stderr()))
    return report
