"""ModelService over a real channel, and streams on more than one model; the engines are scripted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from penstock.v1 import generation_pb2
from penstock.v1 import model_pb2 as pb
from service.models import ModelServicer
from tests.engine.model_hosts import Hosted, a_model, hosting
from tests.service.calls import GenerateCall, endless, generate, refused
from tests.service.drivers import counted, scripted_engine
from tests.service.elsewhere import AbortedError, CallFrom
from tests.service.eventually import eventually
from tests.service.refusals import Refusal, refusal
from tests.service.servers import LocalServer, Stubs, serving


@dataclass(frozen=True)
class Served:
    hosted: Hosted
    local: LocalServer

    @property
    def stubs(self) -> Stubs:
        return self.local.stubs


@asynccontextmanager
async def serving_models(**options: Any) -> AsyncIterator[Served]:
    async with hosting(**options) as hosted, serving(hosted.host, start=False) as local:
        yield Served(hosted, local)


async def load(stubs: Stubs, source: str, *aliases: str) -> list[pb.LoadModelResponse]:
    call = stubs.models.LoadModel(pb.LoadModelRequest(source=source, aliases=aliases))
    return [message async for message in call]


async def refused_load(stubs: Stubs, source: str, *aliases: str) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await load(stubs, source, *aliases)
    return refusal(caught.value)


async def refused_unload(stubs: Stubs, name: str) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs.models.UnloadModel(pb.UnloadModelRequest(name=name))
    return refusal(caught.value)


async def listed(stubs: Stubs) -> dict[str, pb.Model]:
    response = await stubs.models.ListModels(pb.ListModelsRequest())
    return {model.name: model for model in response.models}


async def test_a_model_is_loaded_used_and_unloaded(tmp_path: Path) -> None:
    source = a_model(tmp_path / "mine")
    async with serving_models() as served:
        stubs = served.stubs
        *_, last = await load(stubs, source, "small")
        assert last.model == (await listed(stubs))["mine"]
        assert (last.model.state, list(last.model.aliases)) == (pb.MODEL_STATE_READY, ["small"])
        for name, real in (("small", "mine"), ("mine", "mine"), ("", "penstock-tiny")):
            answer = await generate(stubs.generation, endless(5, model=name))
            assert (answer.text, answer.accepted and answer.accepted.model) == (counted(5), real)
            tokens = await stubs.generation.CountTokens(
                generation_pb2.CountTokensRequest(prompt="one two", model=name)
            )
            assert (tokens.prompt_tokens, tokens.model) == (2, real)
        shown = await stubs.models.GetModel(pb.GetModelRequest(name="small"))
        assert shown.model.name == "mine"
        assert (await stubs.models.UnloadModel(pb.UnloadModelRequest(name="small"))).streams == 0
        assert list(await listed(stubs)) == ["penstock-tiny"]
        found = await refused(
            stubs.generation, generation_pb2.GenerateRequest(start=endless(1, model="small"))
        )
        assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        assert list(found.violations) == ["start.model"]


async def test_progress_is_streamed_and_shown_while_streams_and_health_go_on(tmp_path: Path) -> None:
    source = a_model(tmp_path / "mine")
    async with serving_models(gated=True) as served, GenerateCall(served.stubs.generation) as stream:
        stubs = served.stubs
        await stream.start(endless(2000))
        call = stubs.models.LoadModel(pb.LoadModelRequest(source=source))
        assert (await call.read()).progress == pb.LoadProgress()
        engine = served.hosted.engines.made[source]
        for number, stage in enumerate(("weights", "warm-up"), 1):
            engine.loading = (stage, number, 64)
            shown = pb.LoadProgress(stage=stage, done_bytes=number, total_bytes=64)
            assert (await call.read()).progress == shown
            assert (await listed(stubs))["mine"].loading == shown
            await stream.read_chunks(len(stream.answer.chunks) + 1)
            await stream.ack(len(stream.answer.chunks))
            health = await stubs.health.Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING
        found = await refused(
            stubs.generation, generation_pb2.GenerateRequest(start=endless(1, model="mine"))
        )
        assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_LOADING")
        engine.load()
        assert (await call.read()).model.state == pb.MODEL_STATE_READY
        assert await call.read() is grpc.aio.EOF


async def test_unloading_waits_for_the_streams_of_the_model_alone(tmp_path: Path) -> None:
    async with serving_models() as served:
        stubs = served.stubs
        await load(stubs, a_model(tmp_path / "mine"))
        async with GenerateCall(stubs.generation) as mine, GenerateCall(stubs.generation) as other:
            await mine.start(endless(300, model="mine"))
            await other.start(endless(2000))
            assert (await listed(stubs))["mine"].streams == 1
            unloading = asyncio.ensure_future(stubs.models.UnloadModel(pb.UnloadModelRequest(name="mine")))
            await eventually(
                lambda: listed(stubs), lambda models: models["mine"].state == pb.MODEL_STATE_UNLOADING
            )
            start = generation_pb2.GenerateRequest(start=endless(1, model="mine"))
            found = await refused(stubs.generation, start)
            assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_UNLOADED")
            await mine.half_close()
            assert (await mine.rest()).text == counted(300)
            assert (await unloading).streams == 1


async def test_unloading_now_ends_the_streams_with_a_reason(tmp_path: Path) -> None:
    async with serving_models() as served:
        stubs = served.stubs
        await load(stubs, a_model(tmp_path / "mine"))
        async with GenerateCall(stubs.generation) as mine, GenerateCall(stubs.generation) as other:
            await mine.start(endless(2000, model="mine"))
            await other.start(endless(300))
            answer = await stubs.models.UnloadModel(pb.UnloadModelRequest(name="mine", now=True))
            assert answer.streams == 1
            found = await mine.refused()
            assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_UNLOADED")
            await other.half_close()
            assert (await other.rest()).text == counted(300)


async def test_status_shows_the_workers_of_every_model(tmp_path: Path) -> None:
    async with serving_models(load=(str(tmp_path / "none"),)) as served:
        await load(served.stubs, a_model(tmp_path / "mine"), "small")
        status = await served.stubs.status()
    states = {model.name: model.state for model in status.models}
    assert states.pop(str(tmp_path / "none")) == pb.MODEL_STATE_FAILED
    assert states == {"penstock-tiny": pb.MODEL_STATE_READY, "mine": pb.MODEL_STATE_READY}
    assert "no such directory" in status.models[2].message
    assert [worker.model for worker in status.workers] == ["penstock-tiny", "mine"]


async def test_health_follows_the_default_model(tmp_path: Path) -> None:
    async with serving_models() as served:
        stubs, source = served.stubs, a_model(tmp_path / "mine")
        await load(stubs, source)

        async def health() -> int:
            return int((await stubs.health.Check(health_pb2.HealthCheckRequest())).status)

        served.hosted.engines.made[source].die()
        states = await listed(stubs)
        assert states["mine"].state == pb.MODEL_STATE_LOADING
        assert await health() == health_pb2.HealthCheckResponse.SERVING
        served.hosted.engines.made[source].revive()
        served.hosted.engines.made["embedded"].die()
        await eventually(health, lambda status: status == health_pb2.HealthCheckResponse.NOT_SERVING)
        found = await refused(stubs.generation, generation_pb2.GenerateRequest(start=endless(1)))
        assert found.reason == "MODEL_LOADING"
        # The other model still answers.
        assert (await generate(stubs.generation, endless(5, model="mine"))).text == counted(5)


@pytest.mark.parametrize(
    ("source", "code", "reason"),
    [
        ("./no-such-directory", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        ("", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    ],
)
async def test_a_source_that_is_no_model(source: str, code: grpc.StatusCode, reason: str) -> None:
    async with serving_models() as served:
        found = await refused_load(served.stubs, source)
    assert (found.code, found.reason, list(found.violations)) == (code, reason, ["source"])
    assert source in found.message


async def test_refusals_have_their_codes_and_numbers(tmp_path: Path) -> None:
    source = a_model(tmp_path / "mine")
    async with serving_models(max_memory_bytes=2**20) as served:
        stubs = served.stubs
        found = await refused_load(stubs, source)
        assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MODEL_MEMORY")
        assert found.retry_after_s is None
        assert "models.max_memory_bytes allows 1 MiB" in found.message
        found = await refused_load(stubs, a_model(tmp_path / "penstock-tiny"))
        assert (found.code, found.reason) == (grpc.StatusCode.ALREADY_EXISTS, "MODEL_NAME_TAKEN")
        found = await refused_unload(stubs, "")
        assert (found.code, found.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_IS_DEFAULT")
        found = await refused_unload(stubs, "other")
        assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")


async def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    source = a_model(tmp_path / "mine")
    async with serving_models(gated=True) as served:
        call = served.stubs.models.LoadModel(pb.LoadModelRequest(source=source))
        await call.read()
        served.hosted.engines.made[source].fail_to_load("no tensors")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        found = refusal(caught.value)
        assert (found.code, found.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_LOAD_FAILED")
        assert "no tensors" in found.message


@pytest.mark.parametrize("remote_control", [False, True])
async def test_another_machine_changes_models_only_when_that_is_allowed(
    remote_control: bool, tmp_path: Path
) -> None:
    async with hosting() as hosted:
        servicer: Any = ModelServicer(hosted.host, remote_control=remote_control)
        request, call = (
            pb.LoadModelRequest(source=a_model(tmp_path / "mine")),
            CallFrom("ipv4:192.0.2.7:50000"),
        )
        assert len((await servicer.ListModels(pb.ListModelsRequest(), call)).models) == 1
        if remote_control:
            await servicer.LoadModel(request, call)
            assert call.written[-1].model.name == "mine"
            await servicer.UnloadModel(pb.UnloadModelRequest(name="mine"), call)
            return
        for method, message in (
            (servicer.LoadModel, request),
            (servicer.UnloadModel, pb.UnloadModelRequest(name="mine")),
        ):
            with pytest.raises(AbortedError) as caught:
                await method(message, call)
            assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED
            assert caught.value.info.reason == "NOT_ALLOWED"
        assert set(hosted.engines.made) == {"embedded"}


async def test_a_server_of_one_scripted_model_says_so() -> None:
    async with serving(scripted_engine()) as local:
        found = await refused_load(local.stubs, "embedded")
    assert (found.code, found.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED")
