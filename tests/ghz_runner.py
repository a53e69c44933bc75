"""Runs a ghz configuration: with the real ghz where it is on PATH, else with grpc.aio.

Takes the JSON files of ghz (https://ghz.sh/docs/options) and returns a report with its keys. What the
stand-in knows: proto with import-paths, protoset, or neither (reflection); call, host, total, duration,
rps, concurrency, connections, timeout, data, data-file, metadata, stream-interval, stream-call-count, tags.
As in ghz every element of a data array is one message of a stream; after the last one comes the
half-close; what is received does not hold up what is sent.

`tags` hold what is expected of the report: see `unmet`.
"""

import asyncio
import collections
import contextlib
import datetime
import itertools
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

Config = Mapping[str, Any]
Report = dict[str, Any]

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PERCENTAGES = (10, 25, 50, 75, 90, 95, 99)
_CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


def status_name(code: grpc.StatusCode) -> str:
    """The name of a status in Go, as ghz reports it."""
    special = {grpc.StatusCode.OK: "OK", grpc.StatusCode.CANCELLED: "Canceled"}
    return special.get(code) or "".join(word.capitalize() for word in code.name.split("_"))


def seconds(duration: str | None) -> float:
    """A duration as Go writes it, such as "1m30s"; 0 for none."""
    parts = re.findall(r"([\d.]+)(ns|us|µs|ms|s|m|h)", duration or "")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


def unmet(report: Report) -> list[str]:
    """What the report's tags expect and the report does not show.

    expect.status: the status of every call. expect.count: number of calls. expect.min_responses: fewest
    messages received by a call; ghz itself does not report them, so with it this one is not checked.
    """
    tags = report.get("tags") or {}
    problems = []
    statuses = report["statusCodeDistribution"]
    expected = tags.get("expect.status")
    if expected is not None and set(statuses) != {expected}:
        problems.append(f"expect.status {expected}: got {statuses}, {report.get('errorDistribution')}")
    if "expect.count" in tags and report["count"] != int(tags["expect.count"]):
        problems.append(f"expect.count {tags['expect.count']}: got {report['count']}")
    fewest = int(tags.get("expect.min_responses", 0))
    responses = [detail["responses"] for detail in report["details"] if "responses" in detail]
    if responses and min(responses) < fewest:
        problems.append(f"expect.min_responses {fewest}: got {min(responses)}")
    return problems


def run(config: Config) -> Report:
    """Run a configuration. Paths in it are relative to the working directory, as for ghz."""
    if shutil.which("ghz"):
        return _run_ghz(config)
    return asyncio.run(run_stand_in(config))


def _run_ghz(config: Config) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        own_output = {key: value for key, value in config.items() if key not in ("format", "output")}
        file.write_text(json.dumps(own_output), encoding="utf-8")
        done = subprocess.run(
            ["ghz", "--config", str(file), "--format", "json"], capture_output=True, text=True, check=True
        )
    report: Report = json.loads(done.stdout)
    return report


@dataclass(frozen=True)
class _Method:
    path: str
    descriptor: MethodDescriptor
    request: type[Message]
    response: type[Message]


def _method(config: Config) -> _Method:
    match = re.fullmatch(r"(.+)[./]([^./]+)", config["call"])
    if match is None:
        raise ValueError(f"call: expected package.Service.Method, got {config['call']!r}")
    service, name = match.groups()
    with contextlib.ExitStack() as stack:
        if "protoset" in config:
            pool = _pool_of(Path(config["protoset"]).read_bytes())
        elif "proto" in config:
            pool = _pool_of(_compiled(config))
        else:
            channel = stack.enter_context(grpc.insecure_channel(config["host"], options=_CHANNEL_OPTIONS))
            pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        descriptor = pool.FindServiceByName(service).methods_by_name[name]
        return _Method(
            f"/{service}/{name}",
            descriptor,
            message_factory.GetMessageClass(descriptor.input_type),
            message_factory.GetMessageClass(descriptor.output_type),
        )


def _compiled(config: Config) -> bytes:
    """The serialized FileDescriptorSet of config["proto"]."""
    from grpc_tools import protoc  # type: ignore[import-untyped]

    folders = config.get("import-paths") or [str(Path(config["proto"]).parent)]
    with tempfile.NamedTemporaryFile() as output:
        status = protoc.main(
            [
                "protoc", *(f"-I{folder}" for folder in folders),
                f"-I{resources.files('grpc_tools') / '_proto'}",
                "--include_imports", f"--descriptor_set_out={output.name}", config["proto"],
            ]
        )  # fmt: skip
        if status:
            raise ValueError(f"proto: protoc failed with exit status {status}")
        return output.read()


def _pool_of(data: bytes) -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.Add(file)
    return pool


