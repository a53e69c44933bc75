"""The servers that are compared: ours and, where `make bench-peers` has built them, its peers."""

import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import msgspec
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.processes import Child
from penstock.v1 import status_pb2, status_pb2_grpc
from service.assembly import LISTENING

_START_TIMEOUT_S = 120.0
PEERS = Path(__file__).parents[1] / "build" / "peers"
"""Where `make bench-peers` puts a virtual environment for each peer, by its wire's name."""


class System(msgspec.Struct, frozen=True):
    """A running server. wire: how to speak to it, in benchmarks.wires. status: ours only."""

    name: str
    wire: str
    target: str
    server: Child
    status: Callable[[], status_pb2.Status] | None


@contextmanager
def random_model(*changes: str) -> Iterator[str]:
    """A directory with the 5.3 M model of benchmarks.random_model. changes: its further arguments."""
    with tempfile.TemporaryDirectory() as directory:
        with Child("benchmarks.random_model", directory, *changes) as maker:
            maker.read_line()
        yield directory


@contextmanager
def penstock(model: str, options: Mapping[str, str] = MappingProxyType({})) -> Iterator[System]:
    """Our server as it is configured, but for more streams and for stalled ones that may stay.

    options: others, such as {"ENGINE__WORKERS": "2"}.
    """
    environ = {
        "PENSTOCK_SERVER__PORT": "0",
        "PENSTOCK_TELEMETRY__PROMETHEUS_PORT": "0",
        "PENSTOCK_ENGINE__MODEL": model,
        "PENSTOCK_STREAM_REGISTRY__MAX_ACTIVE_STREAMS": "32",
        "PENSTOCK_STREAM_REGISTRY__BACKPRESSURE__ACK_TIMEOUT_MS": "600000",
        "PENSTOCK_LOGGING__LEVEL": "error",
    } | {f"PENSTOCK_{name}": value for name, value in options.items()}
    with Child("service", "serve", environ=environ) as server:
        target = server.read_line().removeprefix(LISTENING)
        wait_until_serving(target)
        with grpc.insecure_channel(target) as channel:
            stub: Any = status_pb2_grpc.StatusServiceStub(channel)
            request = status_pb2.GetStatusRequest(include_streams=True)
            yield System("Penstock", "penstock", target, server, lambda: stub.GetStatus(request).status)


def installed_peers() -> list[str]:
    """The wires' names of the peers that were built."""
    return [wire for wire in _PEERS if peer_python(wire).exists()]


def peer_python(wire: str) -> Path:
    return PEERS / wire / "bin" / "python"


@contextmanager
def peer(wire: str, model: str, rows: int = 0) -> Iterator[System]:
    """A peer in a process of its own, with the BLAS that ours has.

    rows: streams that it decodes together at most; 0 for its own default, which is 32 for both.
    """
    name, rows_option, arguments = _PEERS[wire]
    host, port = "127.0.0.1", _free_port()
    given = [argument.format(model=model, host=host, port=port) for argument in arguments]
    if rows:
        given.append(f"{rows_option}={rows}")
    log = PEERS / (f"{wire}-{rows}.log" if rows else f"{wire}.log")
    with Child("benchmarks.peer_server", *given, python=str(peer_python(wire)), log=log) as server:
        _wait_until_listening(host, port, log)
        target = f"{host}:{port}"
        if wire == "smg":
            wait_until_serving(target)
        yield System(name, wire, target, server, None)


_PEERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "mlx-lm": (
        "mlx_lm.server",
        "--decode-concurrency",
        ("mlx_lm.server", "--model={model}", "--host={host}", "--port={port}", "--log-level=ERROR"),
    ),
    "smg": (
        "SMG servicer",
        "--completion-batch-size",
        ("smg_grpc_servicer.mlx.server", "--model={model}", "--host={host}", "--port={port}"),
    ),
}


def wait_until_serving(target: str) -> None:
    """Raises grpc.RpcError when the model is not loaded in time."""
    ends_s = time.monotonic() + _START_TIMEOUT_S
    with grpc.insecure_channel(target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        # Asked again and again, since one of the peers does not tell of changes.
        while time.monotonic() < ends_s:
            state = stub.Check(request, timeout=_START_TIMEOUT_S, wait_for_ready=True)
            if state.status == health_pb2.HealthCheckResponse.SERVING:
                return
            time.sleep(0.1)
    raise TimeoutError(f"the server was not ready in {_START_TIMEOUT_S:g} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _wait_until_listening(host: str, port: int, log: Path) -> None:
    ends_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < ends_s:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    print(log.read_text(encoding="utf-8", errors="replace")[-2000:], file=sys.stderr)
    raise TimeoutError(f"nothing listened on {host}:{port} in {_START_TIMEOUT_S:g} s")
