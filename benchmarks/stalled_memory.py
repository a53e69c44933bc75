"""What a stalled stream holds: resident memory of the server for each, and whether it comes back."""

import sys
from pathlib import Path

from benchmarks.jobs import Release, Stall, encode
from benchmarks.plots import Panel, draw
from benchmarks.processes import Child, rss_bytes, wait_until_idle
from benchmarks.result import Result, Row, make_result, number
from benchmarks.scripted_server import ScriptedOptions

# Of a stalled stream, in chunks: small, so that memory is that of the stream and not of what it sent.
_WINDOW = 4
_TOKENS = 100_000
_SETTLE_TIMEOUT_S = 30.0


def run(*, quick: bool) -> Result:
    """Rounds of streams that are opened, stall and are cut off, in one server for each size."""
    rows: list[Row] = []
    ratios: Row = {}
    for streams in (100,) if quick else (100, 1000):
        rounds = _rounds(streams, 3 if quick else 6)
        rows += rounds
        first, last = rounds[0], rounds[-1]
        ratios[f"{streams} streams: KB of RSS for each, first round"] = first["KB per stream"]
        held = number(first, "RSS MB with") - number(first, "RSS MB before")
        back = number(first, "RSS MB with") - number(first, "RSS MB trimmed")
        ratios[f"{streams} streams: share of it that trimming gives back after round 1"] = back / held
        for when in ("after", "trimmed"):
            grown = number(last, f"RSS MB {when}") - number(first, f"RSS MB {when}")
            ratios[f"{streams} streams: MB that RSS {when} has grown since round 1"] = grown
    return make_result("stalled-memory", rows, ratios)


def _rounds(streams: int, rounds: int) -> list[Row]:
    options = ScriptedOptions(
        max_streams=streams,
        stream_flags={
            "default_timeout_ms": 3_600_000,
            "backpressure": {"ack_timeout_ms": 600_000},
        },
    )
    rows: list[Row] = []
    with (
        Child("benchmarks.scripted_server", options.encoded()) as server,
        Child("benchmarks.load_client") as client,
    ):
        client.read_line()
        target = server.read_line()
        # The first stream of all pays for code and tables that every later one shares.
        client.ask(encode(Stall(["Warm up."], _TOKENS, _WINDOW, target)))
        client.ask(encode(Release()))
        for number_of_round in range(1, rounds + 1):
            before = _settled_rss(server)
            client.ask(encode(Stall(["Count."] * streams, _TOKENS, _WINDOW, target)))
            held = _settled_rss(server)
            client.ask(encode(Release()))
            after = _settled_rss(server)
            server.ask("trim")
            trimmed = rss_bytes(server.pid)
            row: Row = {
                "streams": streams,
                "round": number_of_round,
                "RSS MB before": before / 1e6,
                "RSS MB with": held / 1e6,
                "RSS MB after": after / 1e6,
                "RSS MB trimmed": trimmed / 1e6,
                "KB per stream": (held - before) / 1e3 / streams,
            }
            print(f"  {row}", file=sys.stderr, flush=True)
            rows.append(row)
    return rows


def _settled_rss(server: Child) -> int:
    wait_until_idle(server.pid, limit_s=_SETTLE_TIMEOUT_S)
    return rss_bytes(server.pid)


def plot(result: Result, path: Path) -> None:
    panels = []
    for streams in dict.fromkeys(row["streams"] for row in result.rows):
        rows = [row for row in result.rows if row["streams"] == streams]
        series = {
            when: [number(row, f"RSS MB {when}") for row in rows]
            for when in ("before", "with", "after", "trimmed")
        }
        labels = [f"round {row['round']}" for row in rows]
        panels.append(Panel(f"{streams} stalled streams", "server's RSS, MB", labels, series, lines=True))
    draw(path, "Memory of stalled streams", panels)
