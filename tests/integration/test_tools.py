"""The server through other people's tools: reflection, buf curl, and our own command line."""

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from penstock.v1.generation_pb2 import DESCRIPTOR
from tests.integration.processes import penstock, run
from tests.service.refusals import refusal
from tests.service.servers import CHANNEL_OPTIONS, Stubs

BUF = Path(sys.executable).parent / "buf"
GENERATE = "penstock.v1.GenerationService/Generate"
# buf's exit status is eight times the code of gRPC.
BUF_INVALID_ARGUMENT = 8 * 3


def test_reflection_lists_and_describes_the_services(grpc_addr: str) -> None:
    with grpc.insecure_channel(grpc_addr, options=CHANNEL_OPTIONS) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) >= {
            "penstock.v1.GenerationService",
            "penstock.v1.ModelService",
            "penstock.v1.StatusService",
            "grpc.health.v1.Health",
        }
        described = DescriptorPool(database).FindServiceByName("penstock.v1.GenerationService")
        methods = DESCRIPTOR.services_by_name["GenerationService"].methods_by_name
        assert set(described.methods_by_name) == set(methods)


def buf_curl(address: str, call: str, *messages: dict[str, Any]) -> tuple[int, list[Any], str]:
    """Exit status, what was received, and standard error; the schema comes by reflection."""
    data = "\n".join(json.dumps(message) for message in messages)
    done = run(
        str(BUF), "curl", "--protocol", "grpc", "--http2-prior-knowledge",
        "-d", data, f"http://{address}/{call}",
    )  # fmt: skip
    decoder, rest, received = json.JSONDecoder(), done.stdout.strip(), []
    while rest:
        message, end = decoder.raw_decode(rest)
        received.append(message)
        rest = rest[end:].lstrip()
    return done.returncode, received, done.stderr


def test_buf_curl_streams_a_generation(grpc_addr: str) -> None:
    start = {"prompt": "Once upon a time", "stopping": {"maxTokens": 24, "ignoreEos": True}}
    status, received, stderr = buf_curl(grpc_addr, GENERATE, {"start": start})
    assert status == 0, stderr
    assert "accepted" in received[0]
    assert received[-1]["finished"]["reason"] == "FINISH_REASON_LENGTH"
    assert received[-1]["finished"]["usage"]["completionTokens"] == 24
    assert sum(len(message["chunk"]["tokenIds"]) for message in received if "chunk" in message) == 24


def test_buf_curl_tells_what_is_wrong(grpc_addr: str) -> None:
    start = {"prompt": "x", "sampling": {"topP": 2}}
    status, received, stderr = buf_curl(grpc_addr, GENERATE, {"start": start})
    assert (status, received) == (BUF_INVALID_ARGUMENT, [])
    error = json.loads(stderr)
    assert error["code"] == "invalid_argument"
    assert "start.sampling.top_p" in error["message"]
    kinds = [detail["type"] for detail in error["details"]]
    assert kinds == ["google.rpc.ErrorInfo", "google.rpc.BadRequest"]


def test_buf_curl_asks_for_health_and_status(grpc_addr: str) -> None:
    status, received, stderr = buf_curl(grpc_addr, "grpc.health.v1.Health/Check", {})
    assert (status, received) == (0, [{"status": "SERVING"}]), stderr
    status, received, stderr = buf_curl(grpc_addr, "penstock.v1.StatusService/GetStatus", {})
    assert status == 0, stderr
    assert received[0]["status"]["models"][0]["isDefault"]


async def test_an_unknown_method_is_unimplemented(stubs: Stubs) -> None:
    call: Any = stubs.channel.unary_unary("/penstock.v1.GenerationService/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert refusal(caught.value).code is grpc.StatusCode.UNIMPLEMENTED


async def test_penstock_generate_prints_text(grpc_addr: str) -> None:
    args = ("generate", "Once upon a time", "--max-tokens", "16", "--temperature", "0", "--ignore-eos")
    plain, as_json = await asyncio.gather(
        asyncio.to_thread(penstock, *args, "--stats", PENSTOCK_TARGET=grpc_addr),
        asyncio.to_thread(penstock, *args, "--json", "--target", grpc_addr),
    )
    assert plain.returncode == 0, plain.stderr
    assert "16 tokens" in plain.stderr
    assert as_json.returncode == 0, as_json.stderr
    messages = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert "accepted" in messages[0]
    assert messages[-1]["finished"]["reason"] == "FINISH_REASON_LENGTH"
    text = "".join(message["chunk"].get("text", "") for message in messages if "chunk" in message)
    assert plain.stdout.removesuffix("\n") == text.removesuffix("\n")


def test_penstock_generate_tells_what_is_wrong(grpc_addr: str) -> None:
    done = penstock("generate", "x", "--temperature", "99", "--target", grpc_addr)
    assert (done.returncode, done.stdout) == (2, "")
    assert "start.sampling.temperature" in done.stderr
    assert len(done.stderr.splitlines()) == 1


async def test_penstock_status_shows_the_server(grpc_addr: str) -> None:
    plain, as_json = await asyncio.gather(
        asyncio.to_thread(penstock, "status", "--target", grpc_addr),
        asyncio.to_thread(penstock, "status", "--json", "--target", grpc_addr),
    )
    assert plain.returncode == 0, plain.stderr
    assert re.search(r"Streams +0 active", plain.stdout)
    assert "penstock-tiny (default)" in plain.stdout
    assert as_json.returncode == 0, as_json.stderr
    status = json.loads(as_json.stdout)
    assert status["streams"]["max_active"] == status["admission"]["limits"]["limit"] > 0
    assert status["workers"][0]["restarts"] == 0
    assert status["workers"][0]["state"] == "WORKER_STATE_READY"


async def test_penstock_config_shows_and_checks() -> None:
    shown, checked, wrong = await asyncio.gather(
        asyncio.to_thread(
            penstock, "config", "show", "--env", "test", "--json", PENSTOCK_ENGINE__CPU_BLAS="none"
        ),
        asyncio.to_thread(penstock, "config", "check", "--env", "production"),
        asyncio.to_thread(penstock, "config", "check", PENSTOCK_SERVER__PORT="x"),
    )
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["options"]["engine.cpu_blas"]["value"] == "none"
    assert (checked.returncode, "valid" in checked.stdout) == (0, True)
    assert wrong.returncode == 2
    assert "server.port" in wrong.stderr
