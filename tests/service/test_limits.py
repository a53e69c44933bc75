"""LimitsService: what it shows, what it takes, and what it refuses without changing anything."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from config.schema import HOUR_MS, STREAMS_MAX
from flowcontrol.admission.ticket import TicketState
from flowcontrol.limits.contract import StrategyName
from penstock.v1 import limits_pb2 as pb
from service.admission_messages import MAX_STREAMS, MAX_TARGET_MS
from service.identity import is_local
from service.limits import LimitsServicer
from tests.service.admission_subjects import OPTIONS, LimitsServer, a_governor, serving_limits, tickets
from tests.service.drivers import Clock
from tests.service.elsewhere import AbortedError, CallFrom
from tests.service.refusals import Refusal, refusal

Update = pb.UpdateLimitsRequest


async def shown(server: LimitsServer) -> pb.Limits:
    response = await server.stub.GetLimits(pb.GetLimitsRequest())
    assert isinstance(response.limits, pb.Limits)
    return response.limits


async def update(server: LimitsServer, **fields: Any) -> pb.UpdateLimitsResponse:
    response = await server.stub.UpdateLimits(Update(**fields))
    assert isinstance(response, pb.UpdateLimitsResponse)
    return response


async def refused_update(server: LimitsServer, **fields: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await update(server, **fields)
    return refusal(caught.value)


async def test_limits_as_they_stand() -> None:
    governor = a_governor()
    tickets(governor, 7)
    async with serving_limits(governor) as server:
        server.clock.now_s += 2.5
        limits = await shown(server)
    assert limits == pb.Limits(
        strategy=pb.LIMIT_STRATEGY_PID,
        min_streams=2,
        max_streams=8,
        target_ttft_ms=1000,
        target_latency_ms=200,
        limit=4,
        in_flight=4,
        queued=3,
        reason=pb.LIMIT_REASON_STARTED,
        changed_ago_ms=2500,
        drain_ms=limits.drain_ms,
        last_good=4,
    )


async def test_every_field_can_be_changed() -> None:
    async with serving_limits(a_governor()) as server:
        answer = await update(
            server,
            strategy=pb.LIMIT_STRATEGY_GRADIENT,
            min_streams=5,
            max_streams=80,
            target_ttft_ms=800,
            target_latency_ms=0,
            note="evening load",
        )
        assert answer.before.limit == 4
        assert answer.after == await shown(server)
    after = answer.after
    assert (after.strategy, after.reason) == (pb.LIMIT_STRATEGY_GRADIENT, pb.LIMIT_REASON_SET)
    assert (after.min_streams, after.max_streams, after.limit, after.last_change) == (5, 80, 5, 1)
    assert (after.target_ttft_ms, after.target_latency_ms) == (800, 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strategy", pb.LIMIT_STRATEGY_FIXED),
        ("min_streams", 3),
        ("max_streams", 6),
        ("target_ttft_ms", 1),
        ("target_latency_ms", 0),
    ],
)
async def test_what_is_not_set_stays_as_it_is(field: str, value: int) -> None:
    async with serving_limits(a_governor()) as server:
        before = await shown(server)
        answer = await update(server, **{field: value})
    assert answer.before == before
    settings = ("strategy", "min_streams", "max_streams", "target_ttft_ms", "target_latency_ms")
    changed = {name for name in settings if getattr(answer.after, name) != getattr(before, name)}
    assert changed == {field}
    assert getattr(answer.after, field) == value


async def test_a_target_between_two_milliseconds_is_kept() -> None:
    """It is shown rounded; a change of something else must not round it."""
    governor = a_governor(replace(OPTIONS, gate=replace(OPTIONS.gate, target_latency_s=0.0125)))
    async with serving_limits(governor) as server:
        await update(server, max_streams=9)
    assert governor.options.gate.target_latency_s == 0.0125


async def test_waiters_start_at_once_when_the_limit_is_raised() -> None:
    governor = a_governor()
    asked = tickets(governor, 7)
    async with serving_limits(governor) as server:
        await update(server, strategy=pb.LIMIT_STRATEGY_FIXED, min_streams=6, max_streams=6)
        assert server.shell.admitted == asked[4:6]
        assert (await shown(server)).queued == 1
    assert asked[6].state is TicketState.WAITING


async def test_streams_in_flight_go_on_when_the_limit_is_lowered() -> None:
    governor = a_governor()
    asked = tickets(governor, 4)
    async with serving_limits(governor) as server:
        answer = await update(server, min_streams=1, max_streams=1)
    assert (answer.after.limit, answer.after.in_flight, answer.after.last_change) == (1, 4, -3)
    assert {ticket.state for ticket in asked} == {TicketState.ADMITTED}


async def test_every_violation_is_told_at_once_and_nothing_is_changed() -> None:
    governor = a_governor()
    async with serving_limits(governor) as server:
        with capture_logs() as logs:
            refused = await refused_update(
                server,
                strategy=17,
                min_streams=0,
                max_streams=10_001,
                target_ttft_ms=0,
                target_latency_ms=3_600_001,
                note="x" * 257,
            )
        assert server.shell.changes == 0
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    strategies = ", ".join(f"LIMIT_STRATEGY_{name}" for name in ("FIXED", "THRESHOLD", "PID", "GRADIENT"))
    assert refused.violations == {
        "strategy": f"got 17; allowed: {strategies}",
        "min_streams": "got 0; allowed: 1 to 10000",
        "max_streams": "got 10001; allowed: 1 to 10000",
        "target_ttft_ms": "got 0; allowed: 1 to 3600000",
        "target_latency_ms": "got 3600001; allowed: 0 to 3600000",
        "note": "got 257 characters; allowed: at most 256",
    }
    assert governor.options == OPTIONS
    assert logs == []


@pytest.mark.parametrize(
    ("fields", "violation"),
    [
        ({"min_streams": 9}, {"min_streams": "got 9; allowed: at most max_streams, which is 8"}),
        ({"max_streams": 1}, {"max_streams": "got 1; allowed: at least min_streams, which is 2"}),
        (
            {"min_streams": 30, "max_streams": 20},
            {"max_streams": "got 20; allowed: at least min_streams, which is 30"},
        ),
        # Out of range is all that there is to say then.
        ({"min_streams": 10_001}, {"min_streams": "got 10001; allowed: 1 to 10000"}),
        ({"max_streams": 0}, {"max_streams": "got 0; allowed: 1 to 10000"}),
    ],
)
async def test_bounds_keep_their_order_with_what_is_in_force(
    fields: dict[str, int], violation: dict[str, str]
) -> None:
    governor = a_governor()
    async with serving_limits(governor) as server:
        refused = await refused_update(server, target_ttft_ms=5, **fields)
    assert refused.violations == violation
    assert governor.options == OPTIONS


async def test_bounds_may_move_beyond_the_old_ones_together() -> None:
    async with serving_limits(a_governor()) as server:
        answer = await update(server, min_streams=10_000, max_streams=10_000)
        assert answer.after.limit == 10_000
        answer = await update(server, min_streams=1, max_streams=1)
        assert answer.after.limit == 1


def test_a_call_may_set_what_the_configuration_may() -> None:
    assert (MAX_STREAMS, MAX_TARGET_MS) == (STREAMS_MAX, HOUR_MS)


@pytest.mark.parametrize("fields", [{}, {"note": "for nothing"}])
async def test_a_change_of_nothing_is_refused(fields: dict[str, str]) -> None:
    async with serving_limits(a_governor()) as server:
        refused = await refused_update(server, **fields)
        assert server.shell.changes == 0
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.violations == {
        "request": "nothing to change; allowed: at least one of "
        "strategy, min_streams, max_streams, target_ttft_ms, target_latency_ms"
    }


async def test_each_change_leaves_one_line_in_the_log() -> None:
    async with serving_limits(a_governor()) as server:
        with capture_logs() as logs:
            await shown(server)
            await update(server, max_streams=3, note="the GPU is needed elsewhere")
    [line] = logs
    assert line.pop("peer").startswith("ipv4:127.0.0.1:")
    before = {
        "strategy": "pid",
        "limit": 4,
        "min_streams": 2,
        "max_streams": 8,
        "target_ttft_ms": 1000,
        "target_latency_ms": 200,
    }
    assert line == {
        "event": "limits changed",
        "log_level": "info",
        "note": "the GPU is needed elsewhere",
        "before": before,
        "after": {**before, "limit": 3, "max_streams": 3},
    }


@pytest.mark.parametrize("remote_control", [False, True])
async def test_another_machine_changes_limits_only_when_that_is_allowed(remote_control: bool) -> None:
    governor, call = a_governor(), CallFrom("ipv4:192.0.2.7:50000")
    servicer: Any = LimitsServicer(governor, lambda: None, remote_control=remote_control, clock=Clock())
    assert (await servicer.GetLimits(pb.GetLimitsRequest(), call)).limits.limit == 4
    request = Update(strategy=pb.LIMIT_STRATEGY_FIXED)
    if remote_control:
        await servicer.UpdateLimits(request, call)
        assert governor.options.limits.strategy is StrategyName.FIXED
        return
    with pytest.raises(AbortedError) as caught:
        await servicer.UpdateLimits(request, call)
    assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED
    assert caught.value.info.reason == "NOT_ALLOWED"
    assert governor.options == OPTIONS


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("ipv4:127.0.0.1:50051", True),
        ("ipv4:127.9.9.9:1", True),
        ("ipv4:128.0.0.1:1", False),
        ("ipv4:10.0.0.1:127", False),
        ("ipv6:%5B::1%5D:50051", True),
        ("ipv6:[::1]:50051", True),
        ("ipv6:%5B::ffff:127.0.0.1%5D:1", True),
        ("ipv6:%5B::ffff:192.0.2.7%5D:1", False),
        ("ipv6:%5B2001:db8::1%5D:1", False),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", False),
        ("unix:", True),
        ("unix:/run/penstock.sock", True),
        ("unix-abstract:penstock", True),
        ("unixes:127.0.0.1:1", False),
        ("other:127.0.0.1:1", False),
        ("ipv4:localhost:1", False),
        ("127.0.0.1:1", False),
        ("", False),
    ],
)
def test_which_peers_are_on_this_machine(peer: str, local: bool) -> None:
    assert is_local(peer) is local


@pytest.mark.parametrize("listen", ["[::1]:0", "unix:{}/socket"])
async def test_callers_by_other_ways_on_this_machine(listen: str, tmp_path: Path) -> None:
    """gRPC names a peer in its own way; these are the names that it really gives."""
    async with serving_limits(a_governor(), listen=listen.format(tmp_path)) as server:
        assert (await update(server, max_streams=6)).after.max_streams == 6
