"""What it gains and costs to use response messages again (stream_registry.chunk_pooling)."""

import statistics
import sys
from pathlib import Path

import msgspec

from benchmarks.jobs import Job
from benchmarks.measure import Side, alternate, compare
from benchmarks.message_writes import MODES, Mode, Writes
from benchmarks.plots import Panel, draw
from benchmarks.processes import Child, rss_bytes
from benchmarks.result import Result, Row, comparison_row, make_result, number
from benchmarks.scripted_server import Internals, ScriptedOptions

_WRITES = 5_000_000
_GOAL_MB = 20
_STREAMS = 100


def run(*, quick: bool) -> Result:
    """Writes in a loop without gRPC, every mode in a process of its own; then whole servers in pairs."""
    rows = _loop(_WRITES // 10 if quick else _WRITES, repetitions=1 if quick else 3)
    served = _served(quick=quick)
    by_mode = {row["case"]: row for row in rows}
    new, pooled = by_mode["new"], by_mode["pooled"]
    ratios: Row = {
        "CPU us per message, pooled / new": number(pooled, "CPU us/message") / number(new, "CPU us/message"),
        f"RSS growth pooled, MB (goal below {_GOAL_MB})": pooled["RSS growth MB"],
        "messages made, pooled / new": number(pooled, "made") / number(new, "made"),
        "servicer's messages/s, pooling on / off": served["ratio"],
    }
    return make_result("pooling", [*rows, served], ratios)


def _loop(writes: int, *, repetitions: int) -> list[Row]:
    """The modes in turn; medians of the repetitions, but of memory the most."""
    outcomes: dict[Mode, list[Writes]] = {mode: [] for mode in MODES}
    for _ in range(repetitions):
        for mode in MODES:
            with Child("benchmarks.message_writes", mode, str(writes)) as child:
                outcomes[mode].append(msgspec.json.decode(child.read_line(), type=Writes))
    rows = [_loop_row(mode, outcomes[mode]) for mode in MODES]
    for row in rows:
        print(f"  {row}", file=sys.stderr, flush=True)
    return rows


def _loop_row(mode: Mode, outcomes: list[Writes]) -> Row:
    one = outcomes[0]
    return {
        "case": mode,
        "writes": one.writes,
        "CPU us/message": statistics.median(each.cpu_s / each.writes * 1e6 for each in outcomes),
        "made": one.made,
        "gc runs": one.gc_runs,
        "blocks kept": one.blocks,
        "RSS growth MB": max(max(each.rss_bytes) - each.rss_bytes[0] for each in outcomes) / 1e6,
        "runs": len(outcomes),
    }


def _served(*, quick: bool) -> Row:
    """Two servers, pooling off and on, one token in a message; messages/s are tokens/s."""
    repetitions, limit_s, tokens = (2, 8.0, 100) if quick else (20, 110.0, 400)
    with (
        Child("benchmarks.scripted_server", _options(enabled=False)) as off_server,
        Child("benchmarks.scripted_server", _options(enabled=True)) as on_server,
        Child("benchmarks.load_client") as client,
    ):
        client.read_line()
        off = Side(client, off_server, off_server.read_line())
        on = Side(client, on_server, on_server.read_line())
        job = Job(_STREAMS, ["Count."] * _STREAMS, tokens, max_tokens_per_chunk=1)
        for side in (off, on):
            side.run(job)
        servers = (off_server, on_server)
        before = [(_internals(server), rss_bytes(server.pid)) for server in servers]
        pairs = alternate(off, on, job, repetitions=repetitions, limit_s=limit_s)
        after = [(_internals(server), rss_bytes(server.pid)) for server in servers]
    row: Row = {"case": "servicer, on"}
    row |= comparison_row(compare({"streams": _STREAMS}, pairs), "off", "on")
    for name, (old, old_rss), (new, new_rss) in zip(("off", "on"), before, after, strict=True):
        row[f"{name}, gc runs"] = new.gc_runs - old.gc_runs
        row[f"{name}, RSS growth MB"] = (new_rss - old_rss) / 1e6
    print(f"  {row}", file=sys.stderr, flush=True)
    return row


def _options(*, enabled: bool) -> str:
    return ScriptedOptions(stream_flags={"chunk_pooling": {"enabled": enabled}}).encoded()


def _internals(server: Child) -> Internals:
    return msgspec.json.decode(server.ask(""), type=Internals)


def plot(result: Result, path: Path) -> None:
    loop = [row for row in result.rows if "CPU us/message" in row]
    served = result.rows[-1]
    labels = [str(row["case"]) for row in loop]
    us_per_message = [number(row, "CPU us/message") for row in loop]
    draw(
        path,
        "Chunk messages: new, pooled, and pooled without retirement",
        [
            Panel("Fill and serialise", "CPU us/message", labels, {"": us_per_message}),
            Panel(
                f"RSS growth over {loop[0]['writes']:,} writes", "MB", labels,
                {"": [number(row, "RSS growth MB") for row in loop]}, goal=_GOAL_MB,
            ),
            Panel(
                f"Whole servicer, {_STREAMS} streams", "messages/s", ["off", "on"],
                {"": [number(served, f"{name}, tokens/s") for name in ("off", "on")]},
            ),
        ],
    )  # fmt: skip
