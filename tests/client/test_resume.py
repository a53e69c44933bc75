"""A lost stream goes on in a new call, and its caller sees one stream."""

import asyncio

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

from penstock import (
    AbortedError,
    CancelledStreamError,
    Client,
    InvalidRequestError,
    OverloadedError,
    PenstockError,
    Retry,
    Stream,
    SyncClient,
    UnavailableError,
)
from penstock.v1.generation_pb2 import Chunk
from penstock.v1.generation_pb2_grpc import add_GenerationServiceServicer_to_server
from tests.client.conftest import AnyClient
from tests.client.doubles import Cut, Exchange, ResumableAnswer, Script, ScriptedServer
from tests.client.drivers import ThreadedClient, ThreadedStream, Waits

TEXTS = [f"t{n} " for n in range(9)]


def check_whole(chunks: list[Chunk], answer: ResumableAnswer) -> None:
    """No gap and no repeat in what the application got."""
    assert "".join(chunk.text for chunk in chunks) == answer.text
    assert [chunk.seq for chunk in chunks] == list(range(1, len(chunks) + 1))
    token_ids: list[int] = []
    for chunk in chunks:
        assert chunk.token_offset == len(token_ids)
        token_ids.extend(chunk.token_ids)
    assert token_ids == list(range(1, len(TEXTS) + 1))


@pytest.mark.parametrize("per_chunk", [1, 4])
@pytest.mark.parametrize("tail", ["", "EN"])
async def test_a_cut_at_every_token(
    patient: AnyClient, grpc_servicer: ScriptedServer, waits: Waits, tail: str, per_chunk: int
) -> None:
    for tokens in range(len(TEXTS) + 1):
        answer = ResumableAnswer(TEXTS, cuts=[Cut(tokens)], tail=tail, per_chunk=per_chunk)
        grpc_servicer.script = answer
        stream = patient.generate("Hello", retries=1)
        chunks = [chunk async for chunk in stream]
        check_whole(chunks, answer)
        assert stream.text == answer.text
        assert stream.done
        assert stream.resumes == 1
        resume = answer.starts[1].resume
        assert list(resume.token_ids) == list(range(1, tokens + 1))
        assert resume.last_seq == -(-tokens // per_chunk)
    assert waits.waited_s == [0.1875] * (len(TEXTS) + 1)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED])
async def test_a_cut_after_each_of_many_tokens(
    patient: AnyClient, grpc_servicer: ScriptedServer, code: grpc.StatusCode
) -> None:
    answer = ResumableAnswer(TEXTS, cuts=[Cut(tokens, code=code) for tokens in range(1, 9)])
    grpc_servicer.script = answer
    stream = patient.generate("Hello", retries=1)
    check_whole([chunk async for chunk in stream], answer)
    assert stream.resumes == 8


async def test_a_call_that_is_lost_before_the_first_token(
    patient: AnyClient, grpc_servicer: ScriptedServer
) -> None:
    answer = ResumableAnswer(TEXTS, cuts=[Cut(at="start"), Cut(at="accepted"), Cut(3)])
    grpc_servicer.script = answer
    stream = patient.generate("Hello", retries=2)
    check_whole([chunk async for chunk in stream], answer)
    assert stream.resumes == 2  # the call before `accepted` came had begun nothing
    assert [start.HasField("resume") for start in answer.starts] == [False, False, True, True]


async def test_what_every_resume_repeats(patient: AnyClient, grpc_servicer: ScriptedServer) -> None:
    answer = ResumableAnswer(TEXTS, cuts=[Cut(2), Cut(5)])
    grpc_servicer.script = answer
    await patient.complete("Hello", retries=1, temperature=0.5, max_tokens=40)
    first, *others = answer.starts
    assert not first.sampling.HasField("seed")
    assert len(others) == 2
    for start in others:
        assert (start.prompt, start.stopping.max_tokens) == ("Hello", 40)
        assert (start.sampling.temperature, start.sampling.seed) == (0.5, 1001)
        assert (start.request_id, start.model) == ("made-1", "tiny")
        assert start.resume.model_fingerprint == "print"


