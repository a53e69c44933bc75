"""Prompts and outputs are in the log only where logging.prompts asks for it, at level debug."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest

from penstock import Client, InvalidRequestError
from penstock.v1 import generation_pb2 as pb
from penstock.v1 import status_pb2
from tests.integration.processes import ServerProcess, running_server
from tests.integration.telltale_server import WORD
from tests.service.calls import GenerateCall, endless, refused, start
from tests.service.eventually import eventually
from tests.service.servers import Stubs, stubs_of

SECRET = "Rumpelstiltskin"
TELLTALE: dict[str, Any] = {"module": "tests.integration.telltale_server", "args": ()}
DEBUG = {
    "LOGGING__LEVEL": "debug",
    "LOGGING__FORMAT": "json",
    "STREAM_REGISTRY__BACKPRESSURE__ACK_TIMEOUT_MS": "200",
}


def lines(server: ServerProcess, event: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, server.stderr().splitlines()) if line["event"] == event]


async def streams_of_all_kinds(stubs: Stubs) -> None:
    """Streams that finish, are cancelled, fail with output and without, and requests that are refused."""
    for message in (
        endless(5, prompt=SECRET, request_id="text"),
        endless(5, chat={"messages": [{"role": "user", "content": SECRET}]}, request_id="chat"),
    ):
        async with GenerateCall(stubs.generation) as call:
            await call.start(message)
            await call.half_close()
            await call.rest()
    async with GenerateCall(stubs.generation) as call:
        await call.start(endless(5, prompt_parts={}, request_id="parts"))
        await call.send(prompt_part=pb.PromptPart(text=SECRET[:5]))
        await call.send(prompt_part=pb.PromptPart(text=SECRET[5:], last=True))
        await call.half_close()
        await call.rest()
    async with GenerateCall(stubs.generation) as call:
        await call.start(endless(900, prompt=SECRET, request_id="cancelled"))
        await call.read_chunks(1)
        await call.send(cancel=pb.Cancel(reason=SECRET))
        await call.rest()
    async with GenerateCall(stubs.generation) as call:
        flow = {"max_unacked_chunks": 1, "max_tokens_per_chunk": 1}
        await call.start(endless(900, prompt=SECRET, request_id="not acked", flow=flow))
        assert (await call.refused()).code is grpc.StatusCode.ABORTED
    for message in (
        start(f"{SECRET} " * 2000, request_id="too long"),
        start(SECRET, sampling={"temperature": -1.0}),
        start(SECRET, model=SECRET),
        start(SECRET, chat={"messages": [{"role": SECRET, "content": SECRET}]}),
    ):
        await refused(stubs.generation, pb.GenerateRequest(start=message))


@pytest.mark.parametrize(
    "options", [{}, {"LOGGING__PROMPTS": "true", "LOGGING__LEVEL": "info"}], ids=["off", "above debug"]
)
async def test_no_prompt_and_no_output_is_logged(tmp_path: Path, options: dict[str, str]) -> None:
    with running_server(tmp_path / "stderr", DEBUG | options, **TELLTALE) as server:
        async with stubs_of(server.address) as stubs:
            await streams_of_all_kinds(stubs)
        server.stop()
        assert lines(server, "cancelled by the caller")
        assert SECRET not in server.stderr()
        assert WORD not in server.stderr()


async def test_both_are_logged_where_that_is_asked_for(tmp_path: Path) -> None:
    options = DEBUG | {"LOGGING__PROMPTS": "true"}
    with running_server(tmp_path / "stderr", options, **TELLTALE) as server:
        async with stubs_of(server.address) as stubs:
            await streams_of_all_kinds(stubs)
        server.stop()
        logged = {line["request_id"]: line for line in lines(server, "prompt and output")}
        assert set(logged) == {"text", "chat", "parts", "cancelled", "not acked", "too long"}
        assert logged["text"]["prompt"] == logged["parts"]["prompt"] == SECRET
        assert logged["chat"]["prompt"] == [["user", SECRET]]
        for name in ("text", "chat", "parts"):
            assert logged[name]["output"] == f" {WORD}" * 5
        assert WORD in logged["cancelled"]["output"]
        assert WORD in logged["not acked"]["output"]
        assert logged["too long"]["output"] == ""


async def test_workers_log_nothing_of_them_either(tmp_path: Path) -> None:
    """The real model: a stream that outlives its worker, and one that the worker refuses."""
    options = DEBUG | {"ENGINE__CPU_BLAS": "none", "STREAM_REGISTRY__BACKPRESSURE__ACK_TIMEOUT_MS": "60000"}
    with running_server(tmp_path / "stderr", options) as server:
        async with Client(server.address) as client:
            stream = client.generate(SECRET, temperature=0.0, max_tokens=100, ignore_eos=True)
            killed = 0
            async for _ in stream:
                if not killed and len(stream.token_ids) >= 20:
                    killed = (await client.status()).workers[0].pid
                    os.kill(killed, signal.SIGKILL)
            assert killed

            async def ready() -> bool:
                [worker] = (await client.status()).workers
                return worker.state == status_pb2.WORKER_STATE_READY

            await eventually(ready, bool, within_s=60.0)
            with pytest.raises(InvalidRequestError):
                await asyncio.wait_for(client.complete(f"{SECRET} " * 5000), 60.0)
        server.stop()
        log = server.stderr()
        assert "streams of a lost worker go on" in log
        assert SECRET not in log
        assert stream.text[:30] not in log
        assert stream.text[-30:] not in log
