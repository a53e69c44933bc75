"""The file with limits per tenant: read at the start and on SIGHUP; one with a mistake changes nothing."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2

from penstock.v1.status_pb2 import Status, TenantStatus
from tests.integration.admission_calls import TenantCall, at_rest, fixed_limit, holding, queued
from tests.integration.conftest import StartServer
from tests.integration.processes import SCRIPTED, ServerProcess, penstock
from tests.service.calls import endless
from tests.service.eventually import eventually
from tests.service.servers import Stubs, stubs_of

NOT_RELOADED = "tenants not reloaded, the old limits stay"
RELOADED = "tenants reloaded"


def limits_of_acme(streams: int) -> str:
    return f"tenants:\n  acme: {{max_streams: {streams}, weight: {streams}}}\n"


class TenantsServer:
    """A server with a file of tenants."""

    def __init__(self, process: ServerProcess, file: Path) -> None:
        self._process = process
        self._file = file

    async def reload(self, text: str, line: str) -> None:
        """Give it another file, and wait until it says so once more in its log."""
        before = self._process.stderr().count(line)
        self._file.write_text(text)
        self._process.signal(signal.SIGHUP)

        async def written() -> int:
            return self._process.stderr().count(line)

        assert await eventually(written, lambda count: count > before) == before + 1

    def log(self) -> str:
        return self._process.stderr()


@pytest.fixture
def server(server_process: StartServer, tmp_path: Path) -> tuple[TenantsServer, str]:
    file = tmp_path / "tenants.yaml"
    file.write_text(limits_of_acme(1))
    options = fixed_limit(10, ADMISSION__TENANTS__FILE=str(file), LOGGING__LEVEL="info")
    process = server_process(options, **SCRIPTED)
    return TenantsServer(process, file), process.address


@pytest_asyncio.fixture
async def stubs(server: tuple[TenantsServer, str]) -> AsyncIterator[Stubs]:
    async with stubs_of(server[1]) as stubs:
        watch = stubs.health.Watch(health_pb2.HealthCheckRequest())
        while (await watch.read()).status != health_pb2.HealthCheckResponse.SERVING:
            pass
        watch.cancel()
        yield stubs


def acme(status: Status) -> TenantStatus:
    (tenant,) = [one for one in status.admission.tenants if one.name == "acme"]
    return tenant


async def counts(stubs: Stubs) -> tuple[int, int]:
    """Of acme: streams in flight, and those that wait."""
    tenant = acme(await stubs.status())
    return tenant.in_flight, tenant.queued


async def test_limits_of_a_tenant_and_a_reload(server: tuple[TenantsServer, str], stubs: Stubs) -> None:
    process, _ = server
    # A stream that runs through all of it.
    runner = TenantCall(stubs.generation, "acme")
    await runner.start(endless(200))
    await runner.half_close()
    await runner.read_chunks(1)
    calls = [await TenantCall(stubs.generation, "acme").hold() for _ in range(4)]
    assert await counts(stubs) == (1, 4)
    # Others have room.
    other = await holding(stubs, "other")
    tenant = acme(await stubs.status())
    assert (tenant.named, tenant.weight) == (True, 1)

    await process.reload(limits_of_acme(3), RELOADED)
    assert await counts(stubs) == (3, 2)
    assert acme(await stubs.status()).weight == 3

    for bad in ("tenants: {acme: {max_streams: -1}}", "tenants: {acme: {max_strems: 9}}", "tenants: ["):
        await process.reload(bad, NOT_RELOADED)
        assert await counts(stubs) == (3, 2)
    assert "max_strems" in process.log()
    assert acme(await stubs.status()).weight == 3

    # A lower limit drops nobody.
    await process.reload(limits_of_acme(1), RELOADED)
    assert await counts(stubs) == (3, 2)
    answer = await runner.rest()
    assert answer.token_ids == list(range(1, 201))
    assert await counts(stubs) == (2, 2)

    # A tenant that the file does not name any more has the usual limits: none.
    await process.reload("tenants: {}", RELOADED)
    await queued(stubs, 0)
    assert await counts(stubs) == (4, 0)
    assert not acme(await stubs.status()).named
    for call in (*calls, other):
        await call.let_go()
    await at_rest(stubs)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tenants: {acme: {max_streams: many}}", 'tenants.acme.max_streams: got "many"'),
        (None, "tenants.yaml"),
    ],
    ids=["value", "no file"],
)
def test_a_file_with_a_mistake_at_the_start(tmp_path: Path, text: str | None, problem: str) -> None:
    file = tmp_path / "tenants.yaml"
    if text is not None:
        file.write_text(text)
    done = penstock("serve", "--env", "test", PENSTOCK_ADMISSION__TENANTS__FILE=str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("penstock: ")
    assert str(file) in done.stderr
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
