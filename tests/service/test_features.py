"""FeatureService: what it shows, what it takes, and what it refuses without changing anything."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from flowcontrol.features import CANARY, CONTROL, FeatureName, FeatureState
from penstock.v1 import feature_pb2 as pb
from penstock.v1.feature_pb2_grpc import FeatureServiceStub
from service.features import STATES, FeatureServicer
from service.options import RolloutOptions
from service.rollout import Rollout
from tests.service.admission_subjects import a_governor
from tests.service.drivers import Clock, scripted_engine
from tests.service.elsewhere import AbortedError, CallFrom
from tests.service.feature_subjects import OFF, ROLLOUT, canary, rollout_options
from tests.service.refusals import Refusal, refusal
from tests.service.servers import serving

IN_CANARY = rollout_options({FeatureName.POOLING: canary(10.0, "zeta", "acme")})
NAMES = "adaptive_limits, coalescing, pooling, prefix_cache, speculation"


@dataclass(frozen=True)
class FeatureServer:
    """stub: untyped, since asynchronous stubs exist for type checkers only."""

    stub: Any
    rollout: Rollout
    address: str

    async def features(self) -> dict[str, pb.Feature]:
        response = await self.stub.ListFeatures(pb.ListFeaturesRequest())
        return {feature.name: feature for feature in response.features}

    async def update(self, name: str, **fields: Any) -> pb.Feature:
        response = await self.stub.UpdateFeature(pb.UpdateFeatureRequest(name=name, **fields))
        assert isinstance(response.feature, pb.Feature)
        return response.feature

    async def refused(self, name: str, **fields: Any) -> Refusal:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.update(name, **fields)
        return refusal(caught.value)


@asynccontextmanager
async def serving_features(options: RolloutOptions = ROLLOUT) -> AsyncIterator[FeatureServer]:
    async with serving(scripted_engine(), rollout=options) as local:
        stub = FeatureServiceStub(local.stubs.channel)
        yield FeatureServer(stub, local.server.rollout, local.address)


async def test_every_feature_is_listed_in_the_order_of_the_names() -> None:
    async with serving_features(IN_CANARY) as server:
        listed = await server.features()
    assert ", ".join(listed) == NAMES
    pooling = listed.pop("pooling")
    assert (pooling.state, pooling.canary_percent) == (pb.FEATURE_STATE_CANARY, 10.0)
    assert (list(pooling.tenants), pooling.reason) == (["acme", "zeta"], "")
    assert pooling.comparison.verdict == "too few samples"
    assert not pooling.comparison.control.HasField("ttft_p50_ms")
    assert {feature.state for feature in listed.values()} == {pb.FEATURE_STATE_ON}
    assert not any(feature.HasField("comparison") for feature in listed.values())


async def test_the_arms_are_shown_in_milliseconds() -> None:
    async with serving_features(IN_CANARY) as server:
        arms = server.rollout.comparison
        for arm, ttft_s, streams in ((CONTROL, 0.2, 40), (CANARY, 0.6, 20)):
            for number in range(streams):
                arms.first_token(arm, ttft_s)
                arms.gaps(arm, [0.02, 0.02])
                arms.ended(arm, infrastructure=number == 0, token_s=0.02)
        shown = (await server.features())["pooling"].comparison
    assert (shown.control.streams, shown.control.failed, shown.canary.streams) == (40, 1, 20)
    assert shown.control.ttft_p50_ms == pytest.approx(200, rel=0.011)
    assert shown.canary.ttft_p95_ms == pytest.approx(600, rel=0.011)
    assert shown.canary.inter_token_p95_ms == pytest.approx(20, rel=0.011)
    assert shown.verdict.startswith("worse: time to first token p50 ")


async def test_status_shows_the_same() -> None:
    async with serving(scripted_engine(), rollout=IN_CANARY) as local:
        stub: Any = FeatureServiceStub(local.stubs.channel)
        listed = await stub.ListFeatures(pb.ListFeaturesRequest())
        assert list((await local.stubs.status()).features) == list(listed.features)


async def test_a_canary_is_begun_promoted_and_rolled_back() -> None:
    async with serving_features(rollout_options({FeatureName.COALESCING: OFF})) as server:
        begun = await server.update("coalescing", canary_percent=2.5)
        assert (begun.state, begun.canary_percent) == (pb.FEATURE_STATE_CANARY, 2.5)
        assert begun.reason == "canary of 2.5 % begun by an operator"
        assert begun.HasField("comparison")
        promoted = await server.update("coalescing", promote=pb.Promote(), note="all is well")
        assert (promoted.state, promoted.canary_percent) == (pb.FEATURE_STATE_ON, 0.0)
        assert (promoted.reason, promoted.HasField("comparison")) == ("all is well", False)
        rolled_back = await server.update("coalescing", roll_back=pb.RollBack())
        assert rolled_back.state == pb.FEATURE_STATE_ROLLED_BACK
        assert rolled_back.reason == "rolled back by an operator"
        assert (await server.features())["coalescing"] == rolled_back


async def test_a_second_canary_is_refused_with_the_reason() -> None:
    async with serving_features(IN_CANARY) as server:
        before = await server.features()
        found = await server.refused("coalescing", canary_percent=5)
        assert (found.code, found.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CANARY_RUNNING")
        assert "while pooling is" in found.message
        assert await server.features() == before
        await server.update("pooling", promote=pb.Promote())
        assert (await server.update("coalescing", canary_percent=5)).state == pb.FEATURE_STATE_CANARY


@pytest.mark.parametrize("percent", [0, -1, 100, 1e9, float("nan")])
async def test_every_violation_is_told_at_once_and_nothing_is_changed(percent: float) -> None:
    async with serving_features() as server:
        before = await server.features()
        with capture_logs() as logs:
            found = await server.refused("nothing", canary_percent=percent, note="x" * 257)
        assert await server.features() == before
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert found.violations == {
        "name": f'got "nothing"; allowed: {NAMES}',
        "canary_percent": f"got {percent:g}; allowed: above 0 and below 100",
        "note": "got 257 characters; allowed: at most 256",
    }
    assert logs == []


async def test_a_change_of_nothing_is_refused() -> None:
    async with serving_features() as server:
        found = await server.refused("pooling", note="for nothing")
    text = "nothing to change; allowed: one of promote, roll_back, canary_percent"
    assert found.violations == {"change": text}


async def test_adaptive_limits_have_no_canary() -> None:
    async with serving_features() as server:
        found = await server.refused("adaptive_limits", canary_percent=5)
        assert found.violations.keys() == {"canary_percent"}
        assert "all streams share one limit" in found.message
        rolled_back = await server.update("adaptive_limits", roll_back=pb.RollBack())
        assert rolled_back.state == pb.FEATURE_STATE_ROLLED_BACK


async def test_each_change_leaves_one_line_in_the_log() -> None:
    async with serving_features(IN_CANARY) as server:
        with capture_logs() as logs:
            await server.features()
            await server.update("pooling", roll_back=pb.RollBack(), note="before the holidays")
    [line] = logs
    assert line.pop("peer").startswith("ipv4:127.0.0.1:")
    assert line == {
        "event": "feature changed",
        "log_level": "info",
        "note": "before the holidays",
        "feature": "pooling",
        "before": {"state": "canary", "canary_percent": 10.0},
        "after": {"state": "rolled_back", "canary_percent": 0.0},
    }


@pytest.mark.parametrize("remote_control", [False, True])
async def test_another_machine_changes_features_only_when_that_is_allowed(remote_control: bool) -> None:
    rollout = Rollout(ROLLOUT, a_governor(), lambda: None, Clock())
    servicer: Any = FeatureServicer(rollout, remote_control=remote_control)
    call = CallFrom("ipv4:192.0.2.7:50000")
    assert len((await servicer.ListFeatures(pb.ListFeaturesRequest(), call)).features) == len(FeatureName)
    request = pb.UpdateFeatureRequest(name="pooling", roll_back=pb.RollBack())
    if remote_control:
        await servicer.UpdateFeature(request, call)
        assert rollout.table.state(FeatureName.POOLING) is FeatureState.ROLLED_BACK
        return
    with pytest.raises(AbortedError) as caught:
        await servicer.UpdateFeature(request, call)
    assert caught.value.code is grpc.StatusCode.PERMISSION_DENIED
    assert caught.value.info.reason == "NOT_ALLOWED"
    assert rollout.table.state(FeatureName.POOLING) is FeatureState.ON


def test_every_state_has_a_number() -> None:
    assert set(STATES.values()) == set(pb.FeatureState.values()) - {pb.FEATURE_STATE_UNSPECIFIED}