async def test_events_show_the_accepted_of_each_call(
    patient: AnyClient, grpc_servicer: ScriptedServer
) -> None:
    grpc_servicer.script = ResumableAnswer(TEXTS[:2], cuts=[Cut(1)])
    stream = patient.generate("Hello", retries=1)
    kinds = [event.WhichOneof("message") async for event in stream.events()]
    assert kinds == ["accepted", "chunk", "accepted", "chunk", "finished"]


async def test_on_retry_is_told(patient: AnyClient, grpc_servicer: ScriptedServer) -> None:
    grpc_servicer.script = ResumableAnswer(TEXTS, cuts=[Cut(5)])
    told: list[Retry] = []
    await patient.complete("Hello", retries=1, on_retry=told.append, request_id="r-7")
    [retry] = told
    assert isinstance(retry.error, UnavailableError)
    assert (retry.error.request_id, retry.tokens_received, retry.wait_s) == ("r-7", 5, 0.1875)


async def test_nothing_is_retried_unasked(client: AnyClient, grpc_servicer: ScriptedServer) -> None:
    answer = ResumableAnswer(TEXTS, cuts=[Cut(5)], tail="EN")
    grpc_servicer.script = answer
    with pytest.raises(UnavailableError):
        await client.complete("Hello")
    assert len(answer.starts) == 1


async def test_the_last_error_is_raised_when_no_retry_is_left(
    patient: AnyClient, grpc_servicer: ScriptedServer, waits: Waits
) -> None:
    cuts = [Cut(4), Cut(at="start"), Cut(4), Cut(at="accepted", code=grpc.StatusCode.ABORTED)]
    answer = ResumableAnswer(TEXTS, cuts=cuts)
    grpc_servicer.script = answer
    stream = patient.generate("Hello", retries=3)
    with pytest.raises(AbortedError):
        _ = [chunk async for chunk in stream]
    assert stream.text == "".join(TEXTS[:4])
    assert not stream.done
    assert len(answer.starts) == 4
    assert waits.waited_s == [0.1875, 0.375, 0.75]


async def test_the_count_begins_again_with_a_new_token(
    patient: AnyClient, grpc_servicer: ScriptedServer, waits: Waits
) -> None:
    cuts = [Cut(4), Cut(4), Cut(4), Cut(5), Cut(5), Cut(5)]
    grpc_servicer.script = ResumableAnswer(TEXTS, cuts=cuts)
    assert await patient.complete("Hello", retries=3) == "".join(TEXTS)
    assert waits.waited_s == [0.1875, 0.375, 0.75] * 2


async def test_retry_info_is_honoured(
    patient: AnyClient, grpc_servicer: ScriptedServer, waits: Waits
) -> None:
    details = [ErrorInfo(reason="DRAINING"), RetryInfo(retry_delay=Duration(seconds=7))]
    grpc_servicer.script = ResumableAnswer(TEXTS, cuts=[Cut(4, details=details)])
    await patient.complete("Hello", retries=1)
    assert waits.waited_s == [12.25]


async def test_a_server_that_loads_its_model_is_waited_for(
    patient: AnyClient, grpc_servicer: ScriptedServer, waits: Waits
) -> None:
    answer = ResumableAnswer(TEXTS, cuts=[Cut(4)])
    grpc_servicer.script = answer
    grpc_servicer.loading = 3
    assert await patient.complete("Hello", retries=1) == answer.text
    assert waits.waited_s == [0.1875, 0.25, 0.25, 0.25]


async def test_never_after_finished(patient: AnyClient, grpc_servicer: ScriptedServer) -> None:
    answer = ResumableAnswer(TEXTS, cuts=[Cut(at="finished", code=grpc.StatusCode.ABORTED)])
    grpc_servicer.script = answer
    stream = patient.generate("Hello", retries=3)
    with pytest.raises(PenstockError):
        _ = [chunk async for chunk in stream]
    assert stream.done
    assert len(answer.starts) == 1


@pytest.mark.parametrize("retries", [0, 3])
async def test_a_connection_lost_after_finished_costs_nothing(
    patient: AnyClient, grpc_servicer: ScriptedServer, retries: int
) -> None:
    """Only the status is missing; the answer is whole."""
    answer = ResumableAnswer(TEXTS, cuts=[Cut(at="finished", code=grpc.StatusCode.UNAVAILABLE)])
    grpc_servicer.script = answer
    stream = patient.generate("Hello", retries=retries)
    check_whole([chunk async for chunk in stream], answer)
    assert stream.done
    assert len(answer.starts) == 1


