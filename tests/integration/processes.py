"""Servers as processes of their own, and other programs run beside them."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).parents[2]
LISTENING = "penstock listening on "
METRICS = "penstock metrics on "
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
SCRIPTED: dict[str, Any] = {"module": "tests.integration.scripted_server", "args": ()}
"""How to start a server whose engine is scripted, in a fraction of the time."""
LIVE: set["ServerProcess"] = set()
"""Servers that run now; what they wrote is shown when a test fails."""


def environment(changes: Mapping[str, str]) -> dict[str, str]:
    """Ours without options of Penstock that happen to be set, and with `changes`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return {**inherited, **changes}


class ServerProcess:
    """A `python -m MODULE serve` of the test environment on a free port. Owns the process."""

    def __init__(
        self,
        log: Path,
        options: Mapping[str, str],
        *,
        module: str = "service",
        args: Sequence[str] = ("--port", "0"),
    ) -> None:
        """log: file for standard error. options: such as {"ENGINE__CPU_BLAS": "none"}."""
        self._log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, "serve", "--env", "test", *args],
                stdout=subprocess.PIPE,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env=environment({f"PENSTOCK_{name}": value for name, value in options.items()}),
            )
        self.address = ""
        LIVE.add(self)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_listening(self) -> None:
        """Return when the address is known. AssertionError when the process ends before."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        assert line.startswith(LISTENING), f"the server did not start: {self.stderr()}"
        self.address = line.removeprefix(LISTENING).strip()

    def wait_metrics(self) -> str:
        """The URL of its metrics; call it once, after wait_listening."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        assert line.startswith(METRICS), f"no metrics: {line!r} {self.stderr()}"
        return line.removeprefix(METRICS).strip()

    def rest_of_stdout(self) -> str:
        """What it wrote after the lines that were read, once it has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.read().decode()

    def wait_serving(self) -> None:
        """Return when health says that the model is loaded."""
        with grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            # The typing package does not know Watch.
            health: Any = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=START_TIMEOUT_S)
            for response in watch:
                if response.status == health_pb2.HealthCheckResponse.SERVING:
                    watch.cancel()
                    return

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """The exit status, once it has ended."""
        return self._process.wait(timeout_s)

    def stderr(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """End the process if it still runs; by force when it does not end by itself."""
        if self.running:
            self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        LIVE.discard(self)


@contextmanager
def running_server(log: Path, options: Mapping[str, str], **how: Any) -> Iterator[ServerProcess]:
    """A server that is ready to generate."""
    server = ServerProcess(log, options, **how)
    try:
        server.wait_listening()
        server.wait_serving()
        yield server
    finally:
        server.stop()
    assert "Traceback" not in server.stderr(), server.stderr()


def run(*command: str, timeout_s: float = 60.0, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=ROOT,
        env=environment(env),
        check=False,
    )


def penstock(*args: str, timeout_s: float = 60.0, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a `penstock` command."""
    return run(sys.executable, "-m", "service", *args, timeout_s=timeout_s, **env)
