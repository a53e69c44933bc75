"""A real governor in a plain configuration, and a server with nothing but its limits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from flowcontrol.admission.ask import Ask, Refusal, ServiceClass
from flowcontrol.admission.governor import Governor
from flowcontrol.admission.options import GovernorOptions
from flowcontrol.admission.ticket import Ticket
from flowcontrol.limits.contract import StrategyName
from penstock.v1.limits_pb2_grpc import LimitsServiceStub, add_LimitsServiceServicer_to_server
from service.limits import LimitsServicer
from tests.flowcontrol.admission.governors import governor_options
from tests.service.drivers import START_S, Clock
from tests.service.servers import CHANNEL_OPTIONS

OPTIONS = governor_options(
    initial_streams=4,
    limits={"strategy": StrategyName.PID, "min_streams": 2, "max_streams": 8},
    gate={"target_latency_s": 0.2, "class_factors": dict.fromkeys(ServiceClass, 0.0)},
)


def a_governor(options: GovernorOptions = OPTIONS) -> Governor:
    """A governor that was started at START_S."""
    return Governor(options, now_s=START_S, chance=lambda: 0.0)


def ask(governor: Governor, *, tenant: str = "") -> Ticket | Refusal:
    """Asks for a stream of the class DEFAULT at START_S."""
    request = Ask(tenant, ServiceClass.DEFAULT, prompt_tokens=10, max_tokens=90, deadline_s=None)
    return governor.ask(request, START_S)


def tickets(governor: Governor, number: int, *, tenant: str = "") -> list[Ticket]:
    """Requests that are admitted, or wait."""
    answers = [ask(governor, tenant=tenant) for _ in range(number)]
    given = [answer for answer in answers if isinstance(answer, Ticket)]
    assert len(given) == number, answers
    return given


@dataclass
class Shell:
    """Stands for what acts on the governor's decisions."""

    governor: Governor
    admitted: list[Ticket] = field(default_factory=list)
    changes: int = 0

    def changed(self) -> None:
        self.changes += 1
        self.admitted += self.governor.decide(START_S)


@dataclass(frozen=True)
class LimitsServer:
    """stub: untyped, since asynchronous stubs exist for type checkers only."""

    address: str
    stub: Any
    clock: Clock
    shell: Shell


@asynccontextmanager
async def serving_limits(
    governor: Governor, *, remote_control: bool = False, listen: str = "127.0.0.1:0"
) -> AsyncIterator[LimitsServer]:
    """LimitsService over gRPC, on a clock that stands. listen: a gRPC address; port 0 takes a free one."""
    clock, shell = Clock(), Shell(governor)
    servicer = LimitsServicer(
        governor,
        shell.changed,
        remote_control=remote_control,
        clock=clock,
    )
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_LimitsServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port(listen)
    address = f"{listen.removesuffix(':0')}:{port}" if listen.endswith(":0") else listen
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            any_channel: Any = channel
            yield LimitsServer(address, LimitsServiceStub(any_channel), clock, shell)
    finally:
        await server.stop(None)
