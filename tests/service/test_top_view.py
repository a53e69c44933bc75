"""The picture of `penstock top`, drawn without a terminal."""

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from penstock.v1.status_pb2 import Status, WorkerState
from service.top.history import History
from service.top.view import Frame
from tests.service.top_statuses import (
    STALLED,
    add_guard,
    add_streams,
    drawn,
    extreme,
    heard,
    in_trouble,
    status,
)

SIZES = [(80, 24), (120, 40), (60, 20), (160, 60), (100, 34), (99, 34), (80, 60), (40, 10), (20, 3), (1, 1)]
MANY = 10_000


def seen(frame: Frame, width: int, height: int | None = None) -> list[str]:
    """The lines with single blanks."""
    return [" ".join(line.split()) for line in drawn(frame, width, height)]


def crowded() -> Status:
    now = in_trouble()
    add_streams(now, MANY)
    return now


@pytest.mark.parametrize("make", [Status, status, in_trouble, crowded, extreme])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_picture_fits(make: type[Status], width: int, height: int) -> None:
    frame = heard([make()])
    for shown in (frame, replace(frame, lost="connection lost (Socket closed)", paused=True)):
        lines = drawn(shown, width, height)
        assert len(lines) <= height
        assert max((cell_len(line) for line in lines), default=0) <= width
        assert not any(letter in line for line in lines for letter in "\x1b\u202e")
        assert not any(word in line for line in lines for word in (" nan", " inf", "NaN"))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_without_a_height_the_picture_is_as_long_as_it_needs_to_be(width: int) -> None:
    short, long = drawn(heard([status()]), width), drawn(heard([crowded()]), width)
    assert len(short) < 20
    assert 30 < len(long) <= 60
    assert max(cell_len(line) for line in long) <= width


def test_a_quiet_server_at_80_by_24() -> None:
    lines = seen(heard([status(3725.0)]), 80, 24)
    assert lines[0] == "Penstock 0.1.0 127.0.0.1:50051 up 1 h 2 min ✓ healthy 16:03:07"
    assert lines[1] == "Nothing needs attention"
    assert lines[2].startswith("Limit 8 ")
    assert lines[2].endswith("of 4..64")
    assert lines[3].startswith("In flight 5 ")
    assert lines[4] == "raised: below target, and requests waited (+2, 1 min 14 s ago)"
    assert lines[6].startswith("First token 500 ms ")
    assert lines[7].endswith("3,400 tokens, last in 2.3 s")
    assert "Refused none now" in lines
    assert "Objectives no objectives on this server (slo.enabled)" in lines
    assert "Streams none" in lines


def test_trouble_comes_first_at_80_by_24() -> None:
    lines = seen(heard([in_trouble(100.0), in_trouble(102.0)]), 80, 24)
    assert "✗ breached" in lines[0]
    assert lines[1].startswith("✗ TTFT p95 6.2 s of 5.0 s, breached 2 min, burn 14/3")
    assert "▲ worker 1 suspect" in lines[1] + lines[2]
    assert "▲ 2 stalled, longest 2.3 s" in lines[2]
    [workers] = [place for place, line in enumerate(lines) if line.startswith("Worker State Run")]
    assert lines[workers + 1].startswith("1 tiny ▲ suspect")
    assert lines[workers + 2].startswith("0 tiny ✓ ready 5 0 0 3.0 MiB 24 ms 96 % 600 0")
    assert any(
        line.startswith("Actions ▲ lower limit taken 65 s ago: ttft_p95 is breached") for line in lines
    )
    assert "Tenants acme 90 % · (no name) 10 %" in lines
    [streams] = [place for place, line in enumerate(lines) if line.startswith("Stream ")]
    assert lines[streams + 1] == "stream-5 stalled 2.3 s interactive acme ──────── 0/100 0 9.1 s"
    assert len(lines) == 24


def test_the_limit_the_objectives_and_the_features_at_120_by_40() -> None:
    lines = drawn(heard([in_trouble(100.0), in_trouble(102.0)]), 120, 40)
    assert len(lines) == 40
    text = "\n".join(" ".join(line.split()) for line in lines)
    for expected in (
        "In flight, limit 4..64",
        "5 of 8 limit +2, 1 min 14 s ago",
        "raised: below target, and requests waited",
        "TTFT p95 6.2 s 5.0 s 14/3 ✗ breached 2 min",
        "TTFT p50 210 ms 1.0 s 0.1/0.2 ✓ met",
        "Faults - 0.5 % -/- ? too few: 7",
        "✓ prefix_cache canary 10 %: no difference",
        "throttle tenant acme undone 7 min ago: refusals",
        "Streams: 7, the stalled ones first",
    ):
        assert expected in text


