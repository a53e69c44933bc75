"""The commands, run as a user runs them: as processes."""

import asyncio
import json
import os
import signal
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

from penstock import (
    DeadlineError,
    InternalServerError,
    InvalidRequestError,
    OverloadedError,
    PenstockError,
    Retry,
    UnavailableError,
)
from service.terminal import error_line, exit_code, retry_line
from tests.client.commands import Penstock, Result
from tests.client.doubles import Cut, Exchange, ResumableAnswer, ScriptedServer, never_ending


@pytest_asyncio.fixture
async def penstock(grpc_addr: str) -> Penstock:
    return Penstock(grpc_addr)


async def test_generate_prints_the_continuation_only(
    penstock: Penstock, grpc_servicer: ScriptedServer
) -> None:
    result = await penstock(
        *("generate", "Hello", "--max-tokens", "80", "--temperature", "0", "--seed", "7", "--top-k", "4"),
        *("--stop", "END", "--stop", "\n", "--model", "tiny", "--logprobs", "2", "--ignore-eos"),
        *("--cache-salt", "pepper"),
    )
    assert result == Result(0, "Once more\n", "")
    start = (await grpc_servicer.exchanges.get()).received[0].start
    assert (start.prompt, start.model, start.stopping.max_tokens) == ("Hello", "tiny", 80)
    assert start.sampling.HasField("temperature")
    assert start.sampling.temperature == 0
    assert not start.sampling.HasField("top_p")
    assert start.cache_salt == "pepper"
    assert (start.sampling.seed, start.sampling.top_k) == (7, 4)
    assert list(start.stopping.stop_strings) == ["END", "\n"]
    assert (start.stopping.ignore_eos, start.output.logprobs) == (True, 2)


async def test_generate_on_a_terminal_shows_the_prompt_dimmed(penstock: Penstock) -> None:
    terminal, other_end = os.openpty()
    process = await penstock.start("generate", "Hello", stdout=other_end)
    await process.communicate()
    shown = await asyncio.to_thread(os.read, terminal, 100)
    os.close(other_end)
    os.close(terminal)
    assert shown == b"\x1b[2mHello\x1b[0mOnce more\r\n"


async def test_generate_reads_standard_input(penstock: Penstock, grpc_servicer: ScriptedServer) -> None:
    assert (await penstock("generate", "-", text="Grüße\n\n")).code == 0
    start = (await grpc_servicer.exchanges.get()).received[0].start
    assert start.prompt == "Grüße\n"


async def test_generate_chat(penstock: Penstock, grpc_servicer: ScriptedServer) -> None:
    assert (await penstock("generate", "Hi", "--system", "Be brief.")).code == 0
    messages = (await grpc_servicer.exchanges.get()).received[0].start.chat.messages
    assert [(m.role, m.content) for m in messages] == [("system", "Be brief."), ("user", "Hi")]


async def test_generate_json_and_stats(penstock: Penstock) -> None:
    result = await penstock("generate", "Hello", "--json", "--stats")
    events = [json.loads(line) for line in result.out.splitlines()]
    assert [next(iter(event)) for event in events] == ["accepted", "chunk", "chunk", "finished"]
    assert events[1]["chunk"] == {"seq": "1", "token_ids": [1], "text": "Once "}
    assert events[3]["finished"]["usage"] == {"prompt_tokens": 3, "completion_tokens": 2}
    assert result.err.startswith("3 prompt tokens, 2 tokens, TTFT ")
    numbers, stages = result.err.splitlines()
    assert numbers.endswith("acks 1, window 4, lowest credit 2")
    assert stages.startswith("server ms: admission 0.0, queue 0.0, tokenise 0.0, cache lookup 0.0, prefill ")


async def test_generate_reads_a_long_file(
    penstock: Penstock, grpc_servicer: ScriptedServer, tmp_path: Path
) -> None:
    long = "Grüße\n" * 10_000
    file = tmp_path / "prompt.txt"
    file.write_text(long + "\n", encoding="utf-8")
    grpc_servicer.script = ResumableAnswer(["Once ", "more"])
    assert (await penstock("generate", "--prompt-file", str(file))).out == "Once more\n"
    exchange = await grpc_servicer.exchanges.get()
    assert exchange.prompt == long
    assert exchange.received[0].start.WhichOneof("input") == "prompt_parts"
    assert (await penstock("generate", "--prompt-file", "-", text=long + "\n")).code == 0
    assert (await grpc_servicer.exchanges.get()).prompt == long