async def test_the_deadline_is_over_all_calls(
    patient: AnyClient, grpc_servicer: ScriptedServer, waits: Waits
) -> None:
    details: list[Message] = [RetryInfo(retry_delay=Duration(seconds=60))]
    cuts = [Cut(1, details=details), Cut(2, details=details), Cut(3, details=details)]
    answer = ResumableAnswer(TEXTS, cuts=cuts)
    grpc_servicer.script = answer
    with pytest.raises(UnavailableError):
        await patient.complete("Hello", retries=9, timeout_s=150)
    # A third wait would end after the deadline, so the error is raised at once.
    assert waits.waited_s == [66.0, 66.0]
    left_s = [left_s for left_s in answer.time_remaining_s if left_s is not None]
    assert len(left_s) == 3
    for seen_s, given_s in zip(left_s, [150, 84, 18], strict=True):
        assert seen_s == pytest.approx(given_s, abs=5)


async def test_text_without_tokens_is_not_repeated(patient: AnyClient, grpc_servicer: ScriptedServer) -> None:
    answer = ResumableAnswer(TEXTS, cuts=[Cut(at="tail"), Cut(at="tail")], tail="EN")
    grpc_servicer.script = answer
    stream = patient.generate("Hello", retries=2)
    check_whole([chunk async for chunk in stream], answer)
    assert stream.resumes == 2
    assert [start.resume.last_seq for start in answer.starts] == [0, 9, 9]


async def test_text_without_tokens_is_given_before_an_error_is_raised(
    patient: AnyClient, grpc_servicer: ScriptedServer
) -> None:
    grpc_servicer.script = ResumableAnswer(TEXTS, cuts=[Cut(at="tail"), Cut(at="tail")], tail="EN")
    stream = patient.generate("Hello", retries=1)
    chunks = aiter(stream)
    assert [(await anext(chunks)).text for _ in range(len(TEXTS) + 1)] == [*TEXTS, "EN"]
    with pytest.raises(UnavailableError):
        await anext(chunks)


async def test_a_refused_resume_is_raised(patient: AnyClient, grpc_servicer: ScriptedServer) -> None:
    bad = BadRequest()
    bad.field_violations.add(field="start.resume.model_fingerprint", description="another model")
    refusal = Cut(at="start", code=grpc.StatusCode.INVALID_ARGUMENT, message="No.", details=[bad])
    answer = ResumableAnswer(TEXTS, cuts=[Cut(4), refusal])
    grpc_servicer.script = answer
    with pytest.raises(InvalidRequestError) as caught:
        await patient.complete("Hello", retries=3)
    assert caught.value.violations == (("start.resume.model_fingerprint", "another model"),)
    assert len(answer.starts) == 2


async def test_a_full_server_is_retried_by_streams_that_were_admitted_only(
    patient: AnyClient, grpc_servicer: ScriptedServer
) -> None:
    full = Cut(at="start", code=grpc.StatusCode.RESOURCE_EXHAUSTED, message="full")
    grpc_servicer.script = ResumableAnswer(TEXTS, cuts=[full])
    with pytest.raises(OverloadedError):
        await patient.complete("Hello", retries=3)
    grpc_servicer.script = ResumableAnswer(TEXTS, cuts=[Cut(2), full])
    assert await patient.complete("Hello", retries=3) == "".join(TEXTS)


@pytest.mark.parametrize("window", [1, 2, 4])
async def test_chunks_of_a_lost_call_are_not_acked_on_the_next(
    patient: AnyClient, grpc_servicer: ScriptedServer, window: int
) -> None:
    """The double asserts that every ack is above the last_seq of its own call."""
    answer = ResumableAnswer(TEXTS, cuts=[Cut(tokens) for tokens in (1, 3, 5, 6)], window=window)
    grpc_servicer.script = answer
    assert await patient.complete("Hello", retries=1) == answer.text
    for exchange, start in zip(answer.exchanges, answer.starts, strict=True):
        assert all(ack > start.resume.last_seq for ack in exchange.acks)


