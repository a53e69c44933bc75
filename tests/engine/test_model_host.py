"""Models that come and go: names, states, loading, unloading, memory, and what all engines are together."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.contract import EngineError, EngineStartError, EngineState
from engine.hosted_model import LoadProgress, ModelSnapshot, ModelState
from engine.model_host import ModelHost
from engine.model_memory import WORKER_BYTES
from flowcontrol.reasons import Reason
from tests.engine.model_hosts import LoadedEngine, a_model, hosting, load
from tests.engine.waiting import eventually


def reason_of(call: Callable[[], object]) -> Reason:
    with pytest.raises(EngineError) as caught:
        call()
    return caught.value.reason


async def refused_load(host: ModelHost, source: str, *aliases: str) -> EngineError:
    with pytest.raises(EngineError) as caught:
        await load(host, source, aliases)
    return caught.value


async def refused_unload(host: ModelHost, name: str) -> Reason:
    with pytest.raises(EngineError) as caught:
        await host.unload(name, now=False)
    return caught.value.reason


async def test_a_loaded_model_is_known_by_its_name_and_aliases(tmp_path: Path) -> None:
    source = a_model(tmp_path / "mine")
    async with hosting(aliases=(("usual", "penstock-tiny"), ("later", "nothing"))) as hosted:
        model = await load(hosted.host, source, ["small", "mine"])
        assert (model.name, model.aliases, model.state) == ("mine", ("small",), ModelState.READY)
        assert (model.source, model.is_default, model.loading) == (source, False, None)
        for name in ("mine", "small"):
            with hosted.host.hold(name) as hold:
                assert hold.info.name == "mine"
                assert hold.engine is hosted.engines.made[source]
                assert hosted.host.model("mine").streams == 1
        for name in ("", "usual", "penstock-tiny"):
            assert hosted.host.hold(name).info.name == "penstock-tiny"
        assert [each.aliases for each in hosted.host.models()] == [("usual",), ("small",)]


async def test_an_unknown_name_is_answered_with_those_that_are_known(tmp_path: Path) -> None:
    async with hosting(aliases=(("later", "nothing"),)) as hosted:
        with pytest.raises(EngineError) as caught:
            hosted.host.hold("other")
        text = 'model: there is no model "other"; allowed: "penstock-tiny", or empty for it'
        assert (caught.value.reason, caught.value.message) == (Reason.MODEL_NOT_FOUND, text)
        assert reason_of(lambda: hosted.host.hold("later")) is Reason.MODEL_NOT_FOUND
        await load(hosted.host, a_model(tmp_path / "mine"), ["small"])
        with pytest.raises(EngineError) as caught:
            hosted.host.model("other")
        assert caught.value.message == (
            'name: there is no model "other"; allowed: "penstock-tiny", "mine", "small", '
            'or empty for "penstock-tiny"'
        )


async def test_a_default_model_that_does_not_load_ends_the_start() -> None:
    engine = LoadedEngine("embedded", gated=True)
    host = ModelHost.of(engine)
    starting = asyncio.create_task(host.start())
    assert host.models() == ()
    assert reason_of(lambda: host.hold("")) is Reason.MODEL_LOADING
    assert reason_of(lambda: host.hold("any")) is Reason.MODEL_LOADING
    engine.fail_to_load("no such file")
    with pytest.raises(EngineStartError, match="no such file"):
        await starting
    await host.stop()


async def test_how_far_loading_is_is_told_and_nobody_waits_for_it(tmp_path: Path) -> None:
    source = a_model(tmp_path / "mine", weights=64)
    async with hosting(gated=True) as hosted:
        told = hosted.host.load(source)
        assert await anext(told) == LoadProgress("", 0, 0)
        engine = hosted.engines.made[source]
        assert hosted.states == {"penstock-tiny": "ready", "mine": "loading"}
        assert reason_of(lambda: hosted.host.hold("mine")) is Reason.MODEL_LOADING
        hosted.host.hold("").release()
        for loading in (("weights", 0, 64), ("weights", 64, 64), ("warm-up", 0, 0)):
            engine.loading = loading
            assert await anext(told) == LoadProgress(*loading)
            assert hosted.host.model("mine").loading == LoadProgress(*loading)
        engine.load()
        last = await anext(told)
        assert isinstance(last, ModelSnapshot)
        assert (last.name, last.state, last.loading) == ("mine", ModelState.READY, None)
        assert [each async for each in told] == []


async def test_loading_goes_on_without_its_caller_and_is_joined_by_another(tmp_path: Path) -> None:
    source = a_model(tmp_path / "mine")
    async with hosting(gated=True) as hosted:
        first = hosted.host.load(source, ["small"])
        await anext(first)
        await first.aclose()  # type: ignore[attr-defined]
        joined = asyncio.create_task(load(hosted.host, f"{source}/../mine", ["little"]))
        await eventually(lambda: hosted.host.model("mine").aliases == ("small", "little"))
        hosted.engines.made[source].load()
        assert (await joined).state is ModelState.READY
        assert set(hosted.engines.made) == {"embedded", source}


async def test_a_model_that_is_there_is_told_at_once(tmp_path: Path) -> None:
    source = a_model(tmp_path / "mine")
    async with hosting() as hosted:
        await load(hosted.host, source)
        again = [each async for each in hosted.host.load(source, ["small"])]
        assert [(each.name, each.aliases) for each in again if isinstance(each, ModelSnapshot)] == [
            ("mine", ("small",))
        ]
        default = [each async for each in hosted.host.load("embedded", ["usual"])]
        assert [each.aliases for each in default if isinstance(each, ModelSnapshot)] == [("usual",)]
        assert len(hosted.engines.made) == 2


async def test_names_and_aliases_mean_one_model_each(tmp_path: Path) -> None:
    mine = a_model(tmp_path / "mine")
    same_name = a_model(tmp_path / "other" / "mine")
    default_name = a_model(tmp_path / "penstock-tiny")
    like_alias = a_model(tmp_path / "small")
    async with hosting(aliases=(("usual", "penstock-tiny"),)) as hosted:
        await load(hosted.host, mine, ["small"])
        before = hosted.host.models()
        for source, aliases, field in (
            (same_name, [], "source"),
            (default_name, [], "source"),
            (like_alias, [], "source"),
            (mine, ["usual"], "aliases"),
            (mine, ["penstock-tiny"], "aliases"),
            ("embedded", ["small"], "aliases"),
            ("embedded", ["mine"], "aliases"),
        ):
            error = await refused_load(hosted.host, source, *aliases)
            assert (error.reason, error.field) == (Reason.MODEL_NAME_TAKEN, field), (source, aliases)
        for aliases in (["", "a"], [" a"], ["a\nb"], ["x" * 129], [str(n) for n in range(17)]):
            error = await refused_load(hosted.host, mine, *aliases)
            assert (error.reason, error.field) == (Reason.INVALID_REQUEST, "aliases")
        assert hosted.host.models() == before, "what is refused changes nothing"


async def test_a_source_that_is_no_model_is_named(tmp_path: Path) -> None:
    async with hosting() as hosted:
        for source in (str(tmp_path / "nothing"), str(tmp_path), ""):
            error = await refused_load(hosted.host, source)
            assert (error.reason, error.field) == (Reason.INVALID_REQUEST, "source")
            assert source in error.message
        assert list(hosted.engines.made) == ["embedded"]


async def test_a_model_that_fails_to_load_is_gone_and_may_be_loaded_again(tmp_path: Path) -> None:
    source = a_model(tmp_path / "mine")
    async with hosting(gated=True) as hosted:
        told = hosted.host.load(source, ["small"])
        await anext(told)
        hosted.engines.made[source].fail_to_load("cannot load the model: no tensor")
        with pytest.raises(EngineError, match="no tensor") as caught:
            await anext(told)
        assert caught.value.reason is Reason.MODEL_LOAD_FAILED
        assert hosted.engines.made[source].stopped
        assert hosted.states == {"penstock-tiny": "ready"}
        hosted.engines.gated = False
        await load(hosted.host, source, ["small"])
        assert hosted.host.hold("small").info.name == "mine"


async def test_configured_models_follow_and_failed_ones_are_shown(tmp_path: Path) -> None:
    good, bad, none = a_model(tmp_path / "good"), a_model(tmp_path / "bad"), str(tmp_path / "none")
    sources = (good, bad, none, "embedded")
    async with hosting(gated=True, load=sources, aliases=(("big", "bad"),)) as hosted:
        host = hosted.host
        assert hosted.states == {
            "penstock-tiny": "ready",
            "good": "loading",
            "bad": "loading",
            none: "failed",
        }
        await asyncio.sleep(0)
        hosted.engines.made[bad].fail_to_load("a broken file")
        hosted.engines.made[good].load()
        await eventually(lambda: hosted.states["bad"] == "failed" and hosted.states["good"] == "ready")
        shown = host.model("big")
        assert (shown.message, shown.source, shown.engine) == ("a broken file", bad, None)
        assert reason_of(lambda: host.hold("bad")) is Reason.MODEL_LOAD_FAILED
        assert await host.unload(none, now=False) == 0
        hosted.engines.gated = False
        assert (await load(host, bad)).aliases == ("big",)
        assert hosted.states == {"penstock-tiny": "ready", "good": "ready", "bad": "ready"}


async def test_unloading_waits_for_streams_and_takes_no_more(tmp_path: Path) -> None:
    source = a_model(tmp_path / "mine")
    async with hosting(aliases=(("kept", "mine"),)) as hosted:
        host = hosted.host
        await load(host, source, ["small"])
        holds = [host.hold("small") for _ in range(2)]
        unloading = asyncio.create_task(host.unload("small", now=False))
        await eventually(lambda: hosted.states["mine"] == "unloading")
        assert reason_of(lambda: host.hold("mine")) is Reason.MODEL_UNLOADED
        assert (await refused_load(host, source)).reason is Reason.MODEL_UNLOADED
        holds[0].release()
        holds[0].release()
        await asyncio.sleep(0)
        assert not hosted.engines.made[source].stopped
        holds[1].release()
        assert await unloading == 2
        assert hosted.engines.made[source].stopped
        assert hosted.states == {"penstock-tiny": "ready"}
        assert reason_of(lambda: host.hold("small")) is Reason.MODEL_NOT_FOUND
        assert (await load(host, source)).aliases == ("kept",)


async def test_unloading_goes_on_without_its_caller_and_now_cuts(tmp_path: Path) -> None:
    async with hosting() as hosted:
        host = hosted.host
        await load(host, a_model(tmp_path / "mine"))
        hold = host.hold("mine")
        hold.cut = hold.release
        waiting = asyncio.create_task(host.unload("mine", now=False))
        await eventually(lambda: hosted.states["mine"] == "unloading")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert hosted.states["mine"] == "unloading"
        assert await host.unload("mine", now=True) == 1
        assert "mine" not in hosted.states


async def test_a_model_can_be_unloaded_while_it_is_loaded(tmp_path: Path) -> None:
    source = a_model(tmp_path / "mine")
    async with hosting(gated=True) as hosted:
        told = hosted.host.load(source)
        await anext(told)
        # At once: its engine has not even begun to start.
        assert await hosted.host.unload("mine", now=False) == 0
        with pytest.raises(EngineError) as caught:
            await anext(told)
        assert caught.value.reason is Reason.MODEL_UNLOADED
        assert hosted.engines.made[source].stopped
        assert "mine" not in hosted.states


async def test_the_default_model_stays() -> None:
    async with hosting(aliases=(("usual", "penstock-tiny"),), idle_unload_s=5.0) as hosted:
        for name in ("", "penstock-tiny", "usual"):
            assert await refused_unload(hosted.host, name) is Reason.MODEL_IS_DEFAULT
        assert await refused_unload(hosted.host, "other") is Reason.MODEL_NOT_FOUND
        hosted.now_s += 100
        hosted.host.unload_idle()
        assert hosted.states == {"penstock-tiny": "ready"}


async def test_a_model_that_is_not_used_for_long_enough_is_unloaded(tmp_path: Path) -> None:
    async with hosting(idle_unload_s=60.0) as hosted:
        host = hosted.host
        await load(host, a_model(tmp_path / "used"))
        await load(host, a_model(tmp_path / "idle"))
        hosted.now_s += 30
        hold = host.hold("used")
        assert host.unload_idle() == 30
        hosted.now_s += 29
        assert host.unload_idle() == 1
        hosted.now_s += 1
        host.unload_idle()
        assert hosted.states["idle"] == "unloading"
        await eventually(lambda: "idle" not in hosted.states)
        hosted.now_s += 500
        host.unload_idle()
        assert hosted.states["used"] == "ready", "a stream has it"
        hold.release()
        assert host.unload_idle() == 60
        hosted.now_s += 60
        host.unload_idle()
        await eventually(lambda: "used" not in hosted.states)


async def test_idle_models_are_unloaded_without_being_asked(tmp_path: Path) -> None:
    async with hosting(idle_unload_s=0.02) as hosted:
        await load(hosted.host, a_model(tmp_path / "mine"))
        hosted.now_s += 1
        await eventually(lambda: "mine" not in hosted.states)


async def test_a_model_without_memory_for_it_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    first, second = a_model(tmp_path / "first"), a_model(tmp_path / "second", weights=100)
    async with hosting(gated=True, kv_bytes=1000) as hosted:
        hosted.available = WORKER_BYTES + 1000 + 64
        loading = asyncio.create_task(load(hosted.host, first))
        await eventually(lambda: "first" in hosted.states)
        assert hosted.host.model("first").memory_bytes == WORKER_BYTES + 1000 + 64
        hosted.available = 2 * (WORKER_BYTES + 1000) + 64 + 99
        error = await refused_load(hosted.host, second)
        assert error.reason is Reason.MODEL_MEMORY
        assert (second in hosted.engines.made, second in error.message) == (False, True)
        hosted.engines.made[first].load()
        await loading
        hosted.engines.gated = False
        # What is loaded has taken its memory: it is not promised any more.
        await load(hosted.host, second)


async def test_a_configured_maximum_counts_what_loaded_models_really_take(tmp_path: Path) -> None:
    source = a_model(tmp_path / "mine", weights=0)
    # The default model has 3.7 MB of weights.
    async with hosting(max_memory_bytes=2 * WORKER_BYTES + 2**22) as hosted:
        default = hosted.engines.made["embedded"]
        default.changes = {"rss_bytes": WORKER_BYTES + 2**22 + 1}
        assert (await refused_load(hosted.host, source)).reason is Reason.MODEL_MEMORY
        assert hosted.host.models()[0].memory_bytes == WORKER_BYTES + 2**22 + 1
        default.changes = {"rss_bytes": 1000}
        await load(hosted.host, source)


async def test_a_download_that_is_too_large_is_given_up_before_it_is_read() -> None:
    async with hosting(gated=True, max_memory_bytes=WORKER_BYTES) as hosted:
        told = hosted.host.load("nobody/nothing-of-this-name")
        await anext(told)
        engine = hosted.engines.made["nobody/nothing-of-this-name"]
        engine.loading = ("download", 0, 0)
        assert await anext(told) == LoadProgress("download", 0, 0)
        engine.loading = ("weights", 0, 64)
        with pytest.raises(EngineError) as caught:
            [each async for each in told]
        assert caught.value.reason is Reason.MODEL_MEMORY
        assert engine.stopped


async def test_all_engines_as_one(tmp_path: Path) -> None:
    source = a_model(tmp_path / "mine")
    async with hosting() as hosted:
        host, default = hosted.host, hosted.engines.made["embedded"]
        await load(host, source)
        default.changes = {"decode_steps": 5, "running_rows": 1, "kv_bytes": 7}
        hosted.engines.made[source].changes = {"decode_steps": 3, "running_rows": 2, "kv_bytes": 9}
        together = host.snapshot()
        counters = together.counters
        assert (counters.decode_steps, counters.running_rows, counters.kv_bytes) == (8, 3, 7)
        assert (together.model, len(together.workers)) == (default.snapshot().model, 2)
        default.die()
        assert host.snapshot().state is EngineState.DEAD
        host.check_ready()
        assert hosted.states == {"penstock-tiny": "loading", "mine": "ready"}
        hosted.engines.made[source].die()
        assert reason_of(host.check_ready) is Reason.MODEL_LOADING


async def test_a_server_that_drains_loads_no_more(tmp_path: Path) -> None:
    source = a_model(tmp_path / "mine")
    async with hosting(gated=True) as hosted:
        told = hosted.host.load(source)
        await anext(told)
        hosted.host.drain()
        with pytest.raises(EngineError) as caught:
            await anext(told)
        assert caught.value.reason is Reason.DRAINING
        assert (await refused_load(hosted.host, source)).reason is Reason.DRAINING


async def test_stopping_waits_for_nobody(tmp_path: Path) -> None:
    used, loading = a_model(tmp_path / "used"), a_model(tmp_path / "loading")
    async with hosting() as hosted:
        await load(hosted.host, used)
        hosted.host.hold("used")
        unloading = asyncio.create_task(hosted.host.unload("used", now=False))
        await eventually(lambda: hosted.states["used"] == "unloading")
        hosted.engines.gated = True
        told = hosted.host.load(loading)
        await anext(told)
        await hosted.host.stop()
        await asyncio.wait_for(unloading, 5)
        await hosted.host.stop()


async def test_a_host_of_one_model_loads_no_other(tmp_path: Path) -> None:
    engine = LoadedEngine("embedded", gated=False)
    host = ModelHost.of(engine)
    await host.start()
    assert (await refused_load(host, a_model(tmp_path / "mine"))).reason is Reason.NOT_IMPLEMENTED
    assert [model.name for model in host.models()] == ["penstock-tiny"]
    await host.stop()
