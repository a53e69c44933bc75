"""`penstock canary`, run as a user runs it: as a process, against a server in this one."""

import json

import pytest

from flowcontrol.features import CANARY, CONTROL, FeatureName, FeatureState
from penstock.v1 import feature_pb2 as pb
from service.cli_canary import state_name
from service.rollout import Rollout
from tests.client.commands import Penstock
from tests.service.drivers import scripted_engine
from tests.service.feature_subjects import canary, rollout_options
from tests.service.servers import LocalServer, serving

IN_CANARY = rollout_options({FeatureName.POOLING: canary(10.0, "acme")})


def run_streams(rollout: Rollout) -> None:
    for arm, ttft_s in ((CONTROL, 0.2), (CANARY, 0.6)):
        for number in range(20):
            rollout.comparison.first_token(arm, ttft_s)
            rollout.comparison.gaps(arm, [0.02])
            rollout.comparison.ended(arm, infrastructure=number == 0, token_s=0.02)


def command(local: LocalServer) -> Penstock:
    return Penstock(local.address)


async def test_a_table_of_features_and_the_arms_beside_each_other() -> None:
    async with serving(scripted_engine(), rollout=IN_CANARY) as local:
        run_streams(local.server.rollout)
        result = await command(local)("canary", "status")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[:2] for line in lines[1:6]] == [
        ["adaptive_limits", "on"],
        ["coalescing", "on"],
        ["pooling", "canary"],
        ["prefix_cache", "on"],
        ["speculation", "on"],
    ]
    assert lines[3].split()[2:] == ["10", "%", "acme", "-"]
    rows = {line[:15].strip(): line[15:].split() for line in lines[8:] if line[:15].strip()}
    assert "pooling: worse: time to first token p50" in result.out
    assert rows["Streams ended"] == ["20", "20"]
    assert rows["Failed"] == ["1", "(5.0%)", "1", "(5.0%)"]
    control_ms, _, canary_ms, _ = rows["First token p50"]
    assert float(control_ms) == pytest.approx(200, rel=0.011)
    assert float(canary_ms) == pytest.approx(600, rel=0.011)


async def test_arms_without_streams() -> None:
    async with serving(scripted_engine(), rollout=IN_CANARY) as local:
        result = await command(local)("canary", "status")
    assert "pooling: too few samples" in result.out
    assert result.out.splitlines()[-1].split() == ["Failed", "0", "0"]


async def test_start_promote_and_roll_back() -> None:
    async with serving(scripted_engine()) as local:
        penstock, table = command(local), local.server.rollout.table
        begun = await penstock("canary", "start", "coalescing", "--percent", "5", "--note", "to see")
        assert (begun.code, begun.err) == (0, "")
        assert begun.out.splitlines()[1].split() == ["coalescing", "canary", "5", "%", "-", "to", "see"]
        assert table.canary is FeatureName.COALESCING
        promoted = await penstock("canary", "promote", "coalescing")
        assert "promoted by an operator" in promoted.out
        assert table.state(FeatureName.COALESCING) is FeatureState.ON
        rolled_back = await penstock("canary", "rollback", "coalescing", "--note", "too slow")
        assert "rolled back" in rolled_back.out
        assert table.state(FeatureName.COALESCING) is FeatureState.ROLLED_BACK


async def test_json() -> None:
    async with serving(scripted_engine(), rollout=IN_CANARY) as local:
        shown = json.loads((await command(local)("canary", "status", "--json")).out)
        answer = json.loads((await command(local)("canary", "rollback", "pooling", "--json")).out)
    assert [feature["name"] for feature in shown["features"]] == [name.value for name in FeatureName]
    assert shown["features"][2]["comparison"]["verdict"] == "too few samples"
    assert answer["feature"]["state"] == "FEATURE_STATE_ROLLED_BACK"


async def test_refusals_name_what_is_wrong() -> None:
    async with serving(scripted_engine(), rollout=IN_CANARY) as local:
        penstock = command(local)
        second = await penstock("canary", "start", "coalescing", "--percent", "5")
        unknown = await penstock("canary", "promote", "poling")
        percent = await penstock("canary", "start", "pooling", "--percent", "100")
    assert (second.code, second.out) == (1, "")
    text = "coalescing cannot be in canary while pooling is: arms could not be told apart (CANARY_RUNNING)"
    assert second.err == f"penstock: {text}\n"
    assert (unknown.code, percent.code) == (2, 2)
    assert 'name: got "poling"; allowed: adaptive_limits, coalescing' in unknown.err
    assert "canary_percent: got 100; allowed: above 0 and below 100" in percent.err


def test_a_state_that_this_version_does_not_know() -> None:
    assert state_name(pb.Feature(state=17)) == "state 17"  # type: ignore[arg-type]
    assert state_name(pb.Feature(state=pb.FEATURE_STATE_ROLLED_BACK)) == "rolled back"
