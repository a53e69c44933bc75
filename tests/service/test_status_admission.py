"""What status shows of admission, and of streams under it."""

from collections.abc import Iterable
from dataclasses import replace

from engine.model_host import ModelHost
from flowcontrol.admission.ask import Refusal, ServiceClass
from flowcontrol.admission.governor import Governor
from flowcontrol.admission.snapshot import (
    EstimateSnapshot,
    GovernorSnapshot,
    LimitSnapshot,
    TenantSnapshot,
)
from flowcontrol.credits import CreditWindow
from flowcontrol.limits.contract import LimitReason, StrategyName
from flowcontrol.reasons import Reason
from flowcontrol.registry import StreamRegistry
from flowcontrol.stream_state import State
from penstock.v1 import generation_pb2, limits_pb2
from penstock.v1 import status_pb2 as pb
from service.admission_messages import MAX_TENANTS, admission, limits
from service.status import StatusServicer
from service.stream_snapshot import StreamSnapshot
from tests.service.admission_subjects import OPTIONS, a_governor, ask, tickets
from tests.service.drivers import Clock, scripted_engine

UNKNOWN = EstimateSnapshot(
    prefill_tokens_per_s=None,
    first_token_s=None,
    step_s=None,
    output_tokens=None,
    kv_bytes=0,
    max_kv_bytes=0,
    drain_s=0.0,
)
SNAPSHOT = GovernorSnapshot(
    limit=LimitSnapshot(
        strategy=StrategyName.GRADIENT,
        limit=32,
        min_streams=5,
        max_streams=64,
        target_ttft_s=1.5,
        target_latency_s=0.2,
        reason=LimitReason.LOWERED_LATENCY,
        changed_s=100.0,
        last_change=-3,
        ttft_load=0.0,
        latency_load=None,
        last_good=40,
        cap=32,
        fixed=True,
        changes={LimitReason.RAISED: 2, LimitReason.CAPPED: 1},
        raised=2,
        lowered=1,
    ),
    estimates=EstimateSnapshot(
        prefill_tokens_per_s=2500.0,
        first_token_s=0.125,
        step_s=0.02,
        output_tokens=80.5,
        kv_bytes=3 * 2**33,
        max_kv_bytes=2**36,
        drain_s=1.25,
    ),
    in_flight={ServiceClass.DEFAULT: 20, ServiceClass.SYSTEM: 1},
    queued={ServiceClass.BULK: 4, ServiceClass.DEFAULT: 2},
    queued_tokens=7_000,
    max_queued_requests=512,
    max_queued_tokens=2**33,
    admitted=1000,
    refused={Reason.QUEUE_FULL: 3, Reason.WOULD_MISS_DEADLINE: 2},
    tenants=(
        TenantSnapshot(
            "acme",
            named=True,
            weight=2.5,
            in_flight=3,
            queued=2,
            started=40,
            refused=5,
            tokens=2**33,
            asked_tokens=2**34,
            throttle=0.25,
        ),
    ),
)


def test_the_whole_of_a_snapshot_is_shown() -> None:
    assert admission(SNAPSHOT, 102.5) == pb.Admission(
        limits=limits_pb2.Limits(
            strategy=limits_pb2.LIMIT_STRATEGY_GRADIENT,
            min_streams=5,
            max_streams=64,
            target_ttft_ms=1500,
            target_latency_ms=200,
            limit=32,
            in_flight=21,
            queued=6,
            reason=limits_pb2.LIMIT_REASON_LOWERED_LATENCY,
            changed_ago_ms=2500,
            last_change=-3,
            ttft_load=0.0,
            drain_ms=1250,
            last_good=40,
            cap=32,
            fixed_by_guard=True,
        ),
        estimates=pb.AdmissionEstimates(
            prefill_tokens_per_s=2500,
            first_token_ms=125,
            step_ms=20,
            output_tokens=80.5,
            kv_bytes=3 * 2**33,
            max_kv_bytes=2**36,
        ),
        priorities=[
            pb.PriorityCounts(priority=generation_pb2.PRIORITY_SYSTEM, in_flight=1),
            pb.PriorityCounts(priority=generation_pb2.PRIORITY_INTERACTIVE),
            pb.PriorityCounts(priority=generation_pb2.PRIORITY_DEFAULT, in_flight=20, queued=2),
            pb.PriorityCounts(priority=generation_pb2.PRIORITY_BULK, queued=4),
        ],
        queued_tokens=7_000,
        max_queued_requests=512,
        max_queued_tokens=2**33,
        admitted=1000,
        refused={"QUEUE_FULL": 3, "WOULD_MISS_DEADLINE": 2},
        tenants=[
            pb.TenantStatus(
                name="acme",
                named=True,
                weight=2.5,
                in_flight=3,
                queued=2,
                started=40,
                refused=5,
                tokens=2**33,
                asked_tokens=2**34,
                throttle=0.25,
            )
        ],
    )


