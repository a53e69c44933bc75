"""Tuning and restarting through the host, for the models that are there and those to come."""

from pathlib import Path

import pytest

from engine.contract import AS_CONFIGURED, EngineError, EngineTuning
from engine.events import Interrupted
from flowcontrol.reasons import Reason
from tests.engine.model_hosts import a_model, hosting, load
from tests.engine.requests import Sink, generation
from tests.engine.waiting import eventually

TUNING = EngineTuning(prefill_step_tokens=7, max_prefix_cache_bytes=None, max_parked_kv_bytes=None)


async def test_every_model_is_tuned_those_loaded_later_too(tmp_path: Path) -> None:
    first, second = a_model(tmp_path / "first"), a_model(tmp_path / "second")
    async with hosting() as hosted:
        await load(hosted.host, first)
        hosted.host.tune(TUNING)
        await load(hosted.host, second)
        assert [engine.snapshot().tuning for engine in hosted.engines.made.values()] == [TUNING] * 3
        hosted.host.tune(AS_CONFIGURED)
        assert [engine.snapshot().tuning for engine in hosted.engines.made.values()] == [AS_CONFIGURED] * 3


async def test_a_worker_is_named_by_its_model_and_number(tmp_path: Path) -> None:
    async with hosting() as hosted:
        await load(hosted.host, a_model(tmp_path / "mine"), ["alias"])
        sink = Sink()
        with hosted.host.hold("mine") as hold:
            hold.engine.submit(generation(max_tokens=10**3), sink)
            for name in ("mine", "alias"):
                hosted.host.restart_worker(name, 0, "a test")
            await eventually(lambda: sink.ids)
        assert sum(isinstance(event, Interrupted) for event in sink.events) == 2
        assert [worker.restarts for worker in hosted.host.snapshot().workers] == [0, 2]
        hosted.host.restart_worker("", 0, "a test")
        assert [worker.restarts for worker in hosted.host.snapshot().workers] == [1, 2]
        for name, index, reason in (("mine", 1, Reason.INVALID_REQUEST), ("no", 0, Reason.MODEL_NOT_FOUND)):
            with pytest.raises(EngineError) as refused:
                hosted.host.restart_worker(name, index, "a test")
            assert refused.value.reason is reason
