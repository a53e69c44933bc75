"""A real Prometheus with the rules of deploy/, and its HTTP API."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import yaml

ROOT = Path(__file__).parents[1]
DEPLOYED = ROOT / "deploy" / "prometheus"
_UNPACKED = ROOT / "build" / "prometheus" / "usr" / "bin"
_START_LIMIT_S = 30.0
_STOP_LIMIT_S = 20.0
_LOOK_S = 0.1


def find(program: str) -> Path | None:
    """`prometheus` or `promtool`: on the PATH, or where the Makefile unpacks them; None without either."""
    found = shutil.which(program) or shutil.which(program, path=_UNPACKED)
    return Path(found) if found else None


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class QueryError(ValueError):
    """Prometheus refused an expression."""


class Prometheus:
    """The HTTP API of a running server. Owns its connection, not the server."""

    def __init__(self, address: str) -> None:
        """address: such as 127.0.0.1:9090."""
        self._http = httpx2.Client(base_url=f"http://{address}", timeout=30.0)

    def close(self) -> None:
        self._http.close()

    def ready(self) -> bool:
        try:
            return bool(self._http.get("/-/ready").status_code == httpx2.codes.OK)
        except httpx2.TransportError:
            return False

    def instant(self, expression: str, at_s: float | None = None) -> list[dict[str, Any]]:
        """Its series, each with `metric` and `value`. Raises QueryError when the expression is not valid."""
        when = {} if at_s is None else {"time": str(at_s)}
        return self._vector("query", {"query": expression, **when})

    def over_time(self, expression: str, start_s: float, end_s: float, step_s: float) -> list[dict[str, Any]]:
        """Its series, each with `metric` and `values`. Raises QueryError as `instant` does."""
        when = {"start": str(start_s), "end": str(end_s), "step": str(step_s)}
        return self._vector("query_range", {"query": expression, **when})

    def metric_names(self) -> set[str]:
        """Names of all metrics that it has."""
        names: list[str] = self._ask("label/__name__/values", {})
        return set(names)

    def label_values(self, selector: str, label: str) -> set[str]:
        values: list[str] = self._ask(f"label/{label}/values", {"match[]": selector})
        return set(values)

    def rules(self) -> list[dict[str, Any]]:
        """All rules, with their health and the last error."""
        groups: list[dict[str, Any]] = self._ask("rules", {})["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def _vector(self, call: str, parameters: Mapping[str, str]) -> list[dict[str, Any]]:
        data = self._ask(call, parameters)
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        result: list[dict[str, Any]] = data["result"]
        return result

    def _ask(self, call: str, parameters: Mapping[str, str]) -> Any:
        answer = self._http.get(f"/api/v1/{call}", params=dict(parameters)).json()
        if answer["status"] != "success":
            raise QueryError(f"{answer['error']}: {dict(parameters)}")
        return answer["data"]


@contextmanager
def running_prometheus(
    program: Path, folder: Path, targets: Sequence[str], *, scrape_s: float, evaluate_s: float
) -> Iterator[Prometheus]:
    """Prometheus with our configuration and rules, but these targets and times; its data is in `folder`."""
    address = f"127.0.0.1:{free_port()}"
    configuration = _configuration(targets, scrape_s, evaluate_s)
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    command = [
        str(program),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    api = Prometheus(address)
    try:
        _wait_ready(process, api, log)
        yield api
    finally:
        api.close()
        process.terminate()
        try:
            process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _configuration(targets: Sequence[str], scrape_s: float, evaluate_s: float) -> dict[str, Any]:
    configuration: dict[str, Any] = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text(encoding="utf-8"))
    configuration["global"] = {
        "scrape_interval": f"{round(scrape_s * 1000)}ms",
        "scrape_timeout": f"{round(scrape_s * 1000)}ms",
        "evaluation_interval": f"{round(evaluate_s * 1000)}ms",
    }
    configuration["rule_files"] = [str(DEPLOYED / file) for file in configuration["rule_files"]]
    configuration["scrape_configs"][0]["static_configs"] = [{"targets": list(targets)}]
    return configuration


def _wait_ready(process: subprocess.Popen[bytes], api: Prometheus, log: Path) -> None:
    limit_s = time.monotonic() + _START_LIMIT_S
    while not api.ready():
        if process.poll() is not None or time.monotonic() > limit_s:
            raise RuntimeError(f"Prometheus did not start: {log.read_text(errors='replace')}")
        time.sleep(_LOOK_S)
