"""What a soak run measures and what it lets pass."""

import math

import pytest

from benchmarks.soak.__main__ import leaks, minute_rows, read_arguments
from benchmarks.soak.samples import Sample, buckets, every, parse, quantile, total
from benchmarks.soak.slopes import slope

SCRAPE = """
# TYPE penstock_stream_cancellations counter
penstock_stream_cancellations_total{cause="client"} 3.0
penstock_stream_cancellations_total{cause="server"} 1.0
# TYPE penstock_stream_ttft_seconds histogram
penstock_stream_ttft_seconds_bucket{class="default",le="0.1"} 1.0
penstock_stream_ttft_seconds_bucket{class="default",le="+Inf"} 2.0
penstock_stream_ttft_seconds_count{class="default"} 2.0
penstock_stream_ttft_seconds_sum{class="default"} 0.5
penstock_stream_ttft_seconds_bucket{class="bulk",le="0.1"} 0.0
penstock_stream_ttft_seconds_bucket{class="bulk",le="+Inf"} 3.0
penstock_stream_ttft_seconds_count{class="bulk"} 3.0
penstock_stream_ttft_seconds_sum{class="bulk"} 9.0
"""


def sample(
    at_s: float = 0.0, *, rss_bytes: int = 80_000_000, blocks: int = 350_000, faults: int = 0, **changes: int
) -> Sample:
    values = {"files": 23, "tasks": 9, "active": 0, "ended": 1000 + int(at_s), "tokens": 0, **changes}
    return Sample(
        at_s=at_s,
        rss_bytes=rss_bytes,
        workers_rss_bytes=0,
        blocks=blocks,
        server_faults=faults,
        ttft={},
        scrape_s=0.0,
        **values,
    )


def test_series_are_summed_by_their_labels() -> None:
    scrape = parse(SCRAPE)
    assert total(scrape, "penstock_stream_cancellations_total") == 4
    assert total(scrape, "penstock_stream_cancellations_total", {"cause": "server"}) == 1
    assert total(scrape, "nothing") == 0
    assert buckets(scrape, "penstock_stream_ttft_seconds") == {0.1: 1.0, math.inf: 5.0}


def test_a_quantile_is_of_what_came_between_two_looks() -> None:
    before, after = {0.1: 10.0, 1.0: 10.0, math.inf: 10.0}, {0.1: 11.0, 1.0: 19.0, math.inf: 20.0}
    assert quantile(before, after, 0.05) == 0.1
    assert quantile(before, after, 0.5) == 1.0
    assert quantile(before, after, 0.95) == math.inf
    assert quantile(after, after, 0.5) is None
    assert quantile({}, {}, 0.5) is None


def test_a_slope_is_told_from_noise() -> None:
    times_s = [2.0 * at for at in range(300)]
    waver = [0.5 * math.sin(at / 7) for at in range(300)]
    level = slope(times_s, [80 + each for each in waver])
    assert level is not None
    assert level.within_noise
    growing = slope(times_s, [80 + 0.5 * at / 60 + each for at, each in zip(times_s, waver, strict=True)])
    assert growing is not None
    assert not growing.within_noise
    assert growing.per_minute == pytest.approx(0.5, abs=0.05)
    assert growing.share == pytest.approx(5 / 82.5, rel=0.1)
    assert slope(times_s[:29], waver[:29]) is None


def test_a_quiet_run_has_no_leak() -> None:
    assert leaks([sample(2.0 * at) for at in range(300)]) == []


@pytest.mark.parametrize("left", ["active", "tasks", "files"])
def test_what_is_left_at_the_end_is_found(left: str) -> None:
    last = {"active": 1} if left == "active" else {left: 24}
    found = leaks([sample(), sample(2.0, **last)])
    assert len(found) == 1
    assert found[0].startswith(left)


def test_memory_that_grows_is_found() -> None:
    [found] = leaks([sample(2.0 * at, rss_bytes=80_000_000 + 20_000 * at) for at in range(300)])
    assert "server MB: grew by 0.60 a minute" in found
    [found] = leaks([sample(2.0 * at, blocks=350_000 + 100 * at) for at in range(300)])
    assert "blocks: grew by 3000.00 a minute" in found


def test_a_short_run_may_grow_more() -> None:
    """By 1.5 % after the first third: what 112 bytes for each stream were in 20 minutes."""

    def run(minutes: int) -> list[Sample]:
        looks = 30 * minutes
        return [sample(2.0 * at, rss_bytes=80_000_000 + round(1_700_000 * at / looks)) for at in range(looks)]

    assert leaks(run(9)) == []
    assert len(leaks(run(20))) == 1


def test_faults_of_the_server_use_up_a_budget() -> None:
    assert leaks([sample(), sample(2.0, faults=5)]) == []
    assert len(leaks([sample(), sample(2.0, faults=6)])) == 1


def test_a_run_without_streams_is_no_result() -> None:
    assert leaks([sample(), sample(2.0, ended=1000)]) == ["no stream ended, so nothing was tried"]


def test_too_few_samples_are_no_result() -> None:
    assert len(leaks([sample()])) == 1


def test_minutes_are_differences() -> None:
    run = [sample(2.0 * at, ended=10 * at, tokens=100 * at) for at in range(91)]
    rows = minute_rows(run)
    assert [row["minute"] for row in rows] == [0, 1, 2]
    assert [row["ended"] for row in rows] == [300, 300, 300]
    assert rows[0]["tokens/s"] == pytest.approx(50)
    assert [each.at_s for each in every(run, 60.0)] == [0.0, 60.0, 120.0, 180.0]


def test_a_run_must_have_some_length() -> None:
    with pytest.raises(SystemExit):
        read_arguments(["--minutes", "0.1"])
    assert read_arguments([]).minutes == 20.0
