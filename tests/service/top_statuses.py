"""Statuses made by hand, and pictures of them, for the tests of `penstock top`."""

import io
import math
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console

from penstock.v1.feature_pb2 import FeatureState
from penstock.v1.generation_pb2 import Priority
from penstock.v1.limits_pb2 import LimitReason
from penstock.v1.status_pb2 import Status, StreamState, Verdict, WorkerState
from service.top.history import History
from service.top.view import Frame

STALLED = StreamState.STREAM_STATE_STALLED
STREAMING = StreamState.STREAM_STATE_STREAMING


def status(
    uptime_s: float = 100.0,
    *,
    tokens: int = 0,
    steps: int = 0,
    pid: int = 42,
    refused: Mapping[str, int] | None = None,
) -> Status:
    """A server with one worker, 24 ms a step."""
    now = Status(version="0.1.0", uptime_s=uptime_s)
    now.workers.add(
        model="tiny",
        state=WorkerState.WORKER_STATE_READY,
        pid=pid,
        running_rows=5,
        decode_steps=steps,
        step_s=steps * 0.024,
        generated_tokens=tokens,
        kv_bytes=3 * 2**20,
    )
    limits = now.admission.limits
    limits.limit, limits.in_flight, limits.queued = 8, 5, 2
    limits.min_streams, limits.max_streams, limits.target_ttft_ms = 4, 64, 1000
    limits.reason, limits.last_change, limits.changed_ago_ms = LimitReason.LIMIT_REASON_RAISED, 2, 74_000
    limits.ttft_load, limits.drain_ms = 0.5, 2300
    now.admission.queued_tokens = 3400
    for reason, number in (refused or {}).items():
        now.admission.refused[reason] = number
    return now


def add_streams(now: Status, number: int, *, state: Any = STREAMING, **fields: Any) -> None:
    for _ in range(number):
        place = len(now.active_streams)
        now.active_streams.add(
            **{
                "request_id": f"stream-{place}",
                "state": state,
                "window": 100,
                "credit": 60,
                "credits_enforced": True,
                "tenant": "acme",
                "priority": Priority.PRIORITY_INTERACTIVE,
                "age_ms": 9100.0,
                "stalled_ms": 2345.0 if state == STALLED else 0.0,
                **fields,
            }
        )
    now.streams.active = len(now.active_streams)
    now.streams.stalled = sum(one.state == STALLED for one in now.active_streams)


def add_guard(now: Status) -> None:
    """Objectives, one of them breached and one unknown; an action and a canary."""
    objectives = now.service_levels.objectives
    objectives.add(
        name="ttft_p50",
        target=1000,
        verdict=Verdict.VERDICT_MET,
        fast=210,
        slow=200,
        fast_burn_rate=0.1,
        slow_burn_rate=0.2,
        samples=500,
    )
    objectives.add(
        name="ttft_p95",
        target=5000,
        verdict=Verdict.VERDICT_BREACHED,
        fast=6200,
        fast_burn_rate=14,
        slow_burn_rate=3,
        breached_ms=130_000,
    )
    objectives.add(
        name="infrastructure_cancellations", target=0.005, verdict=Verdict.VERDICT_UNKNOWN, samples=7
    )
    event = {"action": "LOWER_LIMIT", "cause": "ttft_p95 is breached", "outcome": "TAKEN", "ago_ms": 65_000.0}
    now.remediation.active.add(**event)
    now.remediation.events.add(**event)
    now.remediation.events.add(
        action="THROTTLE_TENANT", subject="acme", cause="refusals", outcome="UNDONE", ago_ms=400_000
    )
    canary = now.features.add(name="prefix_cache", state=FeatureState.FEATURE_STATE_CANARY, canary_percent=10)
    canary.comparison.verdict = "no difference"
    now.features.add(name="pooling", state=FeatureState.FEATURE_STATE_ON)


def in_trouble(uptime_s: float = 100.0) -> Status:
    """A server with something of everything."""
    now = status(
        uptime_s, tokens=round(600 * uptime_s), steps=round(40 * uptime_s), refused={"QUEUE_FULL": 9}
    )
    now.workers.add(index=1, model="tiny", state=WorkerState.WORKER_STATE_SUSPECT, restarts=3)
    for name, tokens in (("acme", 900_000), ("", 100_000)):
        now.admission.tenants.add(name=name, tokens=tokens, in_flight=3)
    add_streams(now, 5)
    add_streams(now, 2, state=STALLED, credit=0, parked=True)
    add_guard(now)
    return now


def extreme() -> Status:
    """Values as large, as long and as strange as the contract allows."""
    text = "長い名前\x1b[2J\n\u202eöü" * 50
    now = in_trouble(1e15)
    now.version = text
    for message in (*now.workers, *now.active_streams, *now.admission.tenants, now.admission, now.streams):
        fill(message, text)
    for one in now.service_levels.objectives:
        one.fast, one.target, one.fast_burn_rate = math.nan, math.inf, 1e300
    now.service_levels.objectives[0].name = text
    for event in (*now.remediation.active, *now.remediation.events):
        fill(event, text)
    now.remediation.suspended = text
    now.admission.limits.ttft_load = math.inf
    for _ in range(300):
        now.workers.add().CopyFrom(now.workers[1])
    for _ in range(10_000):
        now.active_streams.add().CopyFrom(now.active_streams[-1])
    now.features[0].name = text
    return now


def fill(message: Any, text: str) -> None:
    """Every plain field of a message at its extreme."""
    for field in message.DESCRIPTOR.fields:
        if field.is_repeated or field.message_type is not None:
            continue
        extremes: dict[int, Any] = {
            field.TYPE_STRING: text,
            field.TYPE_DOUBLE: math.nan,
            field.TYPE_BOOL: True,
            field.TYPE_UINT32: 2**32 - 1,
            field.TYPE_UINT64: 2**64 - 1,
            field.TYPE_SINT32: 2**31 - 1,
            field.TYPE_ENUM: 1000,
        }
        setattr(message, field.name, extremes[field.type])


def heard(statuses: Iterable[Status]) -> Frame:
    """What is shown after these."""
    history, now = History(), None
    for now in statuses:
        history.add(now)
    return Frame("127.0.0.1:50051", now, history, "16:03:07")


def drawn(frame: Frame, width: int, height: int | None = None) -> list[str]:
    """The lines of a picture, as written without colours."""
    file = io.StringIO()
    console = Console(file=file, width=width, height=height or 25, color_system=None)
    console.print(frame, height=height)
    return file.getvalue().splitlines()