async def test_a_prompt_that_cannot_be_read(penstock: Penstock, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.txt")
    result = await penstock("generate", "--prompt-file", missing)
    assert result == Result(2, "", f"penstock: {missing}: No such file or directory\n")
    assert (await penstock("generate")).code == 2
    assert (await penstock("generate", "Hello", "--prompt-file", missing)).code == 2


async def test_a_bad_size_in_the_environment(grpc_addr: str) -> None:
    result = await Penstock(grpc_addr, (("STREAM_REQUEST_CHUNK_SIZE", "32k"),))("generate", "Hello")
    line = "STREAM_REQUEST_CHUNK_SIZE: got '32k'; allowed: 1024 to 67108864 bytes"
    assert result == Result(2, "", f"penstock: {line}\n")


async def test_generate_resumes(penstock: Penstock, grpc_servicer: ScriptedServer) -> None:
    grpc_servicer.script = ResumableAnswer(["Once ", "more", "."], cuts=[Cut(1), Cut(at="start"), Cut(2)])
    result = await penstock("generate", "Hello", "--resume", "--stats")
    assert (result.code, result.out) == (0, "Once more.\n")
    *lines, numbers, _ = result.err.splitlines()
    assert lines == [
        "penstock: connection lost, resuming at token 1",
        "penstock: connection lost, resuming at token 2",
    ]
    assert numbers.endswith("resumes 2")


async def test_generate_resumes_with_json(penstock: Penstock, grpc_servicer: ScriptedServer) -> None:
    grpc_servicer.script = ResumableAnswer(["Once ", "more"], cuts=[Cut(1)])
    result = await penstock("generate", "Hello", "--resume", "--json")
    events = [json.loads(line) for line in result.out.splitlines()]
    kinds = [next(iter(event)) for event in events]
    assert kinds == ["accepted", "chunk", "accepted", "chunk", "finished"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UnavailableError("Socket closed", request_id="r"), "connection lost, resuming at token 5"),
        (UnavailableError("refused"), "cannot reach the server, trying again"),
        (UnavailableError("Stopping.", reason="DRAINING"), "Stopping. (DRAINING); resuming at token 5"),
    ],
)
def test_retry_lines(error: PenstockError, line: str) -> None:
    assert retry_line(Retry(error, tokens_received=5, wait_s=1.0, ready_s=5.0)) == line


async def test_an_error_is_one_line_and_an_exit_code(
    penstock: Penstock, grpc_servicer: ScriptedServer
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.accept()
        await exchange.chunk("Once")
        await exchange.fail(grpc.StatusCode.ABORTED, "It went wrong.", ErrorInfo(reason="WHY"))

    grpc_servicer.script = script
    result = await penstock("generate", "Hello")
    assert result == Result(1, "Once\n", "penstock: It went wrong. (WHY)\n")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InvalidRequestError("No.", violations=(("top_p", "too big"),)), 2, "No. [top_p: too big]"),
        (OverloadedError("Full.", reason="WHY", retry_after_s=1.5), 3, "Full. (WHY); try again in 1.5 s"),
        (UnavailableError("Stopping.", reason="DRAINING"), 3, "Stopping. (DRAINING)"),
        (
            UnavailableError("Socket closed", request_id="r"),
            3,
            "lost the connection to host:1: Socket closed",
        ),
        (DeadlineError("Deadline Exceeded"), 4, "Deadline Exceeded"),
        (InternalServerError("It went wrong.", reason="WHY"), 1, "It went wrong. (WHY)"),
    ],
)
def test_error_lines_and_exit_codes(error: PenstockError, code: int, line: str) -> None:
    assert (exit_code(error), error_line(error, "host:1")) == (code, line)


async def test_errors_as_json(penstock: Penstock, grpc_servicer: ScriptedServer) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.accept()
        retry = RetryInfo(retry_delay=Duration(seconds=2))
        await exchange.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "Full.", ErrorInfo(reason="WHY"), retry)

    grpc_servicer.script = script
    result = await penstock("generate", "Hello", "--json")
    assert result.code == 3
    assert result.err == ""
    assert json.loads(result.out.splitlines()[-1])["error"] == {
        "code": "RESOURCE_EXHAUSTED",
        "reason": "WHY",
        "message": "Full.",
        "retry_after_s": 2.0,
        "violations": [],
        "request_id": "made-by-server",
    }


async def test_value_that_cannot_be_sent(penstock: Penstock) -> None:
    result = await penstock("generate", "Hello", "--max-tokens=-1")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("penstock: start.stopping.max_tokens: ")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("command", [["generate", "Hello"], ["status"], ["status", "--watch"]])
async def test_no_server(free_address: str, command: list[str]) -> None:
    result = await Penstock(free_address)(*command)
    assert (result.code, result.out) == (3, "")
    assert result.err.startswith(f"penstock: cannot reach {free_address}: ")
    assert result.err.endswith("is the server running? (make serve)\n")
    assert result.err.count("\n") == 1


async def test_ctrl_c_cancels_the_stream(penstock: Penstock, grpc_servicer: ScriptedServer) -> None:
    grpc_servicer.script = never_ending
    process = await penstock.start("generate", "Hello")
    assert process.stdout is not None
    assert await process.stdout.readexactly(9) == b"Once more"
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (130, b"\n", b"cancelled\n")
    exchange = await grpc_servicer.exchanges.get()
    await asyncio.wait_for(exchange.ended.wait(), 10)
    assert exchange.cancelled


async def test_closed_standard_output(penstock: Penstock, grpc_servicer: ScriptedServer) -> None:
    go_on = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.accept(window=0)
        await exchange.chunk("first line\n")
        await go_on.wait()
        for _ in range(20):
            await exchange.chunk("more\n")
        await exchange.read_all()

    grpc_servicer.script = script
    reader, writer = os.pipe()
    process = await penstock.start("generate", "Hello", stdout=writer)
    os.close(writer)
    assert await asyncio.to_thread(os.read, reader, 100) == b"first line\n"
    os.close(reader)
    go_on.set()
    _, err = await process.communicate()
    assert (process.returncode, err) == (141, b"")
