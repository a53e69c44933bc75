"""Who of those that wait starts first: classes of service, and turns between tenants."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from penstock.v1 import generation_pb2 as pb
from penstock.v1 import status_pb2
from tests.integration.admission_calls import (
    TenantCall,
    at_rest,
    fixed_limit,
    holding,
    order_of_first_tokens,
    queued,
    scripted,
    streams_of,
    waiting,
)
from tests.integration.processes import ServerProcess
from tests.service.calls import endless
from tests.service.servers import Stubs, stubs_of

BULK, DEFAULT = pb.PRIORITY_BULK, pb.PRIORITY_DEFAULT
INTERACTIVE, SYSTEM = pb.PRIORITY_INTERACTIVE, pb.PRIORITY_SYSTEM
TENANTS = """
tenants:
  low: {max_class: bulk}
  operator: {max_class: system}
  light: {weight: 1}
  heavy: {weight: 3}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("order")
    tenants = folder / "tenants.yaml"
    tenants.write_text(TENANTS)
    # No class is raised by age, and no tenant goes first for what it left to others before.
    options = fixed_limit(
        1,
        ADMISSION__TENANTS__FILE=str(tenants),
        ADMISSION__QUEUE__AGEING_MS="86400000",
        ADMISSION__QUEUE__CREDIT_MS="0",
    )
    with scripted(folder, options) as server:
        yield server


@pytest_asyncio.fixture
async def stubs(server: ServerProcess) -> AsyncIterator[Stubs]:
    async with stubs_of(server.address) as stubs:
        await at_rest(stubs)
        yield stubs


async def test_a_higher_class_starts_first_whenever_it_came(stubs: Stubs) -> None:
    holder = await holding(stubs)
    calls: dict[str, TenantCall] = {}
    for name, priority in (("bulk", BULK), ("default", DEFAULT), ("interactive", INTERACTIVE)):
        calls[name] = await waiting(stubs, endless(3, priority=priority))
    counts = {one.priority: one.queued for one in (await stubs.status()).admission.priorities}
    assert counts == {SYSTEM: 0, INTERACTIVE: 1, DEFAULT: 1, BULK: 1}
    await holder.let_go()
    assert await order_of_first_tokens(calls) == ["interactive", "default", "bulk"]


async def test_within_a_class_and_a_tenant_the_first_to_come_starts_first(stubs: Stubs) -> None:
    holder = await holding(stubs)
    calls = {name: await waiting(stubs, endless(3)) for name in ("first", "second", "third")}
    await holder.let_go()
    assert await order_of_first_tokens(calls) == ["first", "second", "third"]


async def test_a_tenant_gets_no_higher_class_than_it_may(stubs: Stubs) -> None:
    holder = await holding(stubs)
    asks: tuple[tuple[str, str | None, pb.Priority.ValueType], ...] = (
        ("low", "low", INTERACTIVE),
        ("none", None, SYSTEM),
        ("operator", "operator", SYSTEM),
        ("default", None, pb.PRIORITY_UNSPECIFIED),
    )
    calls: dict[str, TenantCall] = {}
    for name, tenant, priority in asks:
        calls[name] = await waiting(stubs, endless(3, priority=priority, request_id=name), tenant)
    streams = await streams_of(stubs)
    assert {name: streams[name].priority for name in calls} == {
        "low": BULK,
        "none": INTERACTIVE,  # What a tenant that nobody named may have at most.
        "operator": SYSTEM,
        "default": DEFAULT,
    }
    assert [streams[name].tenant for name in calls] == ["low", "", "operator", ""]
    assert all(streams[name].state == status_pb2.STREAM_STATE_QUEUED for name in calls)
    await holder.let_go()
    assert await order_of_first_tokens(calls) == ["operator", "none", "default", "low"]


async def test_two_of_one_tenant_do_not_wait_for_ten_of_another(stubs: Stubs) -> None:
    holder = await holding(stubs)
    calls = {f"many-{n}": await waiting(stubs, endless(5), "many") for n in range(10)}
    calls |= {f"few-{n}": await waiting(stubs, endless(5), "few") for n in range(2)}
    await queued(stubs, 12)
    await holder.let_go()
    order = await order_of_first_tokens(calls)
    # In turn: at most as many of `many` as of `few`, and the one that came first.
    assert order.index("few-1") <= 4, order
    assert [name for name in order if name.startswith("many")] == [f"many-{n}" for n in range(10)]


async def test_a_tenant_of_three_times_the_weight_gets_three_turns(stubs: Stubs) -> None:
    holder = await holding(stubs)
    calls = {f"light-{n}": await waiting(stubs, endless(5), "light") for n in range(6)}
    calls |= {f"heavy-{n}": await waiting(stubs, endless(5), "heavy") for n in range(6)}
    await holder.let_go()
    order = await order_of_first_tokens(calls)
    assert 1 <= sum(name.startswith("light") for name in order[:8]) <= 3, order
