"""The tenant goes with every call of a client."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from penstock import Client, InvalidRequestError, SyncClient
from penstock.tenant import TENANT_KEY, tenant_metadata, with_tenant
from tests.client.conftest import AnyClient
from tests.client.doubles import Cut, ResumableAnswer, ScriptedServer
from tests.client.drivers import Waits

Calls = list[tuple[str, list[str]]]


class Recorder(grpc.aio.ServerInterceptor):
    """Notes the method and the tenants in the metadata of each call."""

    def __init__(self) -> None:
        self.calls: Calls = []

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        tenants = [str(value) for key, value in details.invocation_metadata if key == TENANT_KEY]
        self.calls.append((details.method.rsplit("/", 1)[-1], tenants))
        return await continuation(details)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def interceptors(recorder: Recorder) -> list[grpc.aio.ServerInterceptor]:
    return [recorder]


async def every_call(client: AnyClient) -> None:
    await client.complete("Hello")
    await client.count_tokens("Hello")
    await client.models()
    await client.status()
    async for _ in client.watch_status():
        break


ALL_CALLS = ["Generate", "CountTokens", "ListModels", "GetStatus", "WatchStatus"]


@pytest.mark.parametrize("tenant", ["acme", None])
async def test_every_call_names_the_tenant(
    client_kind: type[AnyClient], grpc_addr: str, recorder: Recorder, tenant: str | None
) -> None:
    async with client_kind(grpc_addr, tenant=tenant) as client:
        await every_call(client)
    assert recorder.calls == [(call, [tenant] if tenant else []) for call in ALL_CALLS]


async def test_the_calls_of_a_resumed_stream_name_it(
    client_kind: type[AnyClient],
    grpc_addr: str,
    grpc_servicer: ScriptedServer,
    recorder: Recorder,
    waits: Waits,
) -> None:
    answer = ResumableAnswer(["a", "b"], cuts=[Cut(1)])
    grpc_servicer.script = answer
    async with client_kind(grpc_addr, tenant="acme", **waits.options(client_kind)) as client:
        assert await client.complete("Hello", retries=1, priority="bulk") == "ab"
    assert recorder.calls == [(call, ["acme"]) for call in ("Generate", "ListModels", "Generate")]
    assert [start.priority for start in answer.starts] == [1, 1]


async def test_metadata_of_a_call_takes_its_place(
    client_kind: type[AnyClient], grpc_addr: str, recorder: Recorder
) -> None:
    async with client_kind(grpc_addr, tenant="acme") as client:
        await client.complete("Hello", metadata=[("other", "x")])
        await client.complete("Hello", metadata=[("x-tenant-id", "guest")])
    assert recorder.calls == [("Generate", ["acme"]), ("Generate", ["guest"])]


def test_both_kinds_of_metadata() -> None:
    acme = tenant_metadata("acme")
    assert with_tenant(acme, None) == acme
    assert with_tenant(acme, [("other", b"x")]) == ((TENANT_KEY, "acme"), ("other", b"x"))
    assert with_tenant((), [("other", b"x")]) == (("other", b"x"),)


@pytest.mark.parametrize("tenant", ["", " acme", "acme ", "ac\tme", "a\nb", "größe"])
@pytest.mark.parametrize("kind", [Client, SyncClient])
def test_what_metadata_cannot_hold(kind: type[Client] | type[SyncClient], tenant: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"^tenant: got .*; allowed: printable ASCII") as caught:
        kind("127.0.0.1:1", tenant=tenant)
    assert caught.value.violations[0][0] == "tenant"
