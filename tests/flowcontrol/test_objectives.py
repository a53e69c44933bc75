"""The names of the objectives, and what their values are."""

from flowcontrol.slo_verdict import Objective


def test_three_objectives_are_times_and_the_others_shares() -> None:
    times = {objective for objective in Objective if objective.is_time}
    assert times == {Objective.TTFT_P50, Objective.TTFT_P95, Objective.INTER_TOKEN_P95}
