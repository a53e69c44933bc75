"""Which signals ask for which action."""

from dataclasses import replace

import pytest

from flowcontrol.limits.contract import StrategyName
from flowcontrol.remediation.actions import Action
from flowcontrol.remediation.rules import RULES, remains, tenant_flood, well
from flowcontrol.remediation.signals import Signals, TenantSignal
from flowcontrol.remediation.usual import Usual
from flowcontrol.slo_verdict import Objective
from tests.flowcontrol.remediation.situations import (
    FLOOD,
    GAPS_BREACHED,
    HEALTHY,
    REFUSALS_BREACHED,
    TTFT_BREACHED,
    canary,
    slo,
    unknown_since,
    worker,
)

HALVES = (TenantSignal("a", 0.5, False), TenantSignal("b", 0.5, False))
SWINGING = replace(HEALTHY.limit, swings=3)


def wanted(signals: Signals) -> list[tuple[str, str]]:
    """Action and subject, from the most specific on."""
    usual = Usual()
    return [(want.action.value, want.subject) for rule in RULES for want in rule.find(signals, usual)]


@pytest.mark.parametrize(
    ("signals", "expected"),
    [
        (HEALTHY, []),
        (TTFT_BREACHED, [("LOWER_LIMIT", "")]),
        (GAPS_BREACHED, [("LOWER_LIMIT", "")]),
        (replace(HEALTHY, slo=slo(ttft_p50=1.5)), [("LOWER_LIMIT", "")]),
        # Refusals do not come from too high a limit, and lost streams have causes of their own.
        (REFUSALS_BREACHED, []),
        (replace(HEALTHY, slo=slo(infrastructure_cancellations=9.0)), []),
        (replace(TTFT_BREACHED, limit=replace(HEALTHY.limit, limit=1)), []),
        (replace(HEALTHY, features=canary()), [("ROLL_BACK_FEATURE", "speculation")]),
        (replace(HEALTHY, workers=(worker(0), worker(1, suspect=True))), [("RESTART_WORKER", "m/1")]),
        (replace(HEALTHY, workers=(worker(0), worker(1, step_ms=90))), []),
        (
            replace(GAPS_BREACHED, workers=(worker(0), worker(1, step_ms=90))),
            [("RESTART_WORKER", "m/1"), ("LOWER_LIMIT", "")],
        ),
        # A worker that is stuck is not restarted for being slow as well.
        (
            replace(GAPS_BREACHED, workers=(worker(0), worker(1, step_ms=90, suspect=True))),
            [("RESTART_WORKER", "m/1"), ("LOWER_LIMIT", "")],
        ),
        (replace(HEALTHY, kv_use=0.96), [("EVICT_CACHES", "")]),
        (replace(HEALTHY, kv_use=0.94), []),
        (replace(HEALTHY, kv_refusals=1), [("EVICT_CACHES", "")]),
        (replace(HEALTHY, kv_use=0.8, kv_evictions=1), [("EVICT_CACHES", "")]),
        (replace(HEALTHY, kv_evictions=5), []),
        (replace(HEALTHY, tenants=FLOOD), []),
        (replace(REFUSALS_BREACHED, tenants=FLOOD), [("THROTTLE_TENANT", "flood")]),
        (replace(TTFT_BREACHED, tenants=FLOOD), [("THROTTLE_TENANT", "flood"), ("LOWER_LIMIT", "")]),
        (replace(REFUSALS_BREACHED, tenants=FLOOD[1:]), []),
        (replace(REFUSALS_BREACHED, tenants=(TenantSignal("all", 1.0, False),)), []),
        (replace(REFUSALS_BREACHED, tenants=(replace(FLOOD[0], throttled=True), FLOOD[1])), []),
        (replace(REFUSALS_BREACHED, tenants=HALVES), []),
        (replace(GAPS_BREACHED, prefill_share=0.6), [("SHRINK_PREFILL", ""), ("LOWER_LIMIT", "")]),
        (replace(GAPS_BREACHED, prefill_share=0.4), [("LOWER_LIMIT", "")]),
        (replace(TTFT_BREACHED, prefill_share=0.9), [("LOWER_LIMIT", "")]),
        (replace(TTFT_BREACHED, limit=SWINGING), [("FIX_LIMIT", ""), ("LOWER_LIMIT", "")]),
        (replace(HEALTHY, limit=SWINGING), []),
        (
            replace(TTFT_BREACHED, limit=replace(SWINGING, strategy=StrategyName.FIXED)),
            [("LOWER_LIMIT", "")],
        ),
        (replace(HEALTHY, slo=unknown_since(Objective.TTFT_P95)), []),
    ],
)
def test_wanted(signals: Signals, expected: list[tuple[str, str]]) -> None:
    assert wanted(signals) == expected


def test_causes_are_told() -> None:
    signals = replace(TTFT_BREACHED, tenants=FLOOD)
    causes = [want.cause for rule in RULES for want in rule.find(signals, Usual())]
    breach = "ttft_p95 burns 4.0 times its budget"
    assert causes == [f"{breach}; 80% of the demand", breach]


@pytest.mark.parametrize(
    ("action", "subject", "signals", "expected"),
    [
        (Action.EVICT_CACHES, "", replace(HEALTHY, kv_use=0.71), True),
        (Action.EVICT_CACHES, "", replace(HEALTHY, kv_use=0.69, kv_evictions=3), False),
        (Action.EVICT_CACHES, "", replace(HEALTHY, kv_refusals=1), True),
        (Action.THROTTLE_TENANT, "flood", replace(HEALTHY, tenants=FLOOD), True),
        (Action.THROTTLE_TENANT, "other", replace(HEALTHY, tenants=FLOOD), False),
        (Action.THROTTLE_TENANT, "flood", HEALTHY, False),
        (Action.SHRINK_PREFILL, "", replace(HEALTHY, prefill_share=0.3), True),
        (Action.SHRINK_PREFILL, "", replace(HEALTHY, prefill_share=0.2), False),
        (Action.SHRINK_PREFILL, "", HEALTHY, False),
        (Action.LOWER_LIMIT, "", TTFT_BREACHED, False),
    ],
)
def test_what_remains_of_a_cause(action: Action, subject: str, signals: Signals, expected: bool) -> None:
    assert remains((action, subject), signals, Usual()) is expected


def test_all_is_well_unless_a_time_objective_was_breached() -> None:
    assert well(HEALTHY)
    assert well(REFUSALS_BREACHED)
    assert well(replace(HEALTHY, slo=replace(HEALTHY.slo, objectives=())))
    assert not well(TTFT_BREACHED)
    assert not well(replace(HEALTHY, slo=unknown_since(Objective.TTFT_P50)))


def test_the_tenant_that_always_asks_most_is_no_flood() -> None:
    usual = Usual()
    for _ in range(5):
        usual.observe(replace(HEALTHY, tenants=FLOOD), well=True)
        usual.observe(replace(HEALTHY, tenants=FLOOD[:1]), well=False)
    throttle = (Action.THROTTLE_TENANT, "flood")
    assert tenant_flood(replace(REFUSALS_BREACHED, tenants=FLOOD), usual) == []
    assert not remains(throttle, replace(HEALTHY, tenants=FLOOD), usual)
    more = (replace(FLOOD[0], share=0.9), replace(FLOOD[1], share=0.1))
    assert [want.key for want in tenant_flood(replace(REFUSALS_BREACHED, tenants=more), usual)] == [throttle]
    assert remains(throttle, replace(HEALTHY, tenants=more), usual)
