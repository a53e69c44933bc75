"""Objectives for tests."""

from flowcontrol.slo import SloOptions

SLO = SloOptions(
    interval_s=10.0,
    fast_window_s=30.0,
    slow_window_s=300.0,
    min_samples=20,
    ttft_p50_s=1.0,
    ttft_p95_s=5.0,
    inter_token_p95_s=0.2,
    max_refusal_rate=0.05,
    max_infrastructure_cancellations=0.005,
)
