"""The server around a scripted engine: what ends a stream from outside, refusals, draining."""

import asyncio
from typing import Any

import grpc
import pytest

from engine.contract import EventSink
from engine.requests import GenerationRequest
from engine.scripted import ScriptedEngine, counting_script
from flowcontrol.reasons import Reason
from penstock.v1 import generation_pb2 as pb
from penstock.v1 import model_pb2, status_pb2
from tests.flowcontrol.admission.governors import governor_options
from tests.service.calls import GenerateCall, endless, generate, refused, start
from tests.service.drivers import counted, scripted_engine
from tests.service.eventually import eventually
from tests.service.refusals import refusal
from tests.service.servers import Stubs, serving

ONE_STREAM = governor_options(initial_streams=1)


class RaisingEngine(ScriptedEngine):
    """An engine with a defect."""

    def submit(self, request: GenerationRequest, sink: EventSink, *, prepared: int = 0) -> int:
        raise LookupError("a defect")


def running() -> ScriptedEngine:
    return scripted_engine(step_s=0.002)


async def none_active(stubs: Stubs) -> status_pb2.Status:
    return await eventually(stubs.status, lambda status: status.streams.active == 0)


async def test_a_stream_from_start_to_end() -> None:
    async with serving(running()) as local:
        answer = await generate(local.stubs.generation, endless(30))
        assert answer.text == counted(30)
        assert answer.end.reason == pb.FINISH_REASON_LENGTH
        status = await local.stubs.status()
        assert (status.streams.active, status.streams.ended.finished) == (0, 1)


async def test_a_failed_step_is_internal() -> None:
    engine = running()
    async with serving(engine) as local, GenerateCall(local.stubs.generation) as call:
        await call.start(endless(2000))
        engine.fail(1, Reason.STEP_FAILED, "the model raised")
        refusal = await call.refused()
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "STEP_FAILED")
        assert (await none_active(local.stubs)).streams.ended.failed == 1


async def test_a_lost_worker_ends_its_streams_and_new_ones_hear_when_to_come_back() -> None:
    engine = running()
    async with serving(engine) as local, GenerateCall(local.stubs.generation) as call:
        await call.start(endless(2000))
        engine.die()
        lost = await call.refused()
        assert (lost.code, lost.reason) == (grpc.StatusCode.UNAVAILABLE, "WORKER_LOST")
        assert lost.retry_after_s
        loading = await refused(local.stubs.generation, pb.GenerateRequest(start=start()))
        assert (loading.code, loading.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_LOADING")
        engine.revive()
        assert (await generate(local.stubs.generation, endless(5))).text == counted(5)


async def test_a_defect_is_internal_and_leaves_nothing_behind() -> None:
    engine = RaisingEngine(
        counting_script,
        step_s=None,
        steps_per_turn=1,
        max_batch_rows=1,
        context_tokens=99,
        default_max_tokens=9,
        vocab_size=9,
    )
    async with serving(engine) as local:
        refusal = await refused(local.stubs.generation, pb.GenerateRequest(start=start(request_id="mine")))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert refusal.metadata == {"request_id": "mine"}
        assert "LookupError" not in refusal.message
        assert (await none_active(local.stubs)).streams.ended.failed == 1


async def test_a_stream_that_runs_too_long_is_ended_by_the_server() -> None:
    async with serving(running(), stream={"default_timeout_s": 0.2}) as local:
        async with GenerateCall(local.stubs.generation) as call:
            await call.start(endless(2000))
            await call.half_close()
            refusal = await call.refused()
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "STREAM_TIMEOUT")
        status = await none_active(local.stubs)
        assert (status.streams.ended.failed, status.workers[0].running_rows) == (1, 0)


async def test_a_caller_that_never_sends_start_holds_no_place() -> None:
    options = {"idle_timeout_s": 0.2}
    async with (
        serving(running(), governor=ONE_STREAM, stream=options) as local,
        GenerateCall(local.stubs.generation) as silent,
    ):
        assert (await generate(local.stubs.generation, endless(3))).text == counted(3)
        refusal = await silent.refused()
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "IDLE_TIMEOUT")


