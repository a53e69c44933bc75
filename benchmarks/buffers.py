"""Which bound on a chunk's bytes (server.response_chunk_bytes) serves large outputs best."""

import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.jobs import Job
from benchmarks.measure import Sample, Side, percentile
from benchmarks.plots import Panel, draw
from benchmarks.processes import Child
from benchmarks.result import Result, Row, make_result, number
from benchmarks.scripted_server import ScriptedOptions

_SIZES_KIB = (4, 8, 16, 32, 64, 128)
_TEXT_BYTES = 1000
# So many that a chunk is full by its bytes, and not by its tokens.
_TOKENS_PER_CHUNK = 256
_STREAMS = 8
# A smaller chunk is not worth more than this share of the best throughput.
_WORTH = 0.9


def run(*, quick: bool) -> Result:
    """Every size in turn, again and again, so that a slow drift of the machine meets all sizes alike."""
    rounds, rate_tokens, latency_tokens = (2, 8_000, 4_000) if quick else (7, 64_000, 16_000)
    rates: dict[int, list[Sample]] = {size: [] for size in _SIZES_KIB}
    latencies_ms: dict[int, list[float]] = {size: [] for size in _SIZES_KIB}
    with _sides() as sides:
        for round_number in range(rounds + 1):
            for size, side in sides.items():
                rate = side.run(_job(_STREAMS, rate_tokens))
                # With a window of one chunk the next one leaves when the ack for the last one is there.
                latency = side.run(_job(1, latency_tokens, max_unacked_chunks=1))
                if round_number:  # The first round warms up.
                    rates[size].append(rate)
                    latencies_ms[size] += [gap_s * 1e3 for gap_s in latency.outcome.gaps_s]
    rows = [_row(size, rates[size], sorted(latencies_ms[size])) for size in _SIZES_KIB]
    for row in rows:
        print(f"  {row}", file=sys.stderr, flush=True)
    return make_result("buffers", rows, _recommendation(rows))


def _job(streams: int, tokens: int, *, max_unacked_chunks: int = 0) -> Job:
    """max_unacked_chunks 1: also asks for the times between chunks."""
    return Job(
        streams,
        ["Count."] * streams,
        tokens // streams,
        max_unacked_chunks=max_unacked_chunks,
        gaps=max_unacked_chunks > 0,
    )


@contextmanager
def _sides() -> Iterator[dict[int, Side]]:
    """A server for each size, and one client for all."""
    with ExitStack() as stack:
        client = stack.enter_context(Child("benchmarks.load_client"))
        client.read_line()
        sides = {}
        for size in _SIZES_KIB:
            options = ScriptedOptions(
                server_flags={"response_chunk_bytes": size * 1024},
                stream_flags={
                    "backpressure": {
                        "min_tokens_per_chunk": _TOKENS_PER_CHUNK,
                        "max_tokens_per_chunk": _TOKENS_PER_CHUNK,
                        "max_backlog_tokens": 2 * _TOKENS_PER_CHUNK,
                    }
                },
                text_bytes=_TEXT_BYTES,
                steps_per_turn=_TOKENS_PER_CHUNK,
            )
            server = stack.enter_context(Child("benchmarks.scripted_server", options.encoded()))
            sides[size] = Side(client, server, server.read_line())
        yield sides


def _row(size_kib: int, samples: list[Sample], latencies_ms: list[float]) -> Row:
    rates = [sample.outcome.received_bytes / sample.outcome.elapsed_s / 1e6 for sample in samples]
    chunk_bytes = [sample.outcome.received_bytes / sample.outcome.chunks for sample in samples]
    others = [sample.elsewhere_cores for sample in samples if sample.elsewhere_cores is not None]
    return {
        "KiB": size_kib,
        "KB/chunk": statistics.median(chunk_bytes) / 1e3,
        "MB/s": statistics.median(rates),
        "MB/s low": min(rates),
        "MB/s high": max(rates),
        "chunk p50 ms": percentile(latencies_ms, 0.5),
        "chunk p95 ms": percentile(latencies_ms, 0.95),
        "runs": len(samples),
        "others, cores": statistics.median(others) if others else None,
    }


def _recommendation(rows: list[Row]) -> Row:
    """The smallest size with most of the best throughput: a chunk twice as large takes longer to come."""
    best = max(number(row, "MB/s") for row in rows)
    ratios: Row = {f"{row['KiB']} KiB / best, MB/s": number(row, "MB/s") / best for row in rows}
    chosen = next(row for row in rows if number(row, "MB/s") >= _WORTH * best)
    kib = int(number(chosen, "KiB"))
    ratios[f"recommended (smallest with {_WORTH} of the best)"] = f"server.response_chunk_bytes: {kib * 1024}"
    return ratios


def plot(result: Result, path: Path) -> None:
    labels = [f"{row['KiB']} KiB" for row in result.rows]
    latencies = {name: [number(row, f"chunk {name} ms") for row in result.rows] for name in ("p50", "p95")}
    rates = {f"{_STREAMS} streams": [number(row, "MB/s") for row in result.rows]}
    draw(
        path,
        "Size of a chunk (server.response_chunk_bytes)",
        [
            Panel("Throughput", "MB/s", labels, rates, lines=True),
            Panel("From ack to next chunk, window 1", "ms", labels, latencies, lines=True),
        ],
    )
