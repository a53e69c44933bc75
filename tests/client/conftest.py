"""A scripted server on the test's own loop, under pytest-grpc's fixture names, and both clients of it."""

import socket
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from penstock import Client
from penstock.v1.generation_pb2_grpc import add_GenerationServiceServicer_to_server
from penstock.v1.model_pb2_grpc import add_ModelServiceServicer_to_server
from penstock.v1.status_pb2_grpc import add_StatusServiceServicer_to_server
from tests.client.doubles import ScriptedServer
from tests.client.drivers import ThreadedClient, Waits

AnyClient = Client | ThreadedClient


@pytest_asyncio.fixture
async def grpc_servicer() -> ScriptedServer:
    return ScriptedServer()


@pytest.fixture
def interceptors() -> list[grpc.aio.ServerInterceptor]:
    """Of the server; none but where a test file says so."""
    return []


@pytest_asyncio.fixture
async def grpc_addr(
    grpc_servicer: ScriptedServer, interceptors: list[grpc.aio.ServerInterceptor]
) -> AsyncIterator[str]:
    """Address of a running server; a free port of its own, so nothing is left over between tests."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)], interceptors=interceptors)
    add_GenerationServiceServicer_to_server(grpc_servicer, server)
    add_ModelServiceServicer_to_server(grpc_servicer, server)
    add_StatusServiceServicer_to_server(grpc_servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture(params=["Client", "SyncClient"])
def client_kind(request: pytest.FixtureRequest) -> type[AnyClient]:
    return Client if request.param == "Client" else ThreadedClient


@pytest_asyncio.fixture
async def client(client_kind: type[AnyClient], grpc_addr: str) -> AsyncIterator[AnyClient]:
    async with client_kind(grpc_addr) as client:
        yield client


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest_asyncio.fixture
async def patient(client_kind: type[AnyClient], grpc_addr: str, waits: Waits) -> AsyncIterator[AnyClient]:
    """A client whose waits between two calls are recorded in `waits` and take no time."""
    async with client_kind(grpc_addr, **waits.options(client_kind)) as client:
        yield client


@pytest_asyncio.fixture
async def aio_client(grpc_addr: str) -> AsyncIterator[Client]:
    async with Client(grpc_addr) as client:
        yield client


@pytest.fixture
def free_address() -> str:
    """An address where nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"
