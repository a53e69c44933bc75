"""A guard for tests: objectives over seconds, and a server whose clock the test moves."""

from dataclasses import replace

from flowcontrol.remediation.contract import RemediationOptions
from flowcontrol.slo import SloOptions
from service.options import GuardOptions
from tests.service.servers import UNGUARDED

SLO = SloOptions(
    interval_s=10.0,
    fast_window_s=30.0,
    slow_window_s=300.0,
    min_samples=5,
    ttft_p50_s=1.0,
    ttft_p95_s=2.0,
    inter_token_p95_s=0.2,
    max_refusal_rate=0.05,
    max_infrastructure_cancellations=0.005,
)
REMEDIATION = RemediationOptions(
    act=True, cool_down_s=30.0, max_actions_per_hour=30, max_swings=3, max_failures=5
)
WATCHED: GuardOptions = replace(UNGUARDED, slo=SLO, remediation=REMEDIATION)