async def test_the_place_is_free_in_the_moment_a_stream_has_ended() -> None:
    async with serving(running(), governor=ONE_STREAM) as local:
        for _ in range(20):
            assert (await generate(local.stubs.generation, endless(2))).text == counted(2)


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling": {"logit_bias": dict.fromkeys(range(1000), 101.0)}},
        {"chat": {"messages": [{"role": "\N{SNOWMAN}" * 10_000}]}},
        {"stopping": {"stop_strings": [""] * 5000}},
    ],
    ids=["many", "long", "many and long"],
)
async def test_a_long_list_of_faults_still_reaches_the_client(fields: dict[str, Any]) -> None:
    async with serving(running()) as local:
        refusal = await refused(local.stubs.generation, pb.GenerateRequest(start=start(**fields)))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert refusal.violations


async def test_a_long_name_still_reaches_the_client_as_not_found() -> None:
    async with serving(running()) as local:
        message = pb.GenerateRequest(start=start(model="\N{SNOWMAN}" * 10_000))
        refusal = await refused(local.stubs.generation, message)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        assert list(refusal.violations) == ["start.model"]


async def test_draining_lets_streams_finish_and_refuses_new_ones() -> None:
    async with serving(running()) as local, GenerateCall(local.stubs.generation) as call:
        await call.start(endless(50))
        await call.half_close()
        draining = asyncio.create_task(local.server.drain())
        await eventually(local.stubs.status, lambda status: status.draining)
        refusal = await refused(local.stubs.generation, pb.GenerateRequest(start=start()))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert refusal.retry_after_s
        assert (await call.rest()).text == counted(50)
        await draining


async def test_after_the_grace_time_streams_are_cut() -> None:
    async with serving(running(), drain_grace_s=0.1) as local, GenerateCall(local.stubs.generation) as call:
        await call.start(endless(2000))
        await local.server.drain()
        refusal = await call.refused()
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")


async def test_stopping_without_draining_tells_the_streams_why() -> None:
    async with serving(running()) as local, GenerateCall(local.stubs.generation) as call:
        await call.start(endless(2000))
        await local.server.stop()
        refusal = await call.refused()
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")


@pytest.mark.parametrize("interval_ms", [1, 99, 60_001])
async def test_watch_status_refuses_an_interval_out_of_range(interval_ms: int) -> None:
    async with serving(running()) as local:
        watch = local.stubs.statuses.WatchStatus(status_pb2.WatchStatusRequest(interval_ms=interval_ms))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch.read()
        found = refusal(caught.value)
        assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert list(found.violations) == ["interval_ms"]


async def test_watch_status_sends_at_once_and_again_and_ends_with_the_server() -> None:
    async with serving(running()) as local:
        watch = local.stubs.statuses.WatchStatus(status_pb2.WatchStatusRequest(interval_ms=100))
        first, second = await watch.read(), await watch.read()
        assert second.status.uptime_s > first.status.uptime_s
        await local.server.drain()
        while (message := await watch.read()) is not grpc.aio.EOF:
            last = message
        assert last.status.draining


async def test_models_are_listed_and_shown() -> None:
    async with serving(running()) as local:
        models = local.stubs.models
        listed = (await models.ListModels(model_pb2.ListModelsRequest())).models
        assert [(model.name, model.is_default) for model in listed] == [("scripted", True)]
        for name in ("", "scripted"):
            shown = await models.GetModel(model_pb2.GetModelRequest(name=name))
            assert shown.model == listed[0]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await models.GetModel(model_pb2.GetModelRequest(name="other"))
        found = refusal(caught.value)
        assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        assert list(found.violations) == ["name"]


async def test_a_long_prompt_waits_with_its_caller_who_is_not_called_idle() -> None:
    piece = ("w" * 1000 + " ") * 10
    async with (
        serving(running(), governor=ONE_STREAM, stream={"idle_timeout_s": 0.3}) as local,
        GenerateCall(local.stubs.generation) as first,
        GenerateCall(local.stubs.generation) as second,
    ):
        await first.start(endless(400))
        await first.half_close()
        await second.start(endless(3, prompt_parts={}))
        for number in range(1, 41):  # More than is kept of a stream that waits.
            await second.send(prompt_part={"text": piece, "last": number == 40})
        await first.rest()
        await second.half_close()
        answer = await second.rest()
        assert answer.text == counted(3)
        assert answer.end.usage.prompt_tokens == 400
        assert answer.end.timing.admission_ms > 300
