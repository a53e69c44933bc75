"""Fills and serialises chunk messages as the servicer does, in a process of its own.

Usage: python -m benchmarks.message_writes MODE WRITES. MODE: `new` makes each message anew, `pooled` leases
them, `unretired` leases them and never gives one up. Prints a Writes as JSON.
"""

import gc
import math
import os
import sys
import time
from typing import Literal

import msgspec

from benchmarks.processes import rss_bytes
from engine.events import Token
from service.message_pool import MessagePool
from service.options import PoolOptions
from service.responses import ChunkMessage

Mode = Literal["new", "pooled", "unretired"]
MODES: tuple[Mode, ...] = ("new", "pooled", "unretired")

# As many streams write in turn; each ends after so many tokens and the next one takes its place.
STREAMS = 100
STREAM_TOKENS = 256
_POOL_SIZE = 1000
_MAX_USES = 1000
# Texts as a tokenizer gives them: most are short, some are not, some are not ASCII.
_TEXTS = (" the", " a", ",", " dragon", ".", " was", "é", " unbelievable", "ing", "\n", " 日本", " of")


class Writes(msgspec.Struct, frozen=True):
    """cpu_s: CPU seconds of the writes alone. made: message objects. blocks: Python's allocated blocks, after
    less before. rss_bytes: resident memory before and then after each tenth of the writes."""

    mode: Mode
    writes: int
    cpu_s: float
    made: int
    gc_runs: int
    blocks: int
    written_bytes: int
    rss_bytes: list[int]


def _tokens() -> list[Token]:
    return [Token(1, 7 * n % 1000, _TEXTS[n % len(_TEXTS)], None) for n in range(STREAM_TOKENS)]


def write_new(tokens: list[Token], rounds: int) -> int:
    """One message for each write. A round: STREAMS streams from their first to their last token."""
    size = 0
    for _ in range(rounds):
        for offset, token in enumerate(tokens):
            pieces = [token]
            for _ in range(STREAMS):
                message = ChunkMessage()
                message.fill(offset + 1, offset, pieces)
                size += len(message.response.SerializeToString())
    return size


def write_pooled(pool: MessagePool, tokens: list[Token], rounds: int) -> int:
    size = 0
    for _ in range(rounds):
        leases = [pool.lease() for _ in range(STREAMS)]
        for offset, token in enumerate(tokens):
            pieces = [token]
            for lease in leases:
                message = lease.use()
                message.fill(offset + 1, offset, pieces)
                size += len(message.response.SerializeToString())
        for lease in leases:
            lease.release()
    return size


def measure(mode: Mode, writes: int) -> Writes:
    tokens = _tokens()
    max_uses = _MAX_USES if mode == "pooled" else 1 << 60
    pool = MessagePool(PoolOptions(size=_POOL_SIZE, max_uses=max_uses, cleanup_interval_s=30.0))
    rounds = math.ceil(writes / (10 * STREAMS * STREAM_TOKENS))
    write_new(tokens, 1)
    write_pooled(pool, tokens, 1)
    made_before = pool.snapshot().misses + pool.snapshot().retired
    rss = [rss_bytes(os.getpid())]
    gc_before, blocks_before = _gc_runs(), sys.getallocatedblocks()
    cpu_s = 0.0
    size = 0
    for _ in range(10):
        began_s = time.process_time()
        size += write_new(tokens, rounds) if mode == "new" else write_pooled(pool, tokens, rounds)
        cpu_s += time.process_time() - began_s
        rss.append(rss_bytes(os.getpid()))
    done = 10 * rounds * STREAMS * STREAM_TOKENS
    counts = pool.snapshot()
    return Writes(
        mode=mode,
        writes=done,
        cpu_s=cpu_s,
        made=done if mode == "new" else counts.misses + counts.retired - made_before,
        gc_runs=_gc_runs() - gc_before,
        blocks=sys.getallocatedblocks() - blocks_before,
        written_bytes=size,
        rss_bytes=rss,
    )


def _gc_runs() -> int:
    return sum(generation["collections"] for generation in gc.get_stats())


if __name__ == "__main__":
    outcome = measure(msgspec.convert(sys.argv[1], Mode), int(sys.argv[2]))
    print(msgspec.json.encode(outcome).decode(), flush=True)