def test_what_was_not_measured_is_absent_and_not_0() -> None:
    estimates = admission(replace(SNAPSHOT, estimates=UNKNOWN), 100.0).estimates
    assert estimates == pb.AdmissionEstimates()
    shown = limits(SNAPSHOT, 100.0)
    assert shown.HasField("ttft_load")
    assert not shown.HasField("latency_load")


def test_every_reason_and_strategy_of_a_limit_has_a_number_of_its_own() -> None:
    reasons = {
        limits(replace(SNAPSHOT, limit=replace(SNAPSHOT.limit, reason=reason)), 100.0).reason
        for reason in LimitReason
    }
    assert reasons == set(limits_pb2.LimitReason.values()) - {0}
    strategies = {
        limits(replace(SNAPSHOT, limit=replace(SNAPSHOT.limit, strategy=name)), 100.0).strategy
        for name in StrategyName
    }
    assert strategies == set(limits_pb2.LimitStrategy.values()) - {0}


def test_only_the_tenants_with_most_tokens_are_shown() -> None:
    [acme] = SNAPSHOT.tenants
    tenants = tuple(replace(acme, name=str(number), tokens=number) for number in range(MAX_TENANTS + 5))
    shown = admission(replace(SNAPSHOT, tenants=tenants), 100.0).tenants
    assert [tenant.tokens for tenant in shown] == list(range(MAX_TENANTS + 4, 4, -1))


def status(governor: Governor, streams: Iterable[StreamSnapshot] = ()) -> pb.Status:
    servicer = StatusServicer(
        ModelHost.of(scripted_engine()),
        StreamRegistry(),
        lambda: streams,
        None,
        governor=governor,
        version="test",
        clock=Clock(),
    )
    return servicer.status(include_streams=True)


def test_status_counts_what_the_governor_does() -> None:
    no_queue = replace(OPTIONS, queue=replace(OPTIONS.queue, max_requests=0))
    governor = a_governor(no_queue)
    tickets(governor, 4, tenant="acme")
    for _ in range(3):
        assert isinstance(ask(governor, tenant="acme"), Refusal)
    now = status(governor)
    assert (now.streams.max_active, now.streams.refused) == (4, 3)
    assert (now.admission.limits.in_flight, now.admission.admitted) == (4, 4)
    assert sum(now.admission.refused.values()) == 3
    assert [(tenant.name, tenant.in_flight) for tenant in now.admission.tenants] == [("acme", 4)]


def test_a_stream_shows_its_tenant_its_class_and_its_place_in_the_queue() -> None:
    waiting = StreamSnapshot(
        request_id="mine",
        state=State.QUEUED,
        credits=CreditWindow(100, enforced=True).snapshot(),
        stalled_s=0.0,
        waiting_tokens=0,
        parked=False,
        mean_ack_s=None,
        slow=False,
        age_s=1.5,
        tenant="acme",
        service_class=ServiceClass.BULK,
        queue_position=3,
        sent_tokens=0,
    )
    [shown] = status(a_governor(), [waiting]).active_streams
    assert (shown.tenant, shown.priority, shown.queue_position) == ("acme", generation_pb2.PRIORITY_BULK, 3)
    assert (shown.state, shown.age_ms) == (pb.STREAM_STATE_QUEUED, 1500)
