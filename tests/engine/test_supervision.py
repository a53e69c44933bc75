"""A real worker process that is killed, stopped, and started with things that cannot work."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from engine.contract import EngineError, EngineStartError, EngineState
from engine.events import Failed, Interrupted, Prefill, Token
from engine.options import SupervisorOptions
from engine.pool_engine import PoolEngine
from engine.requests import GenerationRequest
from engine.wire import Heartbeat, Loading, Message, Ready, Submit
from engine.worker_process import WorkerProcess
from flowcontrol.reasons import Reason
from tests.engine.requests import PROMPT, Sink, generation
from tests.engine.subjects import POOL, SUPERVISOR, WORKER
from tests.engine.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Short, so that the tests are; long against the heartbeat, so that a busy machine does not matter.
WATCHFUL = SupervisorOptions(
    start_timeout_s=100.0,
    stuck_after_s=1.5,
    kill_after_s=4.0,
    restart_backoff_initial_s=0.1,
    restart_backoff_max_s=1.0,
    stop_timeout_s=1.0,
)
# The model's whole context, so that no stream ends before it is disturbed.
ROOMY = replace(WORKER, max_context_tokens=0)
ENDLESS = generation(max_tokens=2000)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[PoolEngine]:
    engine = PoolEngine(ROOMY, WATCHFUL, POOL)
    await engine.start()
    yield engine
    await engine.stop()


async def in_state(engine: PoolEngine, state: EngineState) -> None:
    await eventually(lambda: engine.snapshot().state is state)


async def decoding(engine: PoolEngine, request: GenerationRequest = ENDLESS) -> Sink:
    sink = Sink()
    engine.submit(request, sink)
    await eventually(lambda: sink.ids)
    return sink


async def test_killed_worker_is_restarted_and_its_streams_go_on(engine: PoolEngine) -> None:
    await in_state(engine, EngineState.READY)
    before = engine.snapshot()
    request = generation(max_tokens=900)
    sinks = [await decoding(engine, request), Sink()]
    paused = engine.submit(request, sinks[1])
    engine.pause(paused)
    os.kill(before.workers[0].pid, signal.SIGKILL)
    refusals, states = [], []
    while engine.snapshot().workers[0].restarts == before.workers[0].restarts:
        states.append(engine.snapshot().state)
        # Whatever the moment, a new stream is taken or refused with a reason.
        try:
            engine.cancel(engine.submit(ENDLESS, Sink()))
        except EngineError as refusal:
            refusals.append(refusal)
        await asyncio.sleep(0)
    assert EngineState.DEAD in states
    assert {refusal.reason for refusal in refusals} == {Reason.MODEL_LOADING}
    assert engine.snapshot().state is EngineState.STARTING
    with pytest.raises(EngineError) as refused:
        await engine.count_tokens(PROMPT)
    assert refused.value.reason is Reason.MODEL_LOADING
    await in_state(engine, EngineState.READY)
    after = engine.snapshot()
    assert after.workers[0].restarts == before.workers[0].restarts + 1
    assert after.workers[0].pid != before.workers[0].pid
    assert after.model == before.model
    await sinks[0].ended.wait()
    assert len(sinks[0].ids) == 900
    assert sum(isinstance(event, Interrupted) for event in sinks[0].events) == 1
    assert not sinks[1].ended.is_set()
    engine.resume(paused)
    await sinks[1].ended.wait()
    assert sinks[1].ids == sinks[0].ids
    assert engine.snapshot().failovers == before.failovers + 2


async def test_stopped_worker_is_suspect_and_ready_again_when_it_goes_on(engine: PoolEngine) -> None:
    await in_state(engine, EngineState.READY)
    before = engine.snapshot()
    sink = await decoding(engine, generation(max_tokens=300))
    os.kill(before.workers[0].pid, signal.SIGSTOP)
    try:
        await in_state(engine, EngineState.SUSPECT)
        with pytest.raises(EngineError) as refused:
            engine.submit(generation(), Sink())
        assert refused.value.reason is Reason.WORKER_STUCK
    finally:
        os.kill(before.workers[0].pid, signal.SIGCONT)
    await in_state(engine, EngineState.READY)
    await sink.ended.wait()
    assert len(sink.ids) == 300
    assert engine.snapshot().workers[0].restarts == before.workers[0].restarts


async def test_worker_that_stays_stopped_is_killed_and_its_stream_goes_on(engine: PoolEngine) -> None:
    await in_state(engine, EngineState.READY)
    before = engine.snapshot()
    sink = await decoding(engine, generation(max_tokens=600))
    began_s = time.monotonic()
    os.kill(before.workers[0].pid, signal.SIGSTOP)
    with pytest.raises(EngineError) as lost:
        await engine.count_tokens(PROMPT)
    assert lost.value.reason is Reason.WORKER_LOST
    assert lost.value.retry_after_s is not None
    assert time.monotonic() - began_s > WATCHFUL.kill_after_s - WORKER.heartbeat_interval_s * 4
    await sink.ended.wait()
    assert len(sink.ids) == 600
    assert engine.snapshot().workers[0].restarts == before.workers[0].restarts + 1


async def test_stop_while_the_model_is_loaded_ends_start() -> None:
    engine = PoolEngine(WORKER, replace(SUPERVISOR, stop_timeout_s=0.1), POOL)
    starting = asyncio.create_task(engine.start())
    await eventually(lambda: engine.snapshot().workers[0].pid)
    pid = engine.snapshot().workers[0].pid
    await engine.stop()
    with pytest.raises(EngineStartError, match="stopped before the model was loaded"):
        await starting
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def start_error(**changes: Any) -> str:
    engine = PoolEngine(replace(WORKER, **changes), SUPERVISOR, POOL)
    with pytest.raises(EngineStartError) as failed:
        await engine.start()
    await engine.stop()
    assert engine.snapshot().workers[0].pid == 0
    message = str(failed.value)
    assert "\n" not in message
    return message


def with_weights(folder: Path, weights: bytes) -> Path:
    """The embedded model with other weights."""
    for file in (Path(__file__).parents[2] / "engine" / "embedded").iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).symlink_to(file)
    (folder / "model.safetensors").write_bytes(weights)
    return folder


HUB_NAME = "penstock-no-such-org/no-such-model"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def load_errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """For each model that cannot be loaded its name and the error; tried side by side to save time."""
    folder = tmp_path_factory.mktemp("models")
    empty, corrupt = folder / "empty", folder / "corrupt"
    empty.mkdir()
    corrupt.mkdir()
    models = {
        "missing": str(folder / "missing"),
        "empty": str(empty),
        "corrupt": str(with_weights(corrupt, b"\xff" * 100)),
        "hub": HUB_NAME,
    }
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_HUB_OFFLINE", "1")
        errors = await asyncio.gather(*(start_error(model=model) for model in models.values()))
    return {kind: (models[kind], error) for kind, error in zip(models, errors, strict=True)}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("missing", "no such directory; allowed: "),
        ("empty", "has no config.json"),
        ("corrupt", ""),
        ("hub", ""),
    ],
)
async def test_model_that_cannot_be_loaded_is_a_start_error_in_one_line(
    load_errors: dict[str, tuple[str, str]], kind: str, text: str
) -> None:
    model, error = load_errors[kind]
    reason = error.removeprefix(f"cannot load the model {model}: ")
    assert reason != error
    assert len(reason) > 20
    assert text in reason


@pytest.mark.skipif(sys.platform != "linux", reason="a BLAS is loaded on Linux only")
async def test_blas_that_cannot_be_loaded_is_a_start_error(tmp_path: Path) -> None:
    message = await start_error(cpu_blas="/no/such/libblas.so")
    assert message.startswith("engine.cpu_blas: cannot load /no/such/libblas.so: ")
    text = tmp_path / "libnot.so"
    text.write_text("not a library")
    assert f"cannot load {text}" in await start_error(cpu_blas=str(text))


async def test_slow_model_is_given_up_after_the_start_timeout() -> None:
    engine = PoolEngine(WORKER, replace(SUPERVISOR, start_timeout_s=0.01), POOL)
    with pytest.raises(EngineStartError, match=r"the model was not ready within 0\.01 s"):
        await engine.start()
    await engine.stop()


async def test_worker_ends_well_when_the_connection_closes_in_mid_stream(
    capfd: pytest.CaptureFixture[str],
) -> None:
    worker = await WorkerProcess.spawn(ROOMY)
    told: list[Message] = []
    while not any(isinstance(message, Ready) for message in told):
        told += await worker.receive()
    stages = [message.stage for message in told if isinstance(message, Loading)]
    assert stages == ["weights", "weights", "warm-up"]
    worker.send(Submit(1, ENDLESS))
    messages: list[Message] = []
    while not any(isinstance(message, Token) for message in messages):
        messages += await worker.receive()
    assert {type(message) for message in messages} <= {Prefill, Token, Heartbeat, Failed}
    # Tokens that nobody has read are in the connection now.
    assert await worker.end(timeout_s=20.0) == 0
    assert "Traceback" not in capfd.readouterr().err


async def test_modules_of_the_service_never_import_mlx() -> None:
    code = (
        "import sys, engine.pool_engine, engine.scripted, service.assembly; "
        "sys.exit(any(name.split('.')[0] in ('mlx', 'mlx_lm') for name in sys.modules))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0


async def test_worker_that_does_not_end_is_killed_by_stop_even_when_stopped_twice(
    engine: PoolEngine,
) -> None:
    """The last one, because it stops the engine of this module."""
    await in_state(engine, EngineState.READY)
    pid = engine.snapshot().workers[0].pid
    os.kill(pid, signal.SIGSTOP)
    again = asyncio.create_task(engine.stop())
    await engine.stop()
    await again
    assert engine.snapshot().state is EngineState.STOPPING
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
