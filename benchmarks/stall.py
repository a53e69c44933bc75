"""What clients that stop reading cost: the other streams, the server's memory, and tokens for nobody."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec

from benchmarks.jobs import Drain, Job, Outcome, Release, Stall, encode
from benchmarks.measure import Sample, Side, percentile
from benchmarks.plots import Panel, draw
from benchmarks.processes import Child, cpu_s, rss_bytes, wait_until_idle
from benchmarks.result import Result, Row, make_result, number, ratios_of
from benchmarks.serving import prompts
from benchmarks.systems import System, installed_peers, peer, penstock, random_model
from penstock.v1 import status_pb2

READERS = 8
STALLED = 8
# Of a stalled stream, in chunks: small, so that it is closed long before the readers begin.
_WINDOW = 4
_SETTLE_TIMEOUT_S = 60.0
# The worker's counters come with its signs of life, four in a second.
_COUNTERS_S = 0.6
_GOALS = {"tokens/s": 0.98, "p95": 1.05}
# max_tokens_per_chunk of config/runtime.yaml, and one that is under way.
_MOST_UNREAD = 17

Open = Callable[[], AbstractContextManager[System]]


class Plan(msgspec.Struct, frozen=True):
    """pairs: runs alone and beside. tokens: of each reader in a run. limit_s: when to begin no more pairs.

    stalled_tokens: what a stalled stream is opened for. More than tokens, or those of a peer are done first.
    """

    pairs: int
    tokens: int
    stalled_tokens: int
    limit_s: float


def run(*, quick: bool) -> Result:
    """Our server, quick or in full."""
    plan = Plan(6, 128, 128, 20.0) if quick else Plan(40, 400, 1_500, 280.0)
    with random_model() as model:
        return make_result("stall", *_rows([lambda: penstock(model)], plan))


def run_peers(*, quick: bool) -> Result:
    """Our server and the peers, one after the other."""
    plan = Plan(2, 160, 600, 15.0) if quick else Plan(8, 300, 1_200, 55.0)
    with random_model() as model:
        systems: list[Open] = [lambda: penstock(model)]
        systems += [lambda wire=wire: peer(wire, model) for wire in installed_peers()]  # type: ignore[misc]
        return make_result("peers", *_rows(systems, plan))


def _rows(systems: list[Open], plan: Plan) -> tuple[list[Row], Row]:
    rows: list[Row] = []
    ratios: Row = {}
    for open_system in systems:
        with open_system() as system, _Bench(system, plan) as bench:
            row = {"system": system.name} | bench.isolation() | bench.nobody()
        print(f"  {row}", file=sys.stderr, flush=True)
        rows.append(row)
        at = "" if len(systems) == 1 else f"{system.name}: "
        ratios[f"{at}tokens/s beside stalled / alone (goal {_GOALS['tokens/s']})"] = row["tokens/s ratio"]
        ratios[f"{at}p95 between tokens beside stalled / alone (goal {_GOALS['p95']})"] = row["p95 ratio"]
        ratios[f"{at}tokens computed for {STALLED} streams that nobody read"] = row["unread tokens"]
        if row["most per stream"] is not None:
            ratios[f"{at}most of them for one stream (goal: at most {_MOST_UNREAD})"] = row["most per stream"]
    return rows, ratios


class _Bench:
    """A system, a client that reads and a client that stalls. A block that owns both clients."""

    def __init__(self, system: System, plan: Plan) -> None:
        self._system = system
        self._plan = plan
        self._readers = Child("benchmarks.load_client", system.wire)
        self._stalled = Child("benchmarks.load_client", system.wire)
        self._side = Side(self._readers, system.server, system.target)
        self._most_waiting = 0
        self._unread_beside = 0

    def __enter__(self) -> "_Bench":
        self._readers.__enter__()
        self._stalled.__enter__()
        for client in (self._readers, self._stalled):
            client.read_line()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stalled.__exit__(None, None, None)
        self._readers.__exit__(None, None, None)

    def isolation(self) -> Row:
        """The readers alone and beside stalled streams, the order turned round in every second pair."""
        plan = self._plan
        job = Job(READERS, prompts(READERS), plan.tokens, gaps=True)
        self._alone(job)  # Code and caches are warm after it.
        alone: list[Sample] = []
        beside: list[Sample] = []
        began_s = time.monotonic()
        while len(alone) < plan.pairs and (not alone or time.monotonic() - began_s < plan.limit_s):
            if len(alone) % 2:
                beside.append(self._beside(job))
                alone.append(self._alone(job))
            else:
                alone.append(self._alone(job))
                beside.append(self._beside(job))
            print(
                f"  pair {len(alone)}: {beside[-1].tokens_per_s / alone[-1].tokens_per_s:.3f}",
                file=sys.stderr,
            )
        rates = [[sample.tokens_per_s for sample in samples] for samples in (alone, beside)]
        p95_ms = [[_p95_ms(sample) for sample in samples] for samples in (alone, beside)]
        by_rate, by_p95 = ratios_of(*rates), ratios_of(*p95_ms)
        others = [sample.elsewhere_cores for sample in alone + beside if sample.elsewhere_cores is not None]
        return {
            "tokens/s alone": statistics.median(rates[0]),
            "tokens/s beside": statistics.median(rates[1]),
            "tokens/s ratio": by_rate.median,
            "tokens/s low": by_rate.low,
            "tokens/s high": by_rate.high,
            "p95 ms alone": statistics.median(p95_ms[0]),
            "p95 ms beside": statistics.median(p95_ms[1]),
            "p95 ratio": by_p95.median,
            "p95 low": by_p95.low,
            "p95 high": by_p95.high,
            "CPU us/token alone": _median_cpu_us(alone),
            "CPU us/token beside": _median_cpu_us(beside),
            "pairs": len(alone),
            "others, cores": statistics.median(others) if others else None,
        }

    def nobody(self) -> Row:
        """Stalled streams alone: what the server does for them until it has nothing more to do."""
        pid = self._system.server.pid
        wait_until_idle(pid, limit_s=_SETTLE_TIMEOUT_S)
        rss_before, cpu_before = rss_bytes(pid), cpu_s([pid])
        with self._stalling() as opened:
            wait_until_idle(pid, limit_s=_SETTLE_TIMEOUT_S)
            cpu_after = cpu_s([pid])
            grown = rss_bytes(pid) - rss_before
            status = self._system.status() if self._system.status is not None else None
            drained = self._ask_stalled(encode(Drain()))
        cpu = None if cpu_before is None or cpu_after is None else cpu_after - cpu_before
        unread: int | None = drained.chunks - opened.chunks
        if status is not None:
            self._note_waiting(status)
            unread = sum(stream.waiting_tokens for stream in status.active_streams)
        return {
            "unread tokens": unread,
            "most per stream": self._most_waiting if status is not None else None,
            "unread tokens beside readers": self._unread_beside if status is not None else None,
            "CPU s unread": cpu,
            "RSS growth KB": grown / 1e3,
            "read in the end": drained.tokens,
        }

    def _alone(self, job: Job) -> Sample:
        """As `_beside`, but for the end of the stalled streams, which comes before."""
        with self._stalling():
            self._settled_status(counters=False)
        wait_until_idle(self._system.server.pid, limit_s=_SETTLE_TIMEOUT_S)
        sample = self._side.run(job)
        wait_until_idle(self._system.server.pid, limit_s=_SETTLE_TIMEOUT_S)
        return sample

    def _beside(self, job: Job) -> Sample:
        with self._stalling():
            before = self._settled_status()
            sample = self._side.run(job)
            after = self._settled_status()
        if before is not None and after is not None:
            generated = after.workers[0].generated_tokens - before.workers[0].generated_tokens
            self._unread_beside += generated - sample.outcome.tokens
            self._note_waiting(after)
        wait_until_idle(self._system.server.pid, limit_s=_SETTLE_TIMEOUT_S)
        return sample

    def _settled_status(self, *, counters: bool = True) -> status_pb2.Status | None:
        """The status once every stalled stream has stalled and its row is parked; None of a peer.

        A peer goes on with its stalled streams, so there is nothing to wait for. counters: whether the
        worker's are wanted, which take a moment more.
        """
        if self._system.status is None:
            return None
        ends_s = time.monotonic() + _SETTLE_TIMEOUT_S
        while time.monotonic() < ends_s:
            status = self._system.status()
            parked = sum(stream.parked for stream in status.active_streams)
            if parked == status.streams.active == STALLED:
                if not counters:
                    return status
                time.sleep(_COUNTERS_S)
                return self._system.status()
            time.sleep(0.02)
        raise TimeoutError(f"the stalled streams did not park: {status}")

    def _note_waiting(self, status: status_pb2.Status) -> None:
        waiting = [stream.waiting_tokens for stream in status.active_streams]
        self._most_waiting = max([self._most_waiting, *waiting])

    @contextmanager
    def _stalling(self) -> Iterator[Outcome]:
        texts = prompts(READERS + STALLED)[READERS:]
        stall = Stall(texts, self._plan.stalled_tokens, _WINDOW, self._system.target)
        yield self._ask_stalled(encode(stall))
        self._ask_stalled(encode(Release()))

    def _ask_stalled(self, command: str) -> Outcome:
        return msgspec.json.decode(self._stalled.ask(command), type=Outcome)


def _median_cpu_us(samples: list[Sample]) -> float | None:
    """CPU of the server, with its worker, for each of the readers' tokens."""
    known = [
        sample.measured_cpu_s / sample.outcome.tokens * 1e6
        for sample in samples
        if sample.measured_cpu_s is not None
    ]
    return statistics.median(known) if known else None


def _p95_ms(sample: Sample) -> float:
    return percentile(sorted(sample.outcome.gaps_s), 0.95) * 1e3


def plot(result: Result, path: Path) -> None:
    names = [str(row["system"]) for row in result.rows]

    def column(name: str) -> list[float | None]:
        return [None if row[name] is None else number(row, name) for row in result.rows]

    draw(
        path,
        f"{READERS} readers beside {STALLED} streams that nobody reads",
        [
            Panel(
                "Readers' tokens/s", "tokens/s", names,
                {"alone": column("tokens/s alone"), "beside": column("tokens/s beside")},
            ),
            Panel("beside / alone", "ratio", names, {
                "tokens/s": column("tokens/s ratio"), "p95 between tokens": column("p95 ratio"),
            }, goal=1.0),
            Panel("Tokens computed with nobody reading", "tokens", names, {"": column("unread tokens")}),
        ],
    )  # fmt: skip
