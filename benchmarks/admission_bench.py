"""The server, callers and a quiet client beside them: one run of a load, seen from all sides."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import grpc
import msgspec

from benchmarks.admission_calls import Call, Load, Observed
from benchmarks.admission_server import Refusals
from benchmarks.processes import Child, cpu_s, machine_busy_s, wait_until_idle
from penstock.v1 import status_pb2, status_pb2_grpc

_IDLE_TIMEOUT_S = 30.0
# Low enough to be no load, with answers that are short.
_PROBE_RATE_PER_S = 6.0
_PROBE_TOKENS = 4


class Seen(NamedTuple):
    """A run from all sides. probe: calls of a client with little else to do; empty where there was none."""

    observed: Observed
    probe: list[Call]
    refusals: Refusals
    client_cores: float | None
    server_cores: float | None
    other_cores: float | None
    limit: int
    server_refused: int


class Bench:
    """The server, a load and a probe."""

    def __init__(self, server: Child, target: str, load: Child, probe: Child, status: Any) -> None:
        self._server = server
        self.target = target
        self._load = load
        self._probe = probe
        self._status = status

    def ask(self, load: Load) -> Observed:
        """What callers see who are sent to any server."""
        return _ask(self._load, load)

    def see(self, load: Load, *, probing: bool = False) -> Seen:
        """Run a load to its end, and wait until the server is idle."""
        self._server.ask("")
        refused = self._refused()
        pids = {"client": [self._load.pid], "server": [self._server.pid]}
        before, busy_before_s = {name: cpu_s(pid) for name, pid in pids.items()}, machine_busy_s()
        began_s = time.perf_counter()
        with ThreadPoolExecutor(1) as thread:
            probe = thread.submit(_ask, self._probe, _probe(load)) if probing else None
            observed = self.ask(load)
            probed = probe.result().calls if probe is not None else []
        took_s = time.perf_counter() - began_s
        cores = {name: _cores(before[name], cpu_s(pid), took_s) for name, pid in pids.items()}
        machine = _cores(busy_before_s, machine_busy_s(), took_s)
        refusals = msgspec.json.decode(self._server.ask(""), type=Refusals)
        others = None
        if machine is not None:
            others = max(0.0, machine - sum(value or 0.0 for value in cores.values()))
        limit = self._status().admission.limits.limit
        wait_until_idle(self._server.pid, limit_s=_IDLE_TIMEOUT_S)
        return Seen(
            observed, probed, refusals, cores["client"], cores["server"], others, limit,
            self._refused() - refused,
        )  # fmt: skip

    def _refused(self) -> int:
        return sum(self._status().admission.refused.values())


def _ask(client: Child, load: Load) -> Observed:
    return msgspec.json.decode(client.ask(msgspec.json.encode(load).decode()), type=Observed)


def _probe(load: Load) -> Load:
    """Few short requests of the same class, for as long."""
    phases = [(_PROBE_RATE_PER_S, load.duration_s)]
    return Load(load.target, phases, max_tokens=_PROBE_TOKENS, priority=load.priority, seed=1)


def _cores(before_s: float | None, after_s: float | None, took_s: float) -> float | None:
    return None if before_s is None or after_s is None else (after_s - before_s) / took_s


@contextmanager
def admission_bench() -> Iterator[Bench]:
    """Starts them, the server with the configuration as it comes."""
    with ExitStack() as stack:
        load, probe = (stack.enter_context(Child("benchmarks.admission_load")) for _ in range(2))
        for client in (load, probe):
            client.read_line()
        server = stack.enter_context(Child("benchmarks.admission_server"))
        target = server.read_line()
        channel = stack.enter_context(grpc.insecure_channel(target))
        stub: Any = status_pb2_grpc.StatusServiceStub(channel)
        yield Bench(server, target, load, probe, lambda: stub.GetStatus(status_pb2.GetStatusRequest()).status)