def test_every_frame_is_closed() -> None:
    lines = drawn(heard([in_trouble(100.0), in_trouble(102.0)]), 120, 40)
    for line in lines:
        assert line.count("╭") == line.count("╮")
        assert line.count("╰") == line.count("╯")
    corners = "\n".join(lines)
    assert corners.count("╭") == corners.count("╰") == 9


def test_refusals_are_told_by_reason() -> None:
    before, after = status(10.0), status(12.0, refused={"QUEUE_FULL": 1, "WOULD_MISS_DEADLINE": 7})
    lines = seen(heard([before, after]), 80, 24)
    assert "▲ refusing 4/s, most for WOULD_MISS_DEADLINE" in lines[1]
    assert "Refused WOULD_MISS_DEADLINE 3.5/s · QUEUE_FULL 0.5/s" in lines


def test_streams_are_left_out_first() -> None:
    frame = heard([in_trouble()])
    rows = {height: drawn(frame, 80, height) for height in range(4, 30)}
    has_streams = [height for height, lines in rows.items() if any("stream-5" in line for line in lines)]
    has_limit = [height for height, lines in rows.items() if any(line.startswith("Limit") for line in lines)]
    has_workers = [height for height, lines in rows.items() if any("suspect" in line for line in lines[2:])]
    assert min(has_limit) < min(has_workers) < min(has_streams) <= 24
    assert has_streams == list(range(min(has_streams), 30))


def test_streams_that_do_not_fit_are_counted() -> None:
    lines = seen(heard([crowded()]), 120, 40)
    assert any("Streams: 10,007, the stalled ones first" in line for line in lines)
    assert any("Stream 5/10,007" in line or "/10,007" in line for line in lines)


def test_streams_without_credits_have_no_bar() -> None:
    now = status()
    add_streams(now, 1, credits_enforced=False, tenant="", request_id="half-closed")
    [line] = [line for line in seen(heard([now]), 80, 24) if line.startswith("half-closed")]
    assert line == "half-closed streaming interactive - - 0 9.1 s"


def test_a_wide_name_is_cut_at_a_whole_letter() -> None:
    now = status()
    add_streams(now, 1, tenant="日本語テナント", state=STALLED)
    [line] = [line for line in drawn(heard([now]), 80, 24) if "stream-0" in line]
    assert "日本語テ" in line
    assert "…" in line
    assert cell_len(line) <= 80


def test_a_lost_connection_is_told_with_the_last_values() -> None:
    frame = heard([status()])
    frame.history.gap()
    lines = seen(replace(frame, lost="connection lost (Socket closed)"), 80, 24)
    assert "✗ no connection" in lines[0]
    assert lines[1].startswith("connection lost (Socket closed), trying again; the values are those of 16:03")
    assert lines[3].startswith("In flight 5 ")


def test_before_anything_was_heard() -> None:
    frame = Frame("127.0.0.1:50051", None, History())
    assert seen(frame, 80, 24) == ["Penstock 127.0.0.1:50051", "connecting"]
    lost = replace(frame, lost="cannot reach 127.0.0.1:50051 (Connection refused)")
    assert seen(lost, 80, 24)[1] == "cannot reach 127.0.0.1:50051 (Connection refused), trying again"


def test_paused() -> None:
    assert "healthy paused 16:03:07" in seen(replace(heard([status()]), paused=True), 80, 24)[0]


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (WorkerState.WORKER_STATE_STARTING, "▲ loading"),
        (WorkerState.WORKER_STATE_DEAD, "✗ down"),
        (WorkerState.WORKER_STATE_CRASH_LOOP, "✗ down"),
        (1000, "✗ down"),
    ],
)
def test_health_of_a_server_without_a_ready_worker(state: WorkerState, word: str) -> None:
    now = status()
    now.workers[0].state = state  # type: ignore[assignment]
    lines = seen(heard([now]), 80, 24)
    assert word in lines[0]
    assert "✗ no worker is ready" in lines[1]


def test_health_of_a_server_with_a_sick_worker_and_of_one_that_drains() -> None:
    now = status()
    now.workers.add(state=WorkerState.WORKER_STATE_SUSPECT)
    assert "▲ degraded" in seen(heard([now]), 80, 24)[0]
    now.draining = True
    assert "▲ draining" in seen(heard([now]), 80, 24)[0]


def test_colour_is_never_the_only_sign() -> None:
    """The same text with colours as without."""
    frame = heard([in_trouble(100.0), in_trouble(102.0)])
    for width, height in ((80, 24), (120, 40)):
        file = io.StringIO()
        console = Console(file=file, width=width, force_terminal=True, color_system="truecolor", record=True)
        console.print(frame, height=height)
        assert console.export_text().splitlines() == drawn(frame, width, height)


def test_suspended_remediation_is_critical() -> None:
    now = status()
    add_guard(now)
    now.remediation.suspended = "5 actions did not help"
    assert any(
        "✗ remediation suspended: 5 actions did not help" in line for line in seen(heard([now]), 80, 24)
    )
