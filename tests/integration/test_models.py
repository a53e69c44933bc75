"""Models that are loaded and unloaded while a real server serves, by the command and by calls."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2

from engine.model_memory import WORKER_BYTES
from penstock.v1 import generation_pb2
from penstock.v1 import model_pb2 as pb
from tests.integration.conftest import SHARED_OPTIONS
from tests.integration.processes import ROOT, ServerProcess, penstock, running_server
from tests.service.calls import GenerateCall, endless, generate, refused
from tests.service.eventually import eventually
from tests.service.refusals import refusal
from tests.service.servers import Stubs, stubs_of

SERVING = health_pb2.HealthCheckResponse.SERVING


def a_copy(directory: Path) -> str:
    """The embedded model under another name. Returns its source."""
    shutil.copytree(ROOT / "engine" / "embedded", directory)
    return str(directory)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("models") / "stderr", SHARED_OPTIONS) as server:
        yield server


@pytest_asyncio.fixture
async def stubs(server: ServerProcess) -> AsyncIterator[Stubs]:
    async with stubs_of(server.address) as stubs:
        yield stubs


async def listed(stubs: Stubs) -> dict[str, pb.Model]:
    response = await stubs.models.ListModels(pb.ListModelsRequest())
    return {model.name: model for model in response.models}


async def load(stubs: Stubs, source: str, *aliases: str) -> list[pb.LoadModelResponse]:
    call = stubs.models.LoadModel(pb.LoadModelRequest(source=source, aliases=aliases))
    return [message async for message in call]


class Reader:
    """Reads streams of the default model, one after another, until it is told to stop."""

    def __init__(self, stubs: Stubs) -> None:
        self.tokens = 0
        self._stubs = stubs
        self._stop = False

    async def run(self) -> None:
        while not self._stop:
            async with GenerateCall(self._stubs.generation) as call:
                await call.start(endless(400))
                await call.half_close()
                while not self._stop and await call.read() is not None:
                    self.tokens += 1

    def stop(self) -> None:
        self._stop = True


async def test_a_second_model_is_loaded_while_the_first_one_goes_on(stubs: Stubs, tmp_path: Path) -> None:
    """The same weights under another name give the same text, so that either answer can be checked."""
    source, reader = a_copy(tmp_path / "second"), Reader(stubs)
    reading = asyncio.create_task(reader.run())
    await eventually(lambda: asyncio.sleep(0, reader.tokens), lambda tokens: tokens > 10)
    tokens_at, stages, statuses = [], [], set()
    call = stubs.models.LoadModel(pb.LoadModelRequest(source=source, aliases=["small"]))
    async for told in call:
        tokens_at.append(reader.tokens)
        statuses.add((await stubs.health.Check(health_pb2.HealthCheckRequest())).status)
        if told.HasField("progress"):
            stages.append(told.progress.stage)
    # From the first message to the last there is the whole loading.
    assert tokens_at[-1] - tokens_at[0] > 20
    assert statuses == {SERVING}
    assert stages[0] == ""
    assert "warm-up" in stages
    assert (told.model.name, told.model.state) == ("second", pb.MODEL_STATE_READY)
    reader.stop()
    await reading

    first, second = await asyncio.gather(
        generate(stubs.generation, endless(60)), generate(stubs.generation, endless(60, model="small"))
    )
    assert first.token_ids == second.token_ids
    assert first.accepted is not None
    assert second.accepted is not None
    assert (first.accepted.model, second.accepted.model) == ("penstock-tiny", "second")
    assert first.accepted.model_fingerprint == second.accepted.model_fingerprint
    status = await stubs.status()
    assert [worker.model for worker in status.workers] == ["penstock-tiny", "second"]
    assert len({worker.pid for worker in status.workers}) == 2

    async with GenerateCall(stubs.generation) as waited_for:
        await waited_for.start(endless(30, model="small", flow={"max_unacked_chunks": 2}))
        unloading = asyncio.ensure_future(stubs.models.UnloadModel(pb.UnloadModelRequest(name="small")))
        await eventually(
            lambda: listed(stubs), lambda models: models["second"].state == pb.MODEL_STATE_UNLOADING
        )
        assert not unloading.done()
        await waited_for.half_close()
        assert (await waited_for.rest()).token_ids == first.token_ids[:30]
        assert (await unloading).streams == 1
    assert list(await listed(stubs)) == ["penstock-tiny"]
    assert [worker.model for worker in (await stubs.status()).workers] == ["penstock-tiny"]


async def test_the_commands(server: ServerProcess, stubs: Stubs, tmp_path: Path) -> None:
    source = a_copy(tmp_path / "mine")

    def run(*args: str) -> tuple[int, str, str]:
        done = penstock(*args, PENSTOCK_TARGET=server.address)
        return done.returncode, done.stdout, done.stderr

    code, out, err = await asyncio.to_thread(run, "models", "load", source, "--alias", "a", "--alias", "b")
    assert (code, out.split(" in ")[0]) == (0, "mine (a, b) ready")
    assert err.splitlines()[-1] == "warm-up"
    code, out, _ = await asyncio.to_thread(run, "models")
    assert code == 0
    assert out.split()[:7] == ["Model", "State", "Parameters", "Context", "Memory", "Streams", "Source"]
    for part in ("penstock-tiny", "(default)", "mine", "(a, b)", "ready", "919 K"):
        assert part in out
    code, out, _ = await asyncio.to_thread(run, "generate", "--model", "b", "--max-tokens", "3", "Once")
    assert code == 0
    assert out.strip()
    code, out, _ = await asyncio.to_thread(run, "models", "--json")
    assert [model["name"] for model in json.loads(out)["models"]] == ["penstock-tiny", "mine"]
    code, _, err = await asyncio.to_thread(run, "models", "unload", "penstock-tiny")
    assert (code, "(MODEL_IS_DEFAULT)" in err) == (1, True)

    async with GenerateCall(stubs.generation) as call:
        await call.start(endless(900, model="a", flow={"max_unacked_chunks": 2}))
        code, out, _ = await asyncio.to_thread(run, "models", "unload", "mine", "--now")
        assert (code, out) == (0, "mine unloaded, 1 stream cut\n")
        assert (await call.refused()).reason == "MODEL_UNLOADED"


async def test_a_directory_that_cannot_be_loaded_is_named(stubs: Stubs, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "no-such-architecture"}')
    (broken / "model.safetensors").write_bytes(b"")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await load(stubs, str(broken))
    found = refusal(caught.value)
    assert (found.code, found.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_LOAD_FAILED")
    assert str(broken) in found.message
    assert list(await listed(stubs)) == ["penstock-tiny"]
    missing = generation_pb2.GenerateRequest(start=endless(1, model="broken"))
    assert (await refused(stubs.generation, missing)).reason == "MODEL_NOT_FOUND"


async def test_configured_models_idle_unloading_and_memory(tmp_path: Path) -> None:
    """Room for two models, each with weights, 1 MiB of KV cache and a process."""
    first, second = a_copy(tmp_path / "first"), a_copy(tmp_path / "second")
    options = {
        **SHARED_OPTIONS,
        "MODELS__LOAD": first,
        "MODELS__ALIASES": "quick=first",
        "MODELS__IDLE_UNLOAD_MS": "2000",
        "MODELS__MAX_MEMORY_BYTES": str(2 * (WORKER_BYTES + 5 * 2**20)),
        "ADMISSION__MAX_KV_BYTES": str(2**20),
    }
    with running_server(tmp_path / "stderr", options) as server:
        async with stubs_of(server.address) as stubs:
            await load(stubs, first)  # Joins the loading that the configuration asked for.
            async with GenerateCall(stubs.generation) as call:
                await call.start(endless(3, model="quick", flow={"max_unacked_chunks": 1}))
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await load(stubs, second)
                found = refusal(caught.value)
                assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MODEL_MEMORY")
                assert "models.max_memory_bytes" in found.message
                await call.half_close()
                assert (await call.rest()).accepted
            await eventually(lambda: listed(stubs), lambda models: list(models) == ["penstock-tiny"])
            # Its memory is free, too.
            assert (await load(stubs, second))[-1].model.name == "second"