class Doors:
    """A sleep that says when it has begun and lasts until it is left."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()

    async def sleep(self, wait_s: float) -> None:
        self.entered.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_a_wait_ends_when_the_stream_is_given_up(
    grpc_addr: str, grpc_servicer: ScriptedServer, how: str
) -> None:
    answer = ResumableAnswer(TEXTS, cuts=[Cut(4)])
    grpc_servicer.script = answer
    doors = Doors()
    async with Client(grpc_addr, _sleep=doors.sleep) as client:
        stream = client.generate("Hello", retries=3)
        reading = asyncio.create_task(_read(stream))
        await doors.entered.wait()
        if how == "cancel":
            await stream.cancel("enough")
            with pytest.raises(UnavailableError):
                await reading
        else:
            await stream.aclose()
            with pytest.raises(CancelledStreamError):
                await reading
    assert len(answer.starts) == 1


async def test_a_thread_that_waits_is_woken(grpc_addr: str, grpc_servicer: ScriptedServer) -> None:
    details = [RetryInfo(retry_delay=Duration(seconds=1000))]
    grpc_servicer.script = ResumableAnswer(TEXTS, cuts=[Cut(4, details=details)])
    lost = asyncio.Event()
    loop = asyncio.get_running_loop()

    def tell(retry: Retry) -> None:
        loop.call_soon_threadsafe(lost.set)

    async with ThreadedClient(grpc_addr) as client:
        stream = client.generate("Hello", retries=3, on_retry=tell)
        reading = asyncio.create_task(_read(stream))
        await lost.wait()
        await stream.aclose()
        with pytest.raises(CancelledStreamError):
            await reading


async def test_a_client_that_is_closed_meanwhile(
    aio_client: Client, grpc_addr: str, grpc_servicer: ScriptedServer
) -> None:
    answer = ResumableAnswer(TEXTS, cuts=[Cut(4), Cut(4)])
    grpc_servicer.script = answer
    closing: list[asyncio.Task[None]] = []

    def close(retry: Retry) -> None:
        closing.append(asyncio.create_task(aio_client.close()))

    with pytest.raises(CancelledStreamError, match="closed"):
        await aio_client.complete("Hello", retries=3, on_retry=close)
    await closing[0]

    def complete() -> None:
        with SyncClient(grpc_addr) as client:
            client.complete("Hello", retries=3, on_retry=lambda retry: client.close())

    with pytest.raises(CancelledStreamError, match="closed"):
        await asyncio.to_thread(complete)
    assert len(answer.starts) == 2


@pytest.mark.parametrize("what", ["stream", "client"])
async def test_what_is_closed_while_a_server_is_waited_for(
    patient: AnyClient, grpc_servicer: ScriptedServer, what: str
) -> None:
    answer = ResumableAnswer(TEXTS, cuts=[Cut(4)])
    grpc_servicer.script = answer
    grpc_servicer.loading = -1
    stream = patient.generate("Hello", retries=3)
    reading = asyncio.create_task(_read(stream))
    await grpc_servicer.models_asked.wait()
    await (stream.aclose() if what == "stream" else patient.close())
    with pytest.raises(CancelledStreamError, match="closed"):
        await asyncio.wait_for(reading, 5)
    assert len(answer.starts) == 1


async def _read(stream: Stream | ThreadedStream) -> None:
    async for _ in stream:
        pass


async def test_a_server_that_restarts(client_kind: type[AnyClient]) -> None:
    """Over real connections: the first server goes away in mid-answer, another one takes its address."""
    answer = ResumableAnswer(TEXTS)
    reached = asyncio.Event()

    async def stuck(exchange: Exchange) -> None:
        await exchange.accept()
        for n in range(3):
            await exchange.chunk(TEXTS[n])
        reached.set()
        await asyncio.Event().wait()

    first, port = await _server(stuck)
    async with client_kind(f"127.0.0.1:{port}") as client:
        reading = asyncio.create_task(client.complete("Hello", retries=5))
        await reached.wait()
        await first.stop(None)
        second, _ = await _server(answer, port)
        assert await asyncio.wait_for(reading, 30) == answer.text
        await second.stop(None)
    assert [len(start.resume.token_ids) for start in answer.starts] == [3]


async def _server(script: Script, port: int = 0) -> tuple[grpc.aio.Server, int]:
    servicer = ScriptedServer()
    servicer.script = script
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_GenerationServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server, port