class _Caller:
    """Makes the calls of one configuration and notes how they went."""

    def __init__(self, config: Config, method: _Method) -> None:
        self._method = method
        data = config["data"] if "data" in config else json.loads(Path(config["data-file"]).read_text())
        elements = data if isinstance(data, list) else [data]
        self._messages = [json_format.ParseDict(element, method.request()) for element in elements]
        self._per_call = config.get("stream-call-count") or len(self._messages)
        self._interval_s = seconds(config.get("stream-interval"))
        self._timeout_s = seconds(config.get("timeout", "20s")) or None
        self._metadata = tuple((key.lower(), value) for key, value in config.get("metadata", {}).items())
        self.details: list[dict[str, Any]] = []

    def stub(self, channel: grpc.aio.Channel) -> Any:
        descriptor = self._method.descriptor
        kinds = [
            "stream" if s else "unary" for s in (descriptor.client_streaming, descriptor.server_streaming)
        ]
        make: Any = getattr(channel, "_".join(kinds))
        return make(
            self._method.path,
            request_serializer=self._method.request.SerializeToString,
            response_deserializer=self._method.response.FromString,
        )

    async def call(self, number: int, stub: Any) -> None:
        began_ns, responses, error = time.perf_counter_ns(), 0, ""
        status = grpc.StatusCode.OK
        streams_up = self._method.descriptor.client_streaming
        sent = self._stream() if streams_up else self._messages[number % len(self._messages)]
        call = stub(sent, timeout=self._timeout_s, metadata=self._metadata)
        try:
            if self._method.descriptor.server_streaming:
                async for _ in call:
                    responses += 1
            else:
                await call
                responses = 1
        except grpc.aio.AioRpcError as failed:
            status = failed.code()
            error = f"rpc error: code = {status_name(status)} desc = {failed.details()}"
        finally:
            call.cancel()
        self.details.append(
            {
                "timestamp": datetime.datetime.now(datetime.UTC).isoformat(),
                "latency": time.perf_counter_ns() - began_ns,
                "error": error,
                "status": status_name(status),
                "responses": responses,
            }
        )

    async def _stream(self) -> AsyncIterator[Message]:
        for index in range(self._per_call):
            yield self._messages[index % len(self._messages)]
            if self._interval_s and index + 1 < self._per_call:
                await asyncio.sleep(self._interval_s)


async def run_stand_in(config: Config) -> Report:
    """Run a configuration with grpc.aio."""
    caller = _Caller(config, await asyncio.to_thread(_method, config))
    total, rps = config.get("total", 200), config.get("rps", 0)
    began_s, began_ns = time.monotonic(), time.perf_counter_ns()
    ends_s = began_s + seconds(config["duration"]) if "duration" in config else None
    numbers = itertools.count()

    async def work(stub: Any) -> None:
        for number in numbers:
            if time.monotonic() > ends_s if ends_s is not None else number >= total:
                return
            if rps:
                await asyncio.sleep(max(0.0, began_s + number / rps - time.monotonic()))
            await caller.call(number, stub)

    async with contextlib.AsyncExitStack() as stack:
        stubs = []
        for _ in range(config.get("connections", 1)):
            channel = grpc.aio.insecure_channel(config["host"], options=_CHANNEL_OPTIONS)
            stubs.append(caller.stub(await stack.enter_async_context(channel)))
        workers = range(config.get("concurrency", 50))
        await asyncio.gather(*(work(stubs[worker % len(stubs)]) for worker in workers))
    return _report(config, caller.details, time.perf_counter_ns() - began_ns)


def _report(config: Config, details: list[dict[str, Any]], total_ns: int) -> Report:
    latencies = sorted(detail["latency"] for detail in details) or [0]
    last = len(latencies) - 1
    return {
        "name": config.get("name"),
        "endReason": "normal",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "options": {key: config[key] for key in ("call", "host", "total", "concurrency") if key in config},
        "count": len(details),
        "total": total_ns,
        "average": int(statistics.mean(latencies)),
        "fastest": latencies[0],
        "slowest": latencies[-1],
        "rps": len(details) / (total_ns / 1e9),
        "errorDistribution": dict(collections.Counter(d["error"] for d in details if d["error"])),
        "statusCodeDistribution": dict(collections.Counter(d["status"] for d in details)),
        "latencyDistribution": [
            {"percentage": p, "latency": latencies[min(last, len(latencies) * p // 100)]}
            for p in _PERCENTAGES
        ],
        "details": details,
        "tags": dict(config.get("tags", {})),
    }


def main() -> int:
    """`python -m tests.ghz_runner FILE [HOST]`: print the report, exit with 1 when tags are not met."""
    config = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if len(sys.argv) > 2:
        config["host"] = sys.argv[2]
    report = run(config)
    print(json.dumps({**report, "details": report["details"][:1]}, indent=2))
    problems = unmet(report)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
