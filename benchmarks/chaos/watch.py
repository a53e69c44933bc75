"""What a server process has open and whether its processes live, from /proc."""

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from benchmarks.processes import family, rss_bytes
from penstock.v1.status_pb2 import WORKER_STATE_READY, Status


class Held(msgspec.Struct, frozen=True):
    """rss_bytes: of the server process without its workers. files: open file descriptors."""

    rss_bytes: int
    files: int
    processes: int


def held_by(pid: int) -> Held:
    pids = family(pid)
    workers = sum(rss_bytes(child) for child in pids[1:])
    return Held(rss_bytes(pid) - workers, len(list(Path(f"/proc/{pid}/fd").iterdir())), len(pids))


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    with suppress(OSError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return stat.rpartition(")")[2].split()[0] != "Z"
    return False


def is_child(pid: int, parent: int) -> bool:
    """Whether it is a process below this one: only such may be killed."""
    return pid in family(parent)[1:]


def send(pid: int, number: int) -> None:
    """A signal; nothing when the process has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def unsettled(status: Status, workers: int) -> list[str]:
    """What a server that nobody uses should not have; empty when it has nothing of it."""
    wrong = []
    own = [each for each in status.workers if each.state == WORKER_STATE_READY]
    if len(own) != workers or len(status.workers) != workers:
        wrong.append(f"{len(own)} of {len(status.workers)} workers are ready, not {workers}")
    if status.streams.active:
        wrong.append(f"{status.streams.active} streams are active")
    if status.waiting_for_worker:
        wrong.append(f"{status.waiting_for_worker} streams wait for a worker")
    if status.message_pool.in_use:
        wrong.append(f"{status.message_pool.in_use} messages are lent")
    for each in status.workers:
        rows = each.running_rows + each.waiting_rows + each.paused_rows
        if rows or each.streams:
            wrong.append(f"worker {each.index} has {rows} rows of {each.streams} streams")
        if each.kv_bytes > each.prefix_cache.bytes or each.parked_kv_bytes:
            wrong.append(
                f"worker {each.index} has {each.kv_bytes} bytes of KV cache, {each.parked_kv_bytes} of them "
                f"parked, beside a prefix cache of {each.prefix_cache.bytes}"
            )
    return wrong
